"""Weights that move from layer to layer.

Sparse momentum, SNFS (Dettmers & Zettlemoyer, 2019), and dynamic sparse
reparameterization, DSR (Mostafa & Wang, 2019). Both keep the number of weights
of the whole network.
"""

import numpy as np

from oracles import growth, prune_and_regrow, ranking, schedules
from oracles.network import sparse_leaves

NEARLY_DENSE = 0.2  # A sparsity below which SNFS drops with care.


# Sparse momentum


def momentum_shares(leaves, buffers):
  """The mean |buf| over each layer's active weights, to sum to 1.

  Means are float64 of the float32 values; a layer without active weights has
  0. If all means are 0, all shares are equal.
  """
  means = [
    float(np.abs(buffers[leaf.index])[leaf.mask].astype(np.float64).mean())
    if leaf.active
    else 0.0
    for leaf in leaves
  ]
  total = sum(means)
  if total == 0.0:
    return [1.0 / len(means)] * len(means)
  return [mean / total for mean in means]


def careful_fraction(leaf, share, layers, fraction):
  """A layer that is nearly dense and matters loses at most its sparsity."""
  sparsity = (leaf.size - leaf.active) / leaf.size
  if sparsity < NEARLY_DENSE and share > 1.0 / layers:
    return min(sparsity, fraction)
  return fraction


def share_regrowth(shares, total, free):
  """How many weights each layer regrows: `total` in all, by its share.

  The paper rounds up, which may sum above the total, caps, which may sum
  below, and says no more; this is the rule, layers in tree order:

  1. Each layer gets the lower of ceil_tol(share x total) and its cap,
     floor_tol(0.99 x free).
  2. While the counts sum above the total, layers give back one each, from the
     last layer to the first and then from the last again; one that has
     nothing is passed over.
  3. While they sum below, what is missing is spread equally over the n layers
     that are below their caps: each gets missing // n, the first missing % n
     of them one more, none more than up to its cap.
  4. Where 3 ends because all layers are at their caps, caps become `free`, and
     3 goes on. As what was dropped is free, that always places all.

  Args:
    shares: float64 per layer, summing to 1.
    total: R, how many weights were dropped in all.
    free: inactive positions per layer after the drop.

  Returns:
    Counts per layer that sum to min(total, sum of free).
  """
  caps = [ranking.floor_tol(0.99 * slots) for slots in free]
  counts = [
    min(ranking.ceil_tol(share * total), cap)
    for share, cap in zip(shares, caps, strict=True)
  ]
  while sum(counts) > total:
    for layer in reversed(range(len(counts))):
      if counts[layer] > 0 and sum(counts) > total:
        counts[layer] -= 1
  for limits in [caps, free]:
    _spread_equally(counts, total, limits)
  return counts


def _spread_equally(counts, total, limits):
  while sum(counts) < total:
    layers = [i for i in range(len(counts)) if counts[i] < limits[i]]
    if not layers:
      return
    each, more = divmod(total - sum(counts), len(layers))
    for place, layer in enumerate(layers):
      gets = each + 1 if place < more else each
      counts[layer] = min(counts[layer] + gets, limits[layer])


def snfs(*, every, total_steps, first_fraction, last_fraction, mu=0.9, key):
  """Drops by magnitude, shares out and grows by the dense momentum.

  In each layer ceil_tol(r(t) a_l) smallest magnitudes leave; the largest |buf|
  among all that is then inactive grow, the just dropped included, which keep
  value and statistics as in RigL. The inner optimizer sees the gradient where
  a mask is on, as for any method; the dense momentum is a memory beside it.
  """
  momentum = growth.DenseMomentum(mu)
  grow = momentum.grow_by(key)

  def due(t):
    return t % every == 0 and 0 < t <= total_steps

  def move(leaves, gradients, t):
    del gradients
    layers = sparse_leaves(leaves)
    fraction = schedules.cosine_with_floor(
      first_fraction, last_fraction, t, total_steps
    )
    shares = momentum_shares(layers, momentum.buffers)
    lost = [
      ranking.ceil_tol(
        careful_fraction(leaf, share, len(layers), fraction) * leaf.active
      )
      for leaf, share in zip(layers, shares, strict=True)
    ]
    kept = [
      prune_and_regrow.prune_smallest(leaf, count, leaf.mask)
      for leaf, count in zip(layers, lost, strict=True)
    ]
    counts = share_regrowth(shares, sum(lost), [int((~k).sum()) for k in kept])
    for leaf, stays, count in zip(layers, kept, counts, strict=True):
      leaf.mask = stays | grow(leaf, count, ~stays, t)

  return [momentum.event, (due, move)]


# Dynamic sparse reparameterization


def share_by_survivors(survivors, total, free):
  """How many weights each layer grows: in proportion to what survived.

  The total is split by largest remainder over total x survivors / sum of
  survivors, equal remainders to the earlier layer; no layer takes more than
  its free positions. What does not fit is split again, by the same rule, over
  the layers that have room, until it fits or nothing has room.
  """
  counts = [0] * len(survivors)
  while True:
    missing = total - sum(counts)
    layers = [
      i for i in range(len(counts)) if counts[i] < free[i] and survivors[i] > 0
    ]
    if missing == 0 or not layers:
      return counts
    together = sum(survivors[i] for i in layers)
    # In integers: a whole part, and a remainder over the same denominator.
    parts = {i: divmod(missing * survivors[i], together) for i in layers}
    left = missing - sum(whole for whole, _ in parts.values())
    by_remainder = sorted(layers, key=lambda i: -parts[i][1])
    for i in layers:
      gets = parts[i][0] + (1 if i in by_remainder[:left] else 0)
      counts[i] = min(counts[i] + gets, free[i])


class Threshold:
  """DSR's one number for the whole network, float32; doubled and halved."""

  def __init__(self, first=1e-3):
    self.value = np.float32(first)

  def follow(self, pruned, target):
    """After a prune: too many lower the threshold, too few raise it."""
    if pruned > 1.1 * target:
      self.value = self.value / np.float32(2)
    elif pruned < 0.9 * target:
      self.value = self.value * np.float32(2)


def dsr(*, every, end_step, target, key, threshold=None):
  """Prunes below one threshold, grows at random where much survived.

  Every active |weight| below the threshold leaves, but a layer keeps at least
  its largest one. What grows excludes what was just pruned, and starts at
  zero.
  """
  threshold = threshold or Threshold()
  grow = growth.at_random(key)

  def due(t):
    return t % every == 0 and 0 < t <= end_step

  def move(leaves, gradients, t):
    del gradients
    layers = sparse_leaves(leaves)
    kept = [_survivors(leaf, threshold.value) for leaf in layers]
    survivors = [int(k.sum()) for k in kept]
    pruned = sum(leaf.active for leaf in layers) - sum(survivors)
    threshold.follow(pruned, target)
    counts = share_by_survivors(
      survivors, pruned, [leaf.size - leaf.active for leaf in layers]
    )
    for leaf, stays, count in zip(layers, kept, counts, strict=True):
      leaf.mask = stays | grow(leaf, count, ~leaf.mask, t)

  return [(due, move)]


def _survivors(leaf, threshold):
  below = leaf.mask & (np.abs(leaf.weights) < threshold)
  lost = min(int(below.sum()), max(leaf.active - 1, 0))
  return prune_and_regrow.prune_smallest(leaf, lost, leaf.mask)
