"""Weights that move from layer to layer: who loses, and who regains how many.

Counts are int32, products of counts and shares float64, for these few scalars
alone. All rules keep the number of weights of the whole network.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from sparsejax.components import criteria
from sparsejax.method import Fraction, Gain, Layers, Lose, Memory, Update
from sparsejax.selection import search

_CAREFUL = 0.2  # A layer of less sparsity loses less where it matters much.
_FULL = 0.99  # Share of the free positions of a layer that are taken at first.


def momentum_shares(layers: Layers, name: str) -> Float[Array, " layers"]:
  """Returns float64 shares: the mean |momentum| of each layer's active weights.

  They sum to 1, and are equal where there is no momentum at all.

  Args:
    layers: of the exchange.
    name: of the memory that holds the momentum.
  """
  with jax.enable_x64(True):
    totals = layers.total(criteria.remembered_magnitude(name))
    active = lax.convert_element_type(layers.active, jnp.float64)
    means = jnp.where(active > 0, totals / jnp.maximum(active, 1.0), 0.0)
    sum_ = jnp.sum(means)
    usable = jnp.isfinite(sum_) & (sum_ > 0)
    shares = means / jnp.where(usable, sum_, 1.0)
    return jnp.where(usable, shares, 1.0 / len(layers.sizes))


def careful_share_of(fraction: Fraction, name: str) -> Lose:
  """Layers lose a share; one that is nearly dense and matters, its sparsity.

  That is a layer of a sparsity below 0.2 and of more than the average momentum,
  where its sparsity is the lower of the two.

  Args:
    fraction: step -> share in [0, 1].
    name: of the memory that holds the momentum.

  References:
    Dettmers & Zettlemoyer, `Sparse networks from scratch
    <https://arxiv.org/abs/1907.04840>`_, 2019, code.
  """

  def lose(layers: Layers) -> Int[Array, " layers"]:
    shares = momentum_shares(layers, name)
    with jax.enable_x64(True):
      active = lax.convert_element_type(layers.active, jnp.float64)
      sizes = jnp.asarray(layers.sizes, jnp.float64)
      sparsity = (sizes - active) / sizes  # 1 - 0.8 would lie below 0.2.
      share = fraction(lax.convert_element_type(layers.step, jnp.float64))
      matters = shares > 1.0 / len(layers.sizes)
      careful = (sparsity < _CAREFUL) & matters
      share = jnp.where(careful, jnp.minimum(sparsity, share), share)
      return lax.convert_element_type(search.ceil(share * active), jnp.int32)

  return lose


def by_momentum(name: str) -> Gain:
  """Layers regrow what all lost, in proportion to their mean |momentum|.

  Each layer gets `ceil(share total)`, at most 0.99 of its free positions. Where
  that is too much in all, layers give back one each, from the last to the
  first and again. Where it is too little, the rest is spread equally over the
  layers that have room, the first ones one more, until all is placed; where no
  layer has room, the free positions are the limit.

  Args:
    name: of the memory that holds the momentum.

  References:
    Dettmers & Zettlemoyer, `Sparse networks from scratch
    <https://arxiv.org/abs/1907.04840>`_, 2019, algorithm 1; what the counts do
    where they do not sum to the total is ours.
  """

  def gain(layers: Layers, lost: Int[Array, " layers"]) -> Array:
    free = jnp.asarray(layers.sizes, jnp.int32) - layers.active + lost
    total = jnp.sum(lost, dtype=jnp.int32)
    return by_shares(momentum_shares(layers, name), total, free)

  return gain


def by_shares(
  shares: Float[Array, " layers"],
  total: Int[Array, ""],
  free: Int[Array, " layers"],
) -> Int[Array, " layers"]:
  """Returns int32 counts that sum to `total`; `by_momentum` has the rule.

  Args:
    shares: float64, summing to 1.
    total: int32; what exceeds the sum of `free` is not placed.
    free: int32, positions of each layer.
  """
  with jax.enable_x64(True):
    room = lax.convert_element_type(free, jnp.float64)
    capped = lax.convert_element_type(search.floor(_FULL * room), jnp.int32)
    requested = search.ceil(
      shares * lax.convert_element_type(total, jnp.float64)
    )
    requested = lax.convert_element_type(requested, jnp.int32)
  counts = _give_back(jnp.minimum(requested, capped), total)
  counts = _spread(counts, total, capped)
  return _spread(counts, total, free)


def below(name: str) -> Lose:
  """Layers lose what is smaller than a threshold, but never all.

  Args:
    name: of the memory that holds the threshold, float32.
  """

  def lose(layers: Layers) -> Int[Array, " layers"]:
    threshold = layers.memory[name]
    small = layers.counted(
      lambda seen: jnp.abs(seen.param.astype(jnp.float32)) < threshold
    )
    return jnp.minimum(small, layers.active - 1)

  return lose


def by_survivors(layers: Layers, lost: Int[Array, " layers"]) -> Array:
  """Layers regrow what all lost, in proportion to what they kept.

  The total is rounded by largest remainder, ties to the earlier layer. What
  does not fit into a layer, where the weights just pruned are not free, is
  split again among those with room.

  References:
    Mostafa & Wang, `Parameter efficient training of deep convolutional neural
    networks by dynamic sparse reparameterization
    <https://arxiv.org/abs/1902.05967>`_, 2019, algorithm 1.
  """
  free = jnp.asarray(layers.sizes, jnp.int32) - layers.active
  total = jnp.sum(lost, dtype=jnp.int32)
  return in_proportion(layers.active - lost, total, free)


def in_proportion(
  weights: Int[Array, " layers"],
  total: Int[Array, ""],
  free: Int[Array, " layers"],
) -> Int[Array, " layers"]:
  """Returns int32 counts in proportion to weights; `by_survivors` has the rule.

  Args:
    weights: int32, at least 0; a layer without any gets nothing.
    total: int32, the sum to reach.
    free: int32, positions of each layer.
  """

  def missing(counts: Array) -> Array:
    return total - jnp.sum(counts, dtype=jnp.int32)

  def unplaced(state: tuple[Array, Array]) -> Array:
    counts, claims = state
    return (missing(counts) > 0) & jnp.any(claims > 0)

  def with_claims(counts: Array) -> tuple[Array, Array]:
    return counts, jnp.where(counts < free, weights, 0)

  def split(state: tuple[Array, Array]) -> tuple[Array, Array]:
    counts, claims = state
    more = _largest_remainder(claims, missing(counts))
    return with_claims(jnp.minimum(counts + more, free))

  start = with_claims(jnp.zeros_like(weights))
  return lax.while_loop(unplaced, split, start)[0]


def adaptive_threshold(first: float, prune_count: int) -> Memory:
  """A threshold that is halved where it pruned too many, and doubled.

  Too many are above 1.1 times the count, too few below 0.9 times.

  Args:
    first: the threshold of the first update, above 0.
    prune_count: how many weights an update is to prune.
  """
  most, least = 11 * prune_count // 10, -(-9 * prune_count // 10)

  def observe(threshold: Array, update: Update) -> Array:
    pruned = jnp.sum(update.lost, dtype=jnp.int32)
    lower = jnp.where(pruned > most, threshold / 2, threshold)
    return jnp.where(pruned < least, threshold * 2, lower)

  return Memory(
    init=lambda start: jnp.full((), first, jnp.float32), observe=observe
  )


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

  def missing(counts: Array) -> Array:
    return total - jnp.sum(counts, dtype=jnp.int32)

  def unplaced(counts: Array) -> Array:
    return (missing(counts) > 0) & jnp.any(counts < limits)

  def round_(counts: Array) -> Array:
    room = counts < limits
    place = jnp.cumsum(room, dtype=jnp.int32)
    each, rest = jnp.divmod(missing(counts), place[-1])
    more = jnp.where(room, each + (place <= rest), 0)
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
  left = total - jnp.sum(whole, dtype=jnp.int32)
  return whole + (place < left)
