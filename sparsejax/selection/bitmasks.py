"""Masks in one bit a weight, between the conditional and what reads them.

The state holds bools. Inside a step, masks are read from bits:
a step that reads bits moves an eighth of the bytes, and bools that both the
state and the step read would be copied by XLA at every step (GraNet's donated
step took 1.75 times the plain one instead of 1.24). Selecting by bit arithmetic
in place of `where` was faster still, but changed the last bits of updates.

Eight neighbors along one axis share a byte. That axis is not the last one if
there is another, so that neighbors in memory lie in neighboring bytes at the
same bit, and compilers vectorize the unpacking.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax
from jaxtyping import Array, Bool, UInt8

_BITS = 8


def packed_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shape of the bytes that hold a mask of `shape`."""
  if not shape:
    return ()
  axis = _axis(shape)
  return (*shape[:axis], -(-shape[axis] // _BITS), *shape[axis + 1 :])


@jax.jit
def pack(mask: Bool[Array, "*dims"]) -> UInt8[Array, "*bytes"]:
  """Returns bytes of shape `packed_shape(mask.shape)`, least bit first."""
  shape = mask.shape
  if not shape:
    return mask.astype(jnp.uint8)
  axis, size = _axis(shape), packed_shape(shape)
  missing = size[axis] * _BITS - shape[axis]
  if missing:
    ends = [(0, missing if d == axis else 0) for d in range(len(shape))]
    mask = jnp.pad(mask, ends)
  eights = mask.reshape(*size[: axis + 1], _BITS, *shape[axis + 1 :])
  places = _places(eights.ndim, axis + 1)
  return jnp.sum(
    eights.astype(jnp.uint8) << places, axis=axis + 1, dtype=jnp.uint8
  )


@functools.partial(jax.jit, static_argnums=1)
def unpack(
  packed: UInt8[Array, "*bytes"], shape: tuple[int, ...]
) -> Bool[Array, "*dims"]:
  """Returns the mask of `shape` that `pack` was given."""
  if not shape:
    return packed != 0
  axis = _axis(shape)
  eights = jnp.expand_dims(packed, axis + 1)
  bits = eights & (np.uint8(1) << _places(eights.ndim, axis + 1))
  size = packed.shape[axis] * _BITS
  mask = (bits != 0).reshape(*shape[:axis], size, *shape[axis + 1 :])
  return lax.slice_in_dim(mask, 0, shape[axis], axis=axis)


class Carrier(NamedTuple):
  """How masks travel from where they are computed to where they are read.

  `unpack` takes what `pack` returned, and objects with the masks' shapes.
  """

  pack: Callable[[Sequence[Array]], list[Array]]
  unpack: Callable[[Sequence[Array], Sequence[Any]], list[Array]]


_AS_BITS = Carrier(
  pack=lambda masks: [pack(mask) for mask in masks],
  unpack=lambda packed, like: [
    unpack(bits, x.shape) for bits, x in zip(packed, like, strict=True)
  ],
)
_AS_BOOLS = Carrier(pack=list, unpack=lambda packed, like: list(packed))


def carrier(arrays: Sequence[Array], *, sharded: bool) -> Carrier:
  """Returns bits inside jit, and else the masks as they are.

  Those of `arrays` that are sharded over devices stay as they are, because
  packing reads along an axis.
  """
  traced = any(isinstance(array, core.Tracer) for array in arrays)
  return _AS_BITS if traced and not sharded else _AS_BOOLS


def _axis(shape: tuple[int, ...]) -> int:
  """The axis with the least padding, of those before the last the latest."""
  axes = range(max(len(shape) - 1, 1))
  padded = [-(-shape[d] // _BITS) * _BITS / max(shape[d], 1) for d in axes]
  return min(axes, key=lambda d: (padded[d], -d))


def _places(ndim: int, axis: int) -> Array:
  """Returns 0 to 7 along an axis, counted in the kernel that reads them.

  As a constant they would be its operand, now before and now after another one,
  and kernels of equal leaves would be compiled twice.
  """
  shape = [_BITS if d == axis else 1 for d in range(ndim)]
  return lax.broadcasted_iota(jnp.uint8, shape, axis)
