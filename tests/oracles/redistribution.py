"""Redistribution of weights between layers.

Sparse momentum, SNFS (Dettmers & Zettlemoyer, 2019), and dynamic sparse
reparameterization, DSR (Mostafa & Wang, 2019). Both keep the total
number of weights constant.
"""

import numpy as np

from oracles import growth, prune_and_regrow, ranking, schedules
from oracles.network import sparse_leaves

NEARLY_DENSE = 0.2  # Below this sparsity SNFS limits pruning.


# Sparse momentum


def momentum_shares(leaves, buffers):
  """The mean |buf| over each layer's active weights, normalized to sum to 1.

  Means are float64 over float32 values, and 0 for a layer without active
  weights. If all means are 0, all shares are equal.
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
  """Prunes at most the sparsity of a nearly dense layer with a large share."""
  sparsity = (leaf.size - leaf.active) / leaf.size
  if sparsity < NEARLY_DENSE and share > 1.0 / layers:
    return min(sparsity, fraction)
  return fraction


def share_regrowth(shares, total, free):
  """Regrowth counts per layer: `total` overall, in proportion to the shares.

  The paper rounds up, so the sum may exceed the total, and caps, so it may fall
  short, without further rules. Ours, with layers in tree order:

  1. Each layer gets min(ceil_tol(share x total), its cap), where the cap is
     floor_tol(0.99 x free).
  2. While the sum exceeds the total, each nonzero count is decremented by one,
     from the last layer to the first, repeatedly.
  3. While it falls short, the missing weights are spread equally over the n
     layers below their caps: each gets missing // n, the first missing % n of
     them one more, up to its cap.
  4. If all layers are at their caps, caps become `free` and step 3 repeats.
     Since pruned positions are free, that places all weights.

  Args:
    shares: float64 per layer, summing to 1.
    total: R, the total number of pruned weights.
    free: inactive positions per layer after pruning.

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


def snfs(*, every, total_steps, first_fraction, last_fraction, key):
  """Prunes by magnitude, redistributes and regrows by the optimizer's momentum.

  Prunes the ceil_tol(r(t) a_l) smallest magnitudes per layer, then regrows the
  largest |buf| among all inactive weights. Just pruned ones may regrow and then
  keep their value, as in RigL. For `training.StepDenseThenUpdate`, whose
  momentum is dense. No mask is updated after the last epoch.
  """

  def due(t):
    return t % every == 0 and 0 < t < total_steps

  return [(due, _mover(total_steps, first_fraction, last_fraction, key))]


def snfs_with_own_momentum(
  *, every, total_steps, first_fraction, last_fraction, mu, key
):
  """As `snfs`, with a momentum next to the optimizer, which is masked."""
  momentum = growth.DenseMomentum(mu)

  def due(t):
    return t % every == 0 and 0 < t < total_steps

  move = _mover(
    total_steps, first_fraction, last_fraction, key, lambda: momentum.buffers
  )
  return [momentum.event, (due, move)]


def _mover(total_steps, first_fraction, last_fraction, key, buffers_of=None):
  momentum = growth.DenseMomentum()
  grow = momentum.grow_by(key)

  def move(leaves, gradients, t):
    del gradients
    layers = sparse_leaves(leaves)
    momentum.buffers = (
      {leaf.index: leaf.inner_value("trace") for leaf in layers}
      if buffers_of is None
      else buffers_of()
    )
    fraction = schedules.cosine_with_floor(
      first_fraction, last_fraction, t, total_steps
    )
    shares = momentum_shares(layers, momentum.buffers)
    pruned = [
      ranking.ceil_tol(
        careful_fraction(leaf, share, len(layers), fraction) * leaf.active
      )
      for leaf, share in zip(layers, shares, strict=True)
    ]
    kept = [
      prune_and_regrow.prune_smallest(leaf, count, leaf.mask)
      for leaf, count in zip(layers, pruned, strict=True)
    ]
    counts = share_regrowth(
      shares, sum(pruned), [int((~k).sum()) for k in kept]
    )
    for leaf, stays, count in zip(layers, kept, counts, strict=True):
      leaf.mask = stays | grow(leaf, count, ~stays, t)

  return move


# Dynamic sparse reparameterization


def share_by_survivors(survivors, total, free):
  """Regrowth counts per layer, in proportion to the surviving weights.

  The total is split by largest remainder of total x survivors / sum of
  survivors, ties to the lower layer, up to the free positions of each layer.
  What does not fit is split again over the layers with free positions, by the
  same rule, until it fits or no layer is left.
  """
  counts = [0] * len(survivors)
  while True:
    missing = total - sum(counts)
    layers = [
      i for i in range(len(counts)) if counts[i] < free[i] and survivors[i] > 0
    ]
    if missing == 0 or not layers:
      return counts
    denominator = sum(survivors[i] for i in layers)
    # In integers: quotient and remainder, over the same denominator.
    parts = {i: divmod(missing * survivors[i], denominator) for i in layers}
    left = missing - sum(whole for whole, _ in parts.values())
    by_remainder = sorted(layers, key=lambda i: -parts[i][1])
    for i in layers:
      gets = parts[i][0] + (1 if i in by_remainder[:left] else 0)
      counts[i] = min(counts[i] + gets, free[i])


class Threshold:
  """DSR's float32 threshold of the whole network, doubled or halved."""

  def __init__(self, first=1e-3):
    self.value = np.float32(first)

  def follow(self, pruned, target):
    """Lowers the threshold if too many weights were pruned, else raises it."""
    if pruned > 1.1 * target:
      self.value = self.value / np.float32(2)
    elif pruned < 0.9 * target:
      self.value = self.value * np.float32(2)


def dsr(*, every, end_step, target, key, threshold=None):
  """Prunes below a global threshold, regrows at random by surviving weights.

  Prunes every active weight with a magnitude below the threshold, except for
  the largest of each layer. Just pruned weights do not regrow; regrown ones
  start at zero.
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
  pruned = min(int(below.sum()), max(leaf.active - 1, 0))
  return prune_and_regrow.prune_smallest(leaf, pruned, leaf.mask)
