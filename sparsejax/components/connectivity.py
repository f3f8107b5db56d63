"""Connectivity that follows a metric, and gates that skip a mask update.

A rule gives the fraction of a layer's missing connections that is regrown,
missing with respect to its first count. Both rules and gates see the metric
that `update` got, and those before it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from sparsejax.components import counts, wide_counts
from sparsejax.components.accumulators import first_counts
from sparsejax.components.wide_counts import Counted
from sparsejax.method import Accumulator, Context, Count, Gate, Reads


@dataclasses.dataclass(frozen=True)
class Connectivity:
  """The fraction of a layer's missing connections that is regrown.

  Attributes:
    fraction: (context) -> float64 scalar, at least 0; called with float64
      enabled.
    reads: what it reads.
  """

  fraction: Callable[[Context], Float[Array, ""]]
  reads: Reads = ()


def tunable_sigmoid(p: Any, k: float) -> Any:
  """Returns `1 - (p - p k) / (k - 2 k |p| + 1)`: 1 at p = 0, 0 at p = 1.

  Args:
    p: metric, in [0, 1]; a number or an array.
    k: bends the curve, in (-1, 1): 0 is the line `1 - p`, above it lies higher.

  References:
    Scholte, Regrowing strategies for dynamic sparse training, Twente 2022,
    algorithm 1.
  """
  return 1 - (p - p * k) / (k - 2 * k * abs(p) + 1)


def constant(fraction: float) -> Connectivity:
  """The same fraction always; it may exceed 1.

  A layer that prunes the fraction z of its connections and regrows x of its
  missing ones settles at `x / (z + x (1 - z))` of its first count; x = 1 brings
  it back to that. Raises ValueError if it is negative or not finite.
  """
  if not 0 <= fraction < float("inf"):
    raise ValueError(
      f"`connectivity` must be at least 0 and finite, got {fraction}."
    )
  return Connectivity(lambda context: jnp.full((), fraction, jnp.float64))


def by_accuracy(k: float = 0.0) -> Connectivity:
  """The tunable sigmoid of an accuracy in [0, 1]; NaN regrows all (AccSET).

  Raises ValueError for a bend k outside (-1, 1).
  """
  _check_bend(k)
  return Connectivity(
    lambda context: _bounded(tunable_sigmoid(_float64(context.metric), k))
  )


def by_loss(history: Accumulator, k: float = 0.0) -> Connectivity:
  """The tunable sigmoid of `1 - L / L_0`, L_0 the loss of epoch 0 (LSET).

  At k = 0 it is L / L_0, at most 1. An L_0 that is not above 0 regrows all. The
  history is a `metric_history`. Raises ValueError for k outside (-1, 1).
  """
  _check_bend(k)

  def fraction(context: Context) -> Float[Array, ""]:
    first = _float64(history.of(context).with_metric(context.metric).first)
    p = jnp.clip(1 - _float64(context.metric) / first, 0, 1)
    return jnp.where(first > 0, _bounded(tunable_sigmoid(p, k)), 1.0)

  return Connectivity(fraction, reads=(history,))


def scaled(most: float, connectivity: Connectivity) -> Connectivity:
  """The fraction of another rule, `most` times as high.

  Above 1 a layer may grow beyond its first count while the metric is bad: it
  settles where `most` times the fraction of what is missing is what is pruned
  (see `constant`). Raises ValueError unless `most` is above 0 and finite.

  References:
    Scholte, Regrowing strategies for dynamic sparse training, Twente 2022,
    whose outlook asks for growth that follows the performance both ways.
  """
  if not 0 < most < float("inf"):
    raise ValueError(f"`most` must be above 0 and finite, got {most}.")
  if most == 1:
    return connectivity
  return dataclasses.replace(
    connectivity,
    fraction=lambda context: most * connectivity.fraction(context),
  )


def until(step: int, count: Count) -> Count:
  """Another count before a step, and 0 from it on."""

  def regrow_count(
    context: Context, active: Counted, pruned: Counted
  ) -> Counted:
    found = count(context, active, pruned)
    none = jax.tree.map(jnp.zeros_like, found)
    return wide_counts.where(context.step < step, found, none)

  return Count(regrow_count, reads=count.reads)


def towards_first_count(connectivity: Connectivity) -> Count:
  """Every layer regrows a fraction of what it misses of its first count.

  `ceil(fraction (first - left))`, computed in float64, where `left` are the
  connections after pruning.
  """

  def regrow_count(
    context: Context, active: Counted, pruned: Counted
  ) -> Counted:
    with jax.enable_x64(True):
      left = wide_counts.as_float64(active - pruned)
      missing = wide_counts.as_float64(first_counts.of(context)) - left
      wanted = counts.ceil(connectivity.fraction(context) * missing)
      most = float(wide_counts.largest_like(active))
      return wide_counts.from_float64(jnp.clip(wanted, 0.0, most), active)

  return Count(regrow_count, reads=(first_counts, *connectivity.reads))


def pause_when_worse(
  history: Accumulator, lag: int, *, higher_is_better: bool
) -> Gate:
  """Skips an update where the last epoch was worse than one before (DynSET).

  It compares with the epoch `lag` before, in a `metric_history` of at least
  that lag, and acts from the epoch `lag + 2` on. Equal metrics, and those that
  cannot be compared, do not pause.
  """

  def opens(context: Context) -> Array:
    known = history.of(context).with_metric(context.metric)
    now, then = known.recent[-1], known.recent[-1 - lag]
    worse = now < then if higher_is_better else now > then
    return ~(worse & (known.epochs >= lag + 2))

  return Gate(opens, reads=(history,))


def _check_bend(k: float) -> None:
  if not -1 < k < 1:
    raise ValueError(f"`k` must be in (-1, 1), got {k}.")


def _bounded(fraction: Array) -> Array:
  return jnp.clip(jnp.where(jnp.isnan(fraction), 1.0, fraction), 0.0, 1.0)


def _float64(numbers: PyTree) -> Array:
  return lax.convert_element_type(numbers, jnp.float64)
