"""Counts of weights: requested ones on the host, run-time ones on the device.

Host counts are integers, from float64. Run-time counts are int32, or have two
limbs (`wide_counts`), from float64 products of these few scalars alone: float32
is wrong from 2^24 weights on.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sparsejax.components import wide_counts
from sparsejax.components.wide_counts import (
  INT32_MAX as INT32_MAX,
  Counted,
  Limbs,
)
from sparsejax.method import Context, Criterion, Fraction, Layout, Leaf

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
  counts: Counted,
  fraction: Fraction,
  step: Int[Array, ""],
  rounding: Callable[[Array], Array],
) -> Counted:
  """Returns `rounding(fraction(step) * counts)`, computed in float64.

  Counts are of any shape, the step is int32[]; `rounding` is `ceil` or `floor`
  of this module.
  """
  with jax.enable_x64(True):
    share_ = fraction(lax.convert_element_type(step, jnp.float64))
    exact = wide_counts.as_float64(counts) * share_
    return wide_counts.from_float64(rounding(exact), counts)


def ceil(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Rounds up, with a tolerance of 1e-6: 55.00000000000001 is 55."""
  return jnp.ceil(x - _TOLERANCE)


def floor(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Rounds down, with a tolerance of 1e-6: 54.99999999999999 is 55."""
  return jnp.floor(x + _TOLERANCE)


def count_active(
  context: Context, is_counted: Callable[[Leaf], Bool[Array, "*dims"]]
) -> Counted:
  """Returns [layers], the active weights for which a predicate is true."""
  limbs = limbs_of_layers(context.layout)

  def of_leaf(leaf: Leaf) -> Counted:
    kept = () if leaf.axis is None else (leaf.axis,)
    found = wide_counts.ones(is_counted(leaf) & leaf.mask, kept, limbs)
    return jax.tree.map(jnp.atleast_1d, found)

  return wide_counts.concatenate([of_leaf(leaf) for leaf in context.leaves])


def limbs_of_layers(layout: Layout) -> Limbs | None:
  """Returns how the counts of single layers are divided; None for int32."""
  return wide_counts.limbs_for(max(layout.sizes, default=0))


def limbs_of_all(layout: Layout) -> Limbs | None:
  """Returns the same for counts of all layers together."""
  return wide_counts.limbs_for(sum(layout.sizes))


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
    others = tuple(d for d in range(exact.ndim) if d != leaf.axis)
    sums.append(jnp.atleast_1d(jnp.sum(exact, axis=others)))
  return jnp.concatenate(sums)
