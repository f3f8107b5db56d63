"""A conditional that stays one under `vmap`.

`lax.cond` becomes a select where its predicate is batched, and computes both
branches: each of several networks that train in one program would pay for a
mask update at every step. Here the conditional asks whether the predicate holds
for any of them; only then are both branches computed, and selected from.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import core, lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool

T = TypeVar("T")


def cond(
  predicate: Bool[Array, ""],
  true_fn: Callable[[], T],
  false_fn: Callable[[], T],
) -> T:
  """Returns what one of two functions returns.

  Where the predicate is known, as outside jit, that function is called: a
  conditional would be compiled again at every call.

  Args:
    predicate: bool[].
    true_fn: returns a tree of arrays.
    false_fn: returns the same tree of shapes and dtypes.
  """
  if not isinstance(predicate, core.Tracer):
    return true_fn() if predicate else false_fn()

  def chosen() -> T:
    return jax.tree.map(
      lambda new, old: _select(predicate, new, old), true_fn(), false_fn()
    )

  return lax.cond(_in_any(predicate), chosen, false_fn)


@custom_vmap
def _in_any(predicate: Array) -> Array:
  """Returns the predicate; under `vmap`, whether it holds in any copy."""
  return predicate


def _in_any_copy(size: int, batched: list[bool], predicate: Array) -> Any:
  del size
  return _in_any(jnp.any(predicate) if batched[0] else predicate), False


@custom_vmap
def _select(predicate: Array, new: Array, old: Array) -> Array:
  """Returns `new`; under `vmap`, `old` in the copies that did not ask."""
  del predicate, old
  return new


def _select_in_each(
  size: int, batched: list[bool], predicate: Array, *values: Any
) -> Any:
  if not batched[0]:
    return _select(predicate, *values), batched[1]
  new, old = (
    x if is_batched else jnp.broadcast_to(x, (size, *jnp.shape(x)))
    for x, is_batched in zip(values, batched[1:], strict=True)
  )
  asked = predicate.reshape(size, *[1] * (new.ndim - 1))
  return jnp.where(asked, new, old), True


_in_any.def_vmap(_in_any_copy)
_select.def_vmap(_select_in_each)
