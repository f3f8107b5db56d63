"""Dynamic sparse training: prune some active weights, regrow as many.

RigL (Evci et al., 2020), ITOP (Liu et al., 2021a), GraNet (Liu et al., 2021b)
and SET (Mocanu et al., 2018).
"""

import numpy as np

from oracles import pruning, ranking, schedules
from oracles.network import sparse_leaves


def prune_smallest(leaf, count, valid):
  """The mask of `valid` after pruning its `count` smallest weights."""
  return ranking.keep_top_in(
    ranking.magnitude(leaf.weights), int(valid.sum()) - count, valid
  )


def regrow_bits(leaf, key, t):
  return ranking.random_bits(
    key, t, leaf.index, ranking.REGROW, leaf.weights.shape
  )


def prune_and_regrow_by_gradient(leaf, gradient, count, key, t):
  """Prunes the smallest weights and regrows the largest gradients of a layer.

  Just pruned weights may regrow, and then keep value and momentum. Other
  regrown weights start at zero, since inactive weights are zero.
  """
  kept = prune_smallest(leaf, count, leaf.mask)
  bits = regrow_bits(leaf, key, t)
  leaf.mask = kept | ranking.grow_by_gradient(gradient, count, ~kept, bits)


def granet(
  gradual,
  *,
  total_steps,
  first_fraction,
  last_fraction,
  key,
  prune=pruning.prune_global,
):
  """Prunes globally, then prunes and regrows within every layer.

  Globally pruned weights are zeroed before regrowth. Prune-and-regrow continues
  to the end of training, after the sparsity schedule ends.
  """

  def due(t):
    return t % gradual.every == 0 and gradual.begin_step < t <= total_steps

  update = itop_update(total_steps, first_fraction, last_fraction, key)
  return [*pruning.gmp(gradual, prune=prune), (due, update)]


def rigl_itop(*, every, total_steps, first_fraction, last_fraction, key):
  """RigL with a large interval, to the end of training."""

  def due(t):
    return t % every == 0 and 0 < t <= total_steps

  update = itop_update(total_steps, first_fraction, last_fraction, key)
  return [(due, update)]


def itop_update(total_steps, first_fraction, last_fraction, key):
  """The update of GraNet and ITOP: cosine fraction with a floor, rounded up."""

  def update(leaves, gradients, t):
    fraction = schedules.cosine_with_floor(
      first_fraction, last_fraction, t, total_steps
    )
    for leaf in sparse_leaves(leaves):
      count = ranking.ceil_tol(fraction * leaf.active)
      prune_and_regrow_by_gradient(leaf, gradients[leaf.index], count, key, t)

  return update


def rigl(*, every, end_step, fraction, key, at_step_zero, prune=()):
  """Cosine fraction to zero at `end_step`, rounded down.

  With `at_step_zero` the initial masks are updated, too. For an increasing
  sparsity, the events in `prune` come first.
  """

  def due(t):
    return t % every == 0 and t < end_step and (t > 0 or at_step_zero)

  def update(leaves, gradients, t):
    decayed = schedules.cosine_to_zero(fraction, t, end_step)
    for leaf in sparse_leaves(leaves):
      count = ranking.floor_tol(decayed * leaf.active)
      prune_and_regrow_by_gradient(leaf, gradients[leaf.index], count, key, t)

  return [*prune, (due, update)]


def sparse_evolution(*, every, total_steps, fraction, by_sign, key, prune=()):
  """Prunes the weights closest to zero, regrows as many at random.

  By sign, the fraction applies to each sign separately; zero counts as
  positive. Just pruned weights may regrow, at zero. No update after the last
  step. For an increasing sparsity, the events in `prune` come first.
  """

  def due(t):
    return t % every == 0 and 0 < t < total_steps

  def evolve(leaves, gradients, t):
    del gradients
    for leaf in sparse_leaves(leaves):
      positive = leaf.weights >= 0 if by_sign else np.ones_like(leaf.mask)
      kept = np.zeros_like(leaf.mask)
      for part in [leaf.mask & positive, leaf.mask & ~positive]:
        count = ranking.ceil_tol(fraction * int(part.sum()))
        kept |= prune_smallest(leaf, count, part)
      pruned = leaf.active - int(kept.sum())
      leaf.reset(~kept)
      bits = regrow_bits(leaf, key, t)
      leaf.mask = kept | ranking.grow_at_random(pruned, ~kept, bits)

  return [*prune, (due, evolve)]
