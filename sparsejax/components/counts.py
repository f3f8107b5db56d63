"""Counts of weights: requested ones on the host, run-time ones on the device.

Host counts are integers, from float64. Run-time counts are int32, from float64
products of these few scalars alone: float32 is wrong from 2^24 weights on.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sparsejax.method import Context, Criterion, Fraction, Leaf

INT32_MAX = 2**31 - 1
"""The largest count or step on the device."""

_TOLERANCE = 1e-6


def requested_count(
  sizes: int | Sequence[int], sparsities: float | Sequence[float]
) -> int:
  """Returns K, the number of active weights that masks reach exactly.

  `K = floor(sum_l n_l (1 - s_l) + 1e-6)` in float64, at least 1. Sizes and
  sparsities, in [0, 1), are those of the network or one per layer.
  """
  active = np.multiply(
    np.asarray(sizes, np.float64), 1 - np.asarray(sparsities)
  )
  count = math.floor(math.fsum(np.atleast_1d(active)) + _TOLERANCE)
  return min(int(np.sum(sizes)), max(1, count))


def apportion(
  sizes: Sequence[int],
  sparsities: Sequence[float],
  total: int,
  limits: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
  """Returns int64 counts per layer that sum to `total`, by largest remainder.

  Layers gain or lose one weight each in the order of their remainders, ties to
  the first layer, up to their limits: their sizes where `limits` is None.
  """
  most = np.asarray(sizes if limits is None else limits, np.int64)
  if total > most.sum():
    raise ValueError(f"`total` must be at most {most.sum()}, got {total}.")
  exact = np.asarray(sizes) * (1 - np.asarray(sparsities, np.float64))
  whole = np.floor(exact + _TOLERANCE).astype(np.int64)
  # Rounded, because `n (1 - s)` carries the noise of `1 - (1 - d)`.
  order = np.argsort(-np.round(exact - whole, 6), kind="stable")
  counts = np.clip(whole, 0, most)
  while counts.sum() != total:
    step = 1 if counts.sum() < total else -1
    ordered = order[::step]
    space = (counts < most) if step > 0 else (counts > 0)
    movable = ordered[space[ordered]][: abs(total - int(counts.sum()))]
    counts[movable] += step
  return counts


def share(
  counts: Int[Array, "..."],
  fraction: Fraction,
  step: Int[Array, ""],
  rounding: Callable[[Array], Array],
) -> Int[Array, "..."]:
  """Returns `rounding(fraction(step) * counts)` as int32, computed in float64.

  Counts and step are int32; `rounding` is `ceil` or `floor` of this module.
  """
  with jax.enable_x64(True):
    share_ = fraction(lax.convert_element_type(step, jnp.float64))
    exact = lax.convert_element_type(counts, jnp.float64) * share_
    return lax.convert_element_type(rounding(exact), jnp.int32)


def ceil(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Rounds up, with a tolerance of 1e-6: 55.00000000000001 is 55."""
  return jnp.ceil(x - _TOLERANCE)


def floor(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Rounds down, with a tolerance of 1e-6: 54.99999999999999 is 55."""
  return jnp.floor(x + _TOLERANCE)


def count_active(
  context: Context, is_counted: Callable[[Leaf], Bool[Array, "*dims"]]
) -> Int[Array, " layers"]:
  """Returns int32[layers], the active weights for which a predicate is true."""
  return jnp.concatenate(
    [
      _layer_sums(is_counted(leaf) & leaf.mask, leaf.axis, jnp.int32)
      for leaf in context.leaves
    ]
  )


def sum_active(
  context: Context, criterion: Criterion
) -> Float[Array, " layers"]:
  """Returns float64[layers], the scores summed over active weights.

  The criterion needs no key, and the caller enables float64.
  """
  sums = []
  for leaf in context.leaves:
    exact = lax.convert_element_type(criterion(leaf), jnp.float64)
    exact = jnp.where(leaf.mask, exact, jnp.zeros_like(exact))
    sums.append(_layer_sums(exact, leaf.axis, None))
  return jnp.concatenate(sums)


def _layer_sums(values: Array, axis: int | None, dtype) -> Array:
  others = tuple(d for d in range(values.ndim) if d != axis)
  return jnp.atleast_1d(jnp.sum(values, axis=others, dtype=dtype))
