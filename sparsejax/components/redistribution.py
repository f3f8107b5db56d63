"""Weights that move between layers: how many each layer prunes and regrows.

Counts are int32; products of counts and fractions are float64, for these few
scalars alone. All rules preserve the number of active weights of the network.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from sparsejax.components import counts
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


def mean_shares(criterion: Criterion, context: Context, active: Array) -> Array:
  """Returns float64 shares: the mean score of each layer's active weights.

  They sum to 1, and are equal where all scores are 0.
  """
  with jax.enable_x64(True):
    totals = counts.sum_active(context, criterion)
    number = lax.convert_element_type(active, jnp.float64)
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

  def prune_count(context: Context, active: Array) -> Array:
    sizes = context.layout.sizes
    shares = mean_shares(momentum, context, active)
    with jax.enable_x64(True):
      number = lax.convert_element_type(active, jnp.float64)
      total = jnp.asarray(sizes, jnp.float64)
      sparsity = (total - number) / total  # 1 - 0.8 would be below 0.2.
      pruned = fraction(lax.convert_element_type(context.step, jnp.float64))
      important = shares > 1.0 / len(sizes)
      careful = (sparsity < _CAREFUL) & important
      pruned = jnp.where(careful, jnp.minimum(sparsity, pruned), pruned)
      return lax.convert_element_type(counts.ceil(pruned * number), jnp.int32)

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

  def regrow_count(context: Context, active: Array, pruned: Array) -> Array:
    _check_total(context)
    free = jnp.asarray(context.layout.sizes, jnp.int32) - active + pruned
    total = jnp.sum(pruned, dtype=jnp.int32)
    return by_shares(mean_shares(momentum, context, active), total, free)

  return Count(regrow_count, reads=(*momentum.reads, Input.MASK))


def by_shares(
  shares: Float[Array, " layers"], total: Array, free: Int[Array, " layers"]
) -> Int[Array, " layers"]:
  """Returns int32 counts that sum to `total`, by the rule of `by_momentum`.

  The float64 shares sum to 1; what exceeds the free positions is not placed.
  """
  with jax.enable_x64(True):
    space = lax.convert_element_type(free, jnp.float64)
    capped = lax.convert_element_type(counts.floor(_FULL * space), jnp.int32)
    wanted = counts.ceil(shares * lax.convert_element_type(total, jnp.float64))
    wanted = lax.convert_element_type(wanted, jnp.int32)
  found = _give_back(jnp.minimum(wanted, capped), total)
  return _spread(_spread(found, total, capped), total, free)


def below(threshold: Accumulator) -> Count:
  """Layers prune the weights below an accumulated float32[], but never all."""

  def prune_count(context: Context, active: Array) -> Array:
    limit = threshold.of(context)
    small = counts.count_active(
      context, lambda leaf: jnp.abs(leaf.weights.astype(jnp.float32)) < limit
    )
    return jnp.minimum(small, active - 1)

  return Count(prune_count, reads=(threshold, Input.WEIGHTS, Input.MASK))


def _by_survivors(context: Context, active: Array, pruned: Array) -> Array:
  _check_total(context)
  free = jnp.asarray(context.layout.sizes, jnp.int32) - active
  total = jnp.sum(pruned, dtype=jnp.int32)
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


def in_proportion(
  weights: Int[Array, " layers"], total: Array, free: Int[Array, " layers"]
) -> Int[Array, " layers"]:
  """Returns int32 counts in proportion to weights: the rule of `by_survivors`.

  They sum to `total` where the free positions of layers with weights allow it.
  """

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


def _check_total(context: Context) -> None:
  """Raises ValueError for more weights than a sum over layers can count."""
  total = sum(context.layout.sizes)
  if total > counts.INT32_MAX:
    raise ValueError(
      f"`params` has {total} sparse weights that move between layers; counts"
      f" on the device end at {counts.INT32_MAX}. Keep layers 'dense' in"
      " `overrides`, or use a method with a count per layer."
    )


def _missing(counts: Array, total: Array) -> Array:
  return total - jnp.sum(counts, dtype=jnp.int32)


def _give_back(counts: Array, total: Array) -> Array:
  """Lowers counts to a total, one each, from the last layer to the first."""

  def excess(counts: Array) -> Array:
    return jnp.sum(counts, dtype=jnp.int32) - total

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
    whole = lax.convert_element_type(whole, jnp.int32)
  return whole + (place < _missing(whole, total))
