"""Replicas of a run, which train in one program with a seed each.

The state of several replicas is a `TrainState` whose arrays have a leading axis
of replicas; only `step`, which is the same for all, has none. Their programs
are those of one replica under `vmap`. One replica has no such axis.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from sparsejax.training.train_state import TrainState

_AXES: list[Any] = [None if f == "step" else 0 for f in TrainState._fields]
STATE: Any = TrainState(*_AXES)
"""The axis of replicas in a state, as `vmap` takes it."""


def mapped(
  function: Callable[..., Any], replicas: int, *, in_axes: Any, out_axes: Any
) -> Callable[..., Any]:
  """Map a function of one replica over all of them.

  Args:
    function: of positional arguments.
    replicas: their number; one replica has no axis.
    in_axes: as in `vmap`; `STATE` for a state.
    out_axes: as in `vmap`.

  Returns:
    The function of all replicas; `function` itself for one.
  """
  if replicas == 1:
    return function
  return jax.vmap(function, in_axes=in_axes, out_axes=out_axes)


def stack(states: Sequence[TrainState]) -> TrainState:
  """Returns the state of all replicas, given that of each at the same step."""
  if len(states) == 1:
    return states[0]
  return jax.jit(_stacked)(states)


def stacked_shapes(state: TrainState, replicas: int) -> TrainState:
  """Returns the shapes of the state of all replicas.

  Args:
    state: shapes of one replica, replicated on every device.
    replicas: their number.
  """
  if replicas == 1:
    return state

  def stacked(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    place: Any = x.sharding
    return jax.ShapeDtypeStruct(
      (replicas, *x.shape),
      x.dtype,
      sharding=NamedSharding(place.mesh, PartitionSpec()),
    )

  return jax.tree.map(stacked, state)._replace(step=state.step)


def split(tree: Any, replicas: int) -> list[Any]:
  """Returns a tree per replica, given one of arrays of all replicas."""
  if replicas == 1:
    return [tree]
  return [jax.tree.map(lambda x: x[i], tree) for i in range(replicas)]  # noqa: B023


def split_state(state: TrainState, replicas: int) -> list[TrainState]:
  """Returns the state of each replica."""
  if replicas == 1:
    return [state]
  rest = state._replace(step=())
  return [each._replace(step=state.step) for each in split(rest, replicas)]


def mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns the means of the numbers of several rows; one row as it is."""
  first, *others = rows
  if not others:
    return dict(first)
  names = [
    name
    for name in first
    if all(
      isinstance(row.get(name), int | float) and not isinstance(row[name], bool)
      for row in rows
    )
  ]
  return {name: sum(row[name] for row in rows) / len(rows) for name in names}


def _stacked(states: Sequence[TrainState]) -> TrainState:
  step = states[0].step
  rest = [state._replace(step=()) for state in states]
  return jax.tree.map(lambda *xs: jnp.stack(xs), *rest)._replace(step=step)
