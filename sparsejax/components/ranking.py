"""The order of scores: floats as unsigned integers, alike on every backend."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

HIGHEST_RANK = np.uint32(0xFFFFFFFF)
SIGN = np.uint32(0x80000000)
ZERO_RANK = SIGN  # of the score 0.0
NORMAL_RANK = np.uint32(0x80800000)  # of 2^-126, the least positive score
_FEW = 32  # numbers along an axis that are compared with each other
_SMALLEST_NORMAL = np.float32(2.0**-126)


def ranks(
  scores: Float[Array, "*dims"] | UInt32[Array, "*dims"],
) -> UInt32[Array, "*dims"]:
  """Returns uint32 in the order of the scores; uint32 scores are ranks already.

  Scores are compared as float32. NaN ranks as -inf, -0 as 0, and magnitudes
  under 2^-126 as 0, because some platforms flush those.
  """
  if scores.dtype == jnp.uint32:
    return scores
  x = scores.astype(jnp.float32)
  x = jnp.where(jnp.isnan(x), -jnp.inf, x)
  x = jnp.where(jnp.abs(x) < _SMALLEST_NORMAL, np.float32(0), x)
  bits = lax.bitcast_convert_type(x, jnp.uint32)
  bits = jnp.where(bits == SIGN, np.uint32(0), bits)
  return jnp.where(bits & SIGN != 0, ~bits, bits | SIGN)


def places(
  keys: Sequence[UInt32[Array, "*dims"]], axis: int
) -> Int[Array, "*dims"]:
  """Returns int32 places along an axis, 0 for the highest key.

  Later keys order what is equal in the earlier ones, then the index does.
  """
  size = keys[0].shape[axis]
  if size > _FEW:
    return _places_by_sorting(keys, axis)
  index = lax.broadcasted_iota(jnp.int32, keys[0].shape, axis % keys[0].ndim)
  place = jnp.zeros(keys[0].shape, jnp.int32)
  for i in range(size):
    before = i < index
    for key in reversed(keys):
      other = lax.slice_in_dim(key, i, i + 1, axis=axis)
      before = (other > key) | ((other == key) & before)
    place += before
  return place


def _places_by_sorting(
  keys: Sequence[UInt32[Array, "*dims"]], axis: int
) -> Int[Array, "*dims"]:
  """As `places`: two sorts are faster than comparing all pairs."""
  axis %= keys[0].ndim
  index = lax.broadcasted_iota(jnp.int32, keys[0].shape, axis)
  order = lax.sort(
    [*(~key for key in keys), index], dimension=axis, num_keys=len(keys) + 1
  )[-1]
  return lax.sort([order, index], dimension=axis, num_keys=1)[-1]


def highest(
  scores: UInt32[Array, "*dims"],
  counts: Int[Array, "..."],
  valid: Bool[Array, "*dims"],
  *,
  axes: tuple[int, ...],
) -> Bool[Array, "*dims"]:
  """Keeps the highest valid ranks of every cell, ties to the lower index.

  A cell extends along all `axes`; `counts`, at least 0, have size 1 there. A
  bound that as many reach is found bit by bit. Cells with fewer valid ranks
  keep those.
  """

  def count(flags: Array) -> Array:
    return jnp.sum(flags & valid, axis=axes, keepdims=True, dtype=jnp.int32)

  def narrow(i: Array, bound: Array) -> Array:
    probe = bound | (SIGN >> i.astype(jnp.uint32))
    return jnp.where(count(scores >= probe) >= counts, probe, bound)

  start = jnp.zeros(counts.shape, jnp.uint32)
  bound = lax.fori_loop(0, 32, narrow, start)
  above = (scores > bound) & valid
  missing = counts - count(above)
  return above | _first(valid & (scores == bound), missing, axes)


def _first(
  flags: Bool[Array, "*dims"], counts: Int[Array, "..."], axes: tuple[int, ...]
) -> Bool[Array, "*dims"]:
  """Keeps the first ones of every cell."""
  others = tuple(d for d in range(flags.ndim) if d not in axes)
  order = (*others, *axes)
  shape = tuple(flags.shape[d] for d in order)
  cells = flags.transpose(order).reshape(*shape[: len(others)], -1)
  place = jnp.cumsum(cells, axis=-1, dtype=jnp.int32).reshape(shape)
  return flags & (place.transpose(np.argsort(order)) <= counts)
