"""How many weights: requested counts on the host, run-time counts on the device.

Host counts are float64 and integers. Run-time counts are int32 with float64
products, because float32 is wrong from 2^24 weights on.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sparsejax.method import Context, Criterion, Leaf

INT32_MAX = 2**31 - 1
"""Counts and steps on the device end here."""

_TOLERANCE = 1e-6


def floor_tol(x: float) -> int:
  """Rounds down, forgiving 1e-6: 0.9999999 is 1 (host, float64)."""
  return math.floor(x + _TOLERANCE)


def requested_count(
  sizes: int | Sequence[int], sparsities: float | Sequence[float]
) -> int:
  """Returns K, the number of weights that a sparsity asks to keep.

  `K = floor(sum_l n_l (1 - s_l) + 1e-6)` in float64, at least 1.

  Args:
    sizes: weights, in all or per layer.
    sparsities: fraction of zeros in [0, 1), one or one per layer.

  Returns:
    The count that masks reach exactly.
  """
  kept = np.multiply(np.asarray(sizes, np.float64), 1 - np.asarray(sparsities))
  total = int(np.sum(sizes))
  return min(total, max(1, floor_tol(math.fsum(np.atleast_1d(kept)))))


def apportion(
  sizes: Sequence[int],
  sparsities: Sequence[float],
  total: int,
  limits: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
  """Returns int64 counts per layer that sum to `total`, by largest remainder.

  Args:
    sizes: weights per layer.
    sparsities: fraction of zeros per layer, in [0, 1].
    total: the sum to reach, at most that of the limits; layers gain or lose one
      weight each in the order of their remainders, ties to the earlier layer.
    limits: the most that each layer can have; its size where None.
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
    room = (counts < most) if step > 0 else (counts > 0)
    movable = ordered[room[ordered]][: abs(total - int(counts.sum()))]
    counts[movable] += step
  return counts


def share(
  counts: Int[Array, "..."],
  fraction: Callable[[Float[Array, ""]], Float[Array, ""]],
  step: Int[Array, ""],
  rounding: Callable[[Array], Array],
) -> Int[Array, "..."]:
  """Returns `rounding(fraction(step) * counts)` as int32, computed in float64.

  Float64 is enabled for these few scalars alone: float32 would be wrong from
  2^24 weights on.

  Args:
    counts: int32 counts below 2^31.
    fraction: step -> share in [0, 1].
    step: int32 step.
    rounding: `ceil` or `floor` of this module.
  """
  with jax.enable_x64(True):
    share_ = fraction(lax.convert_element_type(step, jnp.float64))
    exact = lax.convert_element_type(counts, jnp.float64) * share_
    return lax.convert_element_type(rounding(exact), jnp.int32)


def ceil(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Rounds up, forgiving 1e-6: 55.00000000000001 is 55."""
  return jnp.ceil(x - _TOLERANCE)


def floor(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Rounds down, forgiving 1e-6."""
  return jnp.floor(x + _TOLERANCE)


def count_active(
  context: Context, is_counted: Callable[[Leaf], Bool[Array, "*dims"]]
) -> Int[Array, " layers"]:
  """Returns int32[layers], the active weights for which something holds.

  Args:
    context: of a mask update.
    is_counted: leaf -> bools of its shape.
  """
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

  Call it where float64 is enabled.

  Args:
    context: of a mask update.
    criterion: the score; it draws nothing.
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
