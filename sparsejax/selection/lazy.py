"""Arrays that are computed where they are read, and never written to memory.

A search reads every score about four times. On a CPU, writing 25 million
float32 scores once and reading them back costs more than computing `|w|` again
in the kernel that counts, so scores travel as the function that makes them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["inputs"],
  meta_fields=["make", "shape", "dtype"],
)
@dataclasses.dataclass(frozen=True)
class LazyArray:
  """A function and its inputs, in place of the array that it returns."""

  make: Callable[..., Array]
  inputs: tuple[Any, ...]
  shape: tuple[int, ...]
  dtype: Any = np.dtype(np.float32)


def lazy(make: Callable[..., Array], *inputs: Any) -> LazyArray:
  """Returns `make(*inputs)` as a lazy array; inputs are trees of arrays.

  It holds only the arrays that `make` computes with: the others would be
  operands of every loop and conditional that the lazy array passes through.
  """
  leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, inputs))
  traced = jax.make_jaxpr(lambda *x: make(*jax.tree.unflatten(treedef, x)))(
    *leaves
  ).jaxpr
  read = {id(x) for e in traced.eqns for x in e.invars}
  read |= {id(x) for x in traced.outvars}
  used = [id(x) in read for x in traced.invars]
  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]

  def from_used(*arrays):
    rest = iter(arrays)
    filled = [next(rest) if u else s for u, s in zip(used, shapes, strict=True)]
    return make(*jax.tree.unflatten(treedef, filled))

  (out,) = traced.outvars
  return LazyArray(
    from_used,
    tuple(x for x, u in zip(leaves, used, strict=True) if u),
    out.aval.shape,
    out.aval.dtype,
  )


def materialize(x: Any) -> Any:
  """Returns the array of a lazy array; an array or None is returned as is."""
  return x.make(*x.inputs) if isinstance(x, LazyArray) else x
