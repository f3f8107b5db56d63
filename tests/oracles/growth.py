"""Which inactive weights grow, and in-time over-parameterization by them.

Selectors that SET's descendants tried (Scholte, 2022; Liu et al., 2021a;
Dettmers & Zettlemoyer, 2019). A selector is a function
`grow(leaf, count, valid, t)` that returns the mask of `count` positions among
`valid`, or all of them where there are fewer; `leaf.mask` is still the mask
from before the mask update.
"""

import numpy as np

from oracles import prune_and_regrow, ranking, schedules
from oracles.network import sparse_leaves

ROUNDS = 8  # After so many rings the rest is drawn without regard to neighbors.


def at_random(key):
  """SET: uniformly, the highest draws first."""

  def grow(leaf, count, valid, t):
    bits = prune_and_regrow.regrow_bits(leaf, key, t)
    return ranking.grow_at_random(count, valid, bits)

  return grow


# By active neighbors


def neighbor_counts(active):
  """Active ones among the eight around each entry of a bool[rows, columns].

  What lies outside counts as inactive; there is no wrap-around.
  """
  rows, columns = active.shape
  counts = np.zeros(active.shape, int)
  for i in range(rows):
    for j in range(columns):
      box = active[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
      counts[i, j] = int(box.sum()) - int(active[i, j])
  return counts


def rings(active):
  """8 where an active neighbor touches, 7 one ring further, ... 1, then 0.

  Each round takes all inactive entries with at least one active neighbor and
  counts them as active in the next. Entries that are active from the start,
  and those that 8 rounds do not reach, are 0.
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
    function: returns an int array of its argument's shape.
    mask: bool array with two or more dimensions, (..., in, out).
    plane: "io", the last two axes, for each spatial tap; "hw", the first two
      axes, for each pair of input and output; or "flat", all but the last
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
  """The higher `function` of the mask first, equal ones at random.

  `rings` gives regrowth by one active neighbor: all of round 1 before any of
  round 2. `neighbor_counts` gives regrowth by most active neighbors. The
  rank is (value << 28) | (bits >> 4).
  """
  values = by_plane(function, mask, plane).astype(np.uint64)
  return values << 28 | bits.astype(np.uint64) >> 4


def by_neighbors(key, function, plane="io"):
  """The highest ranks on the mask after removal; equal ones by lower index."""

  def grow(leaf, count, valid, t):
    bits = prune_and_regrow.regrow_bits(leaf, key, t)
    ranks = neighbor_ranks(~valid, function, plane, bits)
    return ranking.keep_top_in(ranks, count, valid)

  return grow


# By what has been


def never_active_first(key):
  """ITOP's random_unfired: who was never active, then the rest, at random.

  The rank is (never active << 31) | (bits >> 1). The first masks and all masks
  after an update count as active; what this update removes has been active.
  """
  ever = {}

  def grow(leaf, count, valid, t):
    # Masks change here alone, so the mask from before completes the union.
    ever[leaf.index] = ever.get(leaf.index, False) | leaf.mask
    bits = prune_and_regrow.regrow_bits(leaf, key, t).astype(np.uint64)
    ranks = (~ever[leaf.index]).astype(np.uint64) << 31 | bits >> 1
    return ranking.keep_top_in(ranks, count, valid)

  return grow


class DenseMomentum:
  """Sparse momentum's memory: buf = mu buf + G at every position.

  Nothing masks or resets it. It takes in the gradient of a step before a mask
  update of the same step looks at it.
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
    """Accumulates in every step; stands before the events that read it."""
    return (lambda t: True, self.accumulate)

  def grow_by(self, key):
    """The largest |buf|; where it is 0, at random and last."""

    def grow(leaf, count, valid, t):
      bits = prune_and_regrow.regrow_bits(leaf, key, t)
      return ranking.grow_by_gradient(
        self.buffers[leaf.index], count, valid, bits
      )

    return grow


# In-time over-parameterization with any selector


def itop(*, every, total_steps, first_fraction, last_fraction, grow):
  """SET-ITOP where `grow` is `at_random`: a cosine share of each layer.

  ceil_tol(r(t) a_l) smallest magnitudes leave, as many grow; what leaves and
  grows in the same update keeps its value and statistics, the rest of what
  grows starts at zero. It goes on to the end of training.
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
