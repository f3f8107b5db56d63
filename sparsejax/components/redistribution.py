"""Weights that move between layers: how many each layer prunes and regrows.

Counts are int32, or int64 in networks whose sum an int32 cannot hold, products
of counts and fractions float64, for these few scalars alone. All rules preserve
the number of active weights of the network.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sparsejax.components import counts, wide_counts
from sparsejax.components.wide_counts import Counted, WideCount
from sparsejax.method import (
  Accumulator,
  Context,
  Count,
  Criterion,
  Fraction,
  Input,
)

# SNFS prunes an important layer below this sparsity by no more than that.
_CAREFUL = 0.2
_FULL = 0.99  # share of a layer's free positions that are taken at first


def mean_shares(
  criterion: Criterion, context: Context, active: Counted
) -> Array:
  """Returns float64 shares: the mean score of each layer's active weights.

  They sum to 1, and are equal where all scores are 0.
  """
  with jax.enable_x64(True):
    totals = counts.sum_active(context, criterion)
    number = wide_counts.as_float64(active)
    means = jnp.where(number > 0, totals / jnp.maximum(number, 1.0), 0.0)
    sum_ = jnp.sum(means)
    usable = jnp.isfinite(sum_) & (sum_ > 0)
    shares = means / jnp.where(usable, sum_, 1.0)
    return jnp.where(usable, shares, 1.0 / len(context.layout.sizes))


def careful_fraction(fraction: Fraction, momentum: Criterion) -> Count:
  """Layers prune a fraction; nearly dense and important ones, their sparsity.

  Those are layers with a sparsity below 0.2 and more than the average
  |momentum|, where the sparsity is the lower of the two; as in the code of SNFS
  (see `by_momentum`).
  """

  def prune_count(context: Context, active: Counted) -> Counted:
    sizes = context.layout.sizes
    shares = mean_shares(momentum, context, active)
    with jax.enable_x64(True):
      number = wide_counts.as_float64(active)
      total = jnp.asarray(sizes, jnp.float64)
      sparsity = (total - number) / total  # 1 - 0.8 would be below 0.2.
      pruned = fraction(lax.convert_element_type(context.step, jnp.float64))
      important = shares > 1.0 / len(sizes)
      careful = (sparsity < _CAREFUL) & important
      pruned = jnp.where(careful, jnp.minimum(sparsity, pruned), pruned)
      return wide_counts.from_float64(counts.ceil(pruned * number), active)

  return Count(prune_count, reads=(*momentum.reads, Input.MASK))


def by_momentum(momentum: Criterion) -> Count:
  """Layers regrow what all pruned, in proportion to their mean |momentum|.

  Each layer gets `ceil(share total)`, at most 0.99 of its free positions. If
  the sum is too large, layers give back one each, from the last to the first,
  until it fits. If it is too small, the rest is split equally among the layers
  that have space, the first ones one more, until all is placed; where no layer
  has space, the free positions are the limit.

  References:
    Dettmers & Zettlemoyer, `Sparse networks from scratch
    <https://arxiv.org/abs/1907.04840>`_, 2019, algorithm 1; the corrections
    where the counts do not sum to the total are ours.
  """

  def regrow_count(
    context: Context, active: Counted, pruned: Counted
  ) -> Counted:
    layout = context.layout
    free = wide_counts.like(layout.sizes, active) - active + pruned
    total = wide_counts.total(pruned, counts.limbs_of_all(layout))
    return by_shares(mean_shares(momentum, context, active), total, free)

  return Count(regrow_count, reads=(*momentum.reads, Input.MASK))


def by_shares(
  shares: Float[Array, " layers"], total: Counted, free: Counted
) -> Counted:
  """Returns counts that sum to `total`, by the rule of `by_momentum`.

  The float64 shares sum to 1; what exceeds the free positions is not placed.
  """

  def split(sum_: Array, limits: Array) -> Array:
    with jax.enable_x64(True):
      space = lax.convert_element_type(limits, jnp.float64)
      capped = counts.floor(_FULL * space)
      capped = lax.convert_element_type(capped, limits.dtype)
      wanted = counts.ceil(shares * lax.convert_element_type(sum_, jnp.float64))
      wanted = lax.convert_element_type(wanted, limits.dtype)
    found = _give_back(jnp.minimum(wanted, capped), sum_)
    return _spread(_spread(found, sum_, capped), sum_, limits)

  return _in_integers(split, total, free)


def below(threshold: Accumulator) -> Count:
  """Layers prune the weights below an accumulated float32[], but never all."""

  def prune_count(context: Context, active: Counted) -> Counted:
    limit = threshold.of(context)
    small = counts.count_active(
      context, lambda leaf: jnp.abs(leaf.weights.astype(jnp.float32)) < limit
    )
    return wide_counts.minimum(small, active - 1)

  return Count(prune_count, reads=(threshold, Input.WEIGHTS, Input.MASK))


def _by_survivors(
  context: Context, active: Counted, pruned: Counted
) -> Counted:
  layout = context.layout
  free = wide_counts.like(layout.sizes, active) - active
  total = wide_counts.total(pruned, counts.limbs_of_all(layout))
  return in_proportion(active - pruned, total, free)


by_survivors = Count(_by_survivors)
"""Layers regrow what all pruned, in proportion to the weights they have left.

The total is rounded by largest remainder, ties to the first layer. What does
not fit into a layer, where the weights just pruned are not free, is split again
among those with space.

References:
  Mostafa & Wang, `Parameter efficient training of deep convolutional neural
  networks by dynamic sparse reparameterization
  <https://arxiv.org/abs/1902.05967>`_, 2019, algorithm 1.
"""


def in_proportion(weights: Counted, total: Counted, free: Counted) -> Counted:
  """Returns counts in proportion to weights: the rule of `by_survivors`.

  They sum to `total` where the free positions of layers with weights allow it.
  """
  return _in_integers(_in_proportion, total, free, weights)


def _in_integers(
  rule: Callable[..., Array], total: Counted, *layers: Counted
) -> Counted:
  """Calls a rule with int32, or with int64 where the total has two limbs.

  The result is like the counts of layers.
  """
  if not isinstance(total, WideCount):
    return rule(total, *layers)
  with jax.enable_x64(True):
    found = rule(*map(wide_counts.as_int64, (total, *layers)))
    return wide_counts.from_int64(found, layers[0])


def _in_proportion(total: Array, free: Array, weights: Array) -> Array:
  def unplaced(state: tuple[Array, Array]) -> Array:
    counts, claims = state
    return (_missing(counts, total) > 0) & jnp.any(claims > 0)

  def with_claims(counts: Array) -> tuple[Array, Array]:
    return counts, jnp.where(counts < free, weights, 0)

  def split(state: tuple[Array, Array]) -> tuple[Array, Array]:
    counts, claims = state
    more = _largest_remainder(claims, _missing(counts, total))
    return with_claims(jnp.minimum(counts + more, free))

  start = with_claims(jnp.zeros_like(weights))
  return lax.while_loop(unplaced, split, start)[0]


def _missing(counts: Array, total: Array) -> Array:
  return total - jnp.sum(counts, dtype=counts.dtype)


def _give_back(counts: Array, total: Array) -> Array:
  """Lowers counts to a total, one each, from the last layer to the first."""

  def excess(counts: Array) -> Array:
    return jnp.sum(counts, dtype=counts.dtype) - total

  def round_(counts: Array) -> Array:
    some = counts > 0
    place = jnp.cumsum(some[::-1], dtype=jnp.int32)[::-1]
    return counts - (some & (place <= excess(counts)))

  return lax.while_loop(lambda counts: excess(counts) > 0, round_, counts)


def _spread(counts: Array, total: Array, limits: Array) -> Array:
  """Raises counts to a total, equally over the layers below their limits."""

  def unplaced(counts: Array) -> Array:
    return (_missing(counts, total) > 0) & jnp.any(counts < limits)

  def round_(counts: Array) -> Array:
    space = counts < limits
    place = jnp.cumsum(space, dtype=jnp.int32)
    each, rest = jnp.divmod(_missing(counts, total), place[-1])
    more = jnp.where(space, each + (place <= rest), 0)
    return jnp.minimum(counts + more, limits)

  return lax.while_loop(unplaced, round_, counts)


def _largest_remainder(weights: Array, total: Array) -> Array:
  """Splits a total in proportion; products and remainders are exact."""
  with jax.enable_x64(True):
    exact = lax.convert_element_type(weights, jnp.float64)
    sum_ = jnp.sum(exact)
    product = exact * lax.convert_element_type(total, jnp.float64)
    whole = jnp.floor(product / sum_)
    remainder = product - whole * sum_
    order = jnp.argsort(-remainder, stable=True)
    place = lax.convert_element_type(jnp.argsort(order), jnp.int32)
    whole = lax.convert_element_type(whole, weights.dtype)
  return whole + (place < _missing(whole, total))
