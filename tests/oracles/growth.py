"""Growth criteria of SET's descendants, and in-time over-parameterization.

From Scholte (2022), Liu et al. (2021a) and Dettmers & Zettlemoyer (2019). A
criterion is a function `grow(leaf, count, valid, t)` that returns the mask of
`count` positions among `valid`, or of all if there are fewer; `leaf.mask` is
still the mask before the update.
"""

import numpy as np

from oracles import prune_and_regrow, ranking, schedules
from oracles.network import sparse_leaves

ROUNDS = 8  # Beyond this many rings, neighbors no longer matter.


def at_random(key):
  """SET: uniformly at random, highest bits first."""

  def grow(leaf, count, valid, t):
    bits = prune_and_regrow.regrow_bits(leaf, key, t)
    return ranking.grow_at_random(count, valid, bits)

  return grow


# By active neighbors


def neighbor_counts(active):
  """Counts the active ones of the eight neighbors in a bool[rows, columns].

  Neighbors outside the array are inactive; there is no wrap-around.
  """
  rows, columns = active.shape
  counts = np.zeros(active.shape, int)
  for i in range(rows):
    for j in range(columns):
      box = active[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
      counts[i, j] = int(box.sum()) - int(active[i, j])
  return counts


def rings(active):
  """8 next to an active entry, 7 one ring further out, ... 1, then 0.

  Each round reaches all inactive entries with at least one active neighbor and
  counts them as active in the next. Entries that are active from the start, or
  out of reach after 8 rounds, are 0.
  """
  levels = np.zeros(active.shape, int)
  reached = active.copy()
  for level in range(ROUNDS, 0, -1):
    ring = ~reached & (neighbor_counts(reached) > 0)
    levels[ring] = level
    reached |= ring
  return levels


def by_plane(function, mask, plane):
  """Applies a function of bool[rows, columns] to every plane of a kernel.

  Args:
    function: returns an int array of the same shape.
    mask: bool array with two or more dimensions, (..., in, out).
    plane: "io", the last two axes, for each spatial position; "hw", the first
      two axes, for each pair of input and output; or "flat", all but the last
      axis as rows.

  Returns:
    An int array of the mask's shape.
  """
  if plane == "flat":
    return function(mask.reshape(-1, mask.shape[-1])).reshape(mask.shape)
  axes = {"io": (-2, -1), "hw": (0, 1)}[plane]
  moved = np.moveaxis(mask, axes, (-2, -1))
  planes = moved.reshape(-1, *moved.shape[-2:])
  result = np.stack([function(p) for p in planes]).reshape(moved.shape)
  return np.moveaxis(result, (-2, -1), axes)


def neighbor_ranks(mask, function, plane, bits):
  """Ranks by `function` of the mask, ties at random.

  `rings` is regrowth next to one active neighbor: all of round 1 before any of
  round 2. `neighbor_counts` is regrowth by most active neighbors. The rank is
  (value << 28) | (bits >> 4).
  """
  values = by_plane(function, mask, plane).astype(np.uint64)
  return values << 28 | bits.astype(np.uint64) >> 4


def by_neighbors(key, function, plane="io"):
  """The highest ranks on the mask after pruning; ties to the lower index."""

  def grow(leaf, count, valid, t):
    bits = prune_and_regrow.regrow_bits(leaf, key, t)
    ranks = neighbor_ranks(~valid, function, plane, bits)
    return ranking.keep_top_in(ranks, count, valid)

  return grow


# By history


def never_active_first(key):
  """ITOP's random_unfired: first the never active, then the rest, at random.

  The rank is (never active << 31) | (bits >> 1). The initial masks and all
  masks after an update count as active, so what this update prunes has been
  active.
  """
  ever = {}

  def grow(leaf, count, valid, t):
    # Masks change only here, so the mask before completes the union.
    ever[leaf.index] = ever.get(leaf.index, False) | leaf.mask
    bits = prune_and_regrow.regrow_bits(leaf, key, t).astype(np.uint64)
    ranks = (~ever[leaf.index]).astype(np.uint64) << 31 | bits >> 1
    return ranking.keep_top_in(ranks, count, valid)

  return grow


class DenseMomentum:
  """Sparse momentum's accumulator: buf = mu buf + G at every position.

  It is never masked or reset. The gradient of a step is added before a mask
  update of the same step reads it.
  """

  def __init__(self, mu=0.9):
    self.mu = np.float32(mu)
    self.buffers = {}

  def accumulate(self, leaves, gradients, t):
    del t
    for leaf in sparse_leaves(leaves):
      gradient = gradients[leaf.index]
      before = self.buffers.get(leaf.index, np.zeros_like(gradient))
      self.buffers[leaf.index] = self.mu * before + gradient

  @property
  def event(self):
    """Accumulates in every step; goes before the events that read it."""
    return (lambda t: True, self.accumulate)

  def grow_by(self, key):
    """The largest |buf|; positions with 0 come last, at random."""

    def grow(leaf, count, valid, t):
      bits = prune_and_regrow.regrow_bits(leaf, key, t)
      return ranking.grow_by_gradient(
        self.buffers[leaf.index], count, valid, bits
      )

    return grow


# In-time over-parameterization with any criterion


def itop(*, every, total_steps, first_fraction, last_fraction, grow):
  """ITOP with a cosine fraction per layer; SET-ITOP if `grow` is `at_random`.

  Prunes the ceil_tol(r(t) a_l) smallest magnitudes and regrows as many. A
  weight pruned and regrown in the same update keeps its value and optimizer
  state; other regrown weights start at zero. Updates continue to the end of
  training.
  """

  def due(t):
    return t % every == 0 and 0 < t <= total_steps

  def update(leaves, gradients, t):
    del gradients
    fraction = schedules.cosine_with_floor(
      first_fraction, last_fraction, t, total_steps
    )
    for leaf in sparse_leaves(leaves):
      count = ranking.ceil_tol(fraction * leaf.active)
      kept = prune_and_regrow.prune_smallest(leaf, count, leaf.mask)
      leaf.mask = kept | grow(leaf, count, ~kept, t)

  return [(due, update)]
