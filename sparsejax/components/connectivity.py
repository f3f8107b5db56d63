"""How many connections a metric asks for, and when it asks for a pause.

A rule says which share of the connections that a layer lacks of its first
count comes back; a gate leaves a mask update out. Both look at the number that
`update` was given, and at those before it.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from sparsejax.components import accumulators
from sparsejax.method import Gain, Gate, Layers
from sparsejax.selection import search

METRIC, FIRST_COUNTS = "metric", "first_counts"  # names of memories

_INT32_MAX = 2**31 - 1


@runtime_checkable
class Connectivity(Protocol):
  """Which share of the connections that a layer lacks comes back."""

  def __call__(self, layers: Layers, /) -> Float[Array, ""]:
    """Returns a float64 scalar, at least 0; called with float64 enabled."""
    ...


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


def constant(share: float) -> Connectivity:
  """The same share always; it may exceed 1.

  A layer that loses the share z of its connections and regains x of what it
  lacks then settles at `x / (z + x (1 - z))` of its first count.

  Args:
    share: x, at least 0; 1 brings every layer back to its first count.
  """
  if not 0 <= share < float("inf"):
    raise ValueError(
      f"`connectivity` must be at least 0 and finite, got {share}."
    )
  return lambda layers: jnp.full((), share, jnp.float64)


def by_accuracy(k: float = 0.0) -> Connectivity:
  """The tunable sigmoid of an accuracy in [0, 1]; what is NaN brings all back.

  Args:
    k: of the sigmoid, in (-1, 1).
  """
  _check_bend(k)

  def share(layers: Layers) -> Float[Array, ""]:
    return _bounded(tunable_sigmoid(_exact(layers.metric), k))

  return share


def by_loss(k: float = 0.0) -> Connectivity:
  """The tunable sigmoid of `1 - L / L_0`, L_0 the loss of the first epoch.

  At k = 0 it is L / L_0, at most 1. An L_0 that is not above 0 brings all back.
  Needs the memory of metrics.

  Args:
    k: of the sigmoid, in (-1, 1).
  """
  _check_bend(k)

  def share(layers: Layers) -> Float[Array, ""]:
    assert layers.metric is not None  # `sparsify` requested it.
    before = layers.memory[METRIC]
    first = _exact(accumulators.heard(before, layers.metric).first)
    p = jnp.clip(1 - _exact(layers.metric) / first, 0, 1)
    return jnp.where(first > 0, _bounded(tunable_sigmoid(p, k)), 1.0)

  return share


def towards_first(connectivity: Connectivity) -> Gain:
  """Every layer regains a share of what it lacks of its first count.

  `ceil(share (first - left))`, computed in float64, where `left` are the
  connections after the removal. Needs the memory of first counts.

  Args:
    connectivity: the share.
  """

  def gain(layers: Layers, lost: Int[Array, " layers"]) -> Array:
    with jax.enable_x64(True):
      left = _exact(layers.active - lost)
      lacking = _exact(layers.memory[FIRST_COUNTS]) - left
      wanted = search.ceil(connectivity(layers) * lacking)
      wanted = jnp.clip(wanted, 0.0, float(_INT32_MAX))
      return lax.convert_element_type(wanted, jnp.int32)

  return gain


def pause_when_worse(lag: int, *, higher_is_better: bool) -> Gate:
  """Leaves an update out where the last epoch was worse than one before.

  It looks from the epoch `lag + 2` on. Equal numbers, and those that cannot be
  compared, do not pause. Needs the memory of metrics.

  Args:
    lag: how many epochs before.
    higher_is_better: whether the metric is an accuracy, and not a loss.
  """

  def gate(memory, metric: Float[Array, ""] | None) -> Bool[Array, ""]:
    assert metric is not None  # `sparsify` requested it.
    heard = accumulators.heard(memory[METRIC], metric)
    now, then = heard.recent[-1], heard.recent[-1 - lag]
    worse = now < then if higher_is_better else now > then
    return ~(worse & (heard.epochs >= lag + 2))

  return gate


def _check_bend(k: float) -> None:
  if not -1 < k < 1:
    raise ValueError(f"`k` must be in (-1, 1), got {k}.")


def _bounded(share: Array) -> Array:
  return jnp.clip(jnp.where(jnp.isnan(share), 1.0, share), 0.0, 1.0)


def _exact(numbers: PyTree) -> Array:
  return lax.convert_element_type(numbers, jnp.float64)
