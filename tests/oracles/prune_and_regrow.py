"""Dynamic sparse training: drop some active weights, grow as many.

RigL (Evci et al., 2020), ITOP (Liu et al., 2021a), GraNet (Liu et al., 2021b)
and SET (Mocanu et al., 2018).
"""

import numpy as np

from oracles import pruning, ranking, schedules
from oracles.network import sparse_leaves


def prune_smallest(leaf, count, valid):
  """Positions of `valid` that stay after `count` of them are dropped."""
  return ranking.keep_top_in(
    ranking.magnitude(leaf.weights), int(valid.sum()) - count, valid
  )


def regrow_bits(leaf, key, t):
  return ranking.random_bits(
    key, t, leaf.index, ranking.REGROW, leaf.weights.shape
  )


def prune_and_regrow_by_gradient(leaf, gradient, count, key, t):
  """Drops the smallest weights, grows the largest gradients, in one layer.

  What was just dropped may grow again, and then keeps value and momentum.
  Whatever else grows starts at zero, since all that is off is zero.
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
  """Prunes over the network, then regrows in every layer.

  The prune zeroes what it removes before anything is regrown. Regrowing goes
  on to the end of training; only pruning stops at the end of its schedule.
  """

  def due(t):
    return t % gradual.every == 0 and gradual.begin_step < t <= total_steps

  update = itop_update(total_steps, first_fraction, last_fraction, key)
  return [*pruning.gmp(gradual, prune=prune), (due, update)]


def rigl_itop(*, every, total_steps, first_fraction, last_fraction, key):
  """RigL at a large interval that goes on to the end of training."""

  def due(t):
    return t % every == 0 and 0 < t <= total_steps

  update = itop_update(total_steps, first_fraction, last_fraction, key)
  return [(due, update)]


def itop_update(total_steps, first_fraction, last_fraction, key):
  """The swap that GraNet and ITOP share: cosine with a floor, rounded up."""

  def update(leaves, gradients, t):
    fraction = schedules.cosine_with_floor(
      first_fraction, last_fraction, t, total_steps
    )
    for leaf in sparse_leaves(leaves):
      count = ranking.ceil_tol(fraction * leaf.active)
      prune_and_regrow_by_gradient(leaf, gradients[leaf.index], count, key, t)

  return update


def rigl(*, every, end_step, fraction, key, at_step_zero, prune=()):
  """Cosine to zero at `end_step`, rounded down; the first masks may swap.

  A sparsity that rises prunes before the swap, by the events in `prune`.
  """

  def due(t):
    return t % every == 0 and t < end_step and (t > 0 or at_step_zero)

  def update(leaves, gradients, t):
    share = schedules.cosine_to_zero(fraction, t, end_step)
    for leaf in sparse_leaves(leaves):
      count = ranking.floor_tol(share * leaf.active)
      prune_and_regrow_by_gradient(leaf, gradients[leaf.index], count, key, t)

  return [*prune, (due, update)]


def sparse_evolution(*, every, total_steps, fraction, by_sign, key, prune=()):
  """Removes the weights closest to zero, adds as many at random.

  By sign, each of the two signs loses its own share; a weight of zero counts
  as positive. What was just removed may be drawn, and restarts at zero. None
  follows the last step. A sparsity that rises prunes first, by `prune`.
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
      removed = leaf.active - int(kept.sum())
      leaf.reset(~kept)
      bits = regrow_bits(leaf, key, t)
      leaf.mask = kept | ranking.grow_at_random(removed, ~kept, bits)

  return [*prune, (due, evolve)]
