"""Masks in one bit a weight, inside a step and, if requested, in the state.

Eight neighbours along one axis share a byte. That axis is not the last one if
there is another, so that neighbours in memory lie in neighbouring bytes at the
same bit and compilers vectorise the unpacking. A step that reads bits is faster
than one that reads bools, because it moves an eighth of the bytes.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax
from jaxtyping import Array, Bool, PyTree, UInt8

from sparsejax.method import Masks

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
  apart = mask.reshape(*size[: axis + 1], _BITS, *shape[axis + 1 :])
  places = _places(apart.ndim, axis + 1)
  return jnp.sum(
    apart.astype(jnp.uint8) << places, axis=axis + 1, dtype=jnp.uint8
  )


@functools.partial(jax.jit, static_argnums=1)
def unpack(
  packed: UInt8[Array, "*bytes"], shape: tuple[int, ...]
) -> Bool[Array, "*dims"]:
  """Returns the mask of `shape` that `pack` was given."""
  if not shape:
    return packed != 0
  axis = _axis(shape)
  apart = jnp.expand_dims(packed, axis + 1)
  bits = apart & (np.uint8(1) << _places(apart.ndim, axis + 1))
  size = packed.shape[axis] * _BITS
  mask = (bits != 0).reshape(*shape[:axis], size, *shape[axis + 1 :])
  return lax.slice_in_dim(mask, 0, shape[axis], axis=axis)


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=["bits"], meta_fields=["shape"]
)
@dataclasses.dataclass(frozen=True)
class PackedMask:
  """A mask in one bit a weight, as a state holds it.

  Attributes:
    bits: uint8 of `packed_shape(shape)`.
    shape: of the mask.
  """

  bits: UInt8[Array, "*bytes"]
  shape: tuple[int, ...]


def pack_tree(masks: Masks) -> PyTree:
  """Returns a tree of bools as one of `PackedMask`."""
  return jax.tree.map(lambda mask: PackedMask(pack(mask), mask.shape), masks)


def unpack_tree(masks: PyTree) -> Masks:
  """Returns the tree of bools; leaves that are not packed stay."""

  def is_packed(node: object) -> bool:
    return isinstance(node, PackedMask)

  return jax.tree.map(
    lambda mask: unpack(mask.bits, mask.shape) if is_packed(mask) else mask,
    masks,
    is_leaf=is_packed,
  )


class Carrier(NamedTuple):
  """How masks pass from where they are made to where they are read.

  Attributes:
    pack: masks -> arrays that hold them.
    unpack: (such arrays, what has the masks' shapes) -> the masks.
  """

  pack: Callable[[Sequence[Array]], list[Array]]
  unpack: Callable[[Sequence[Array], Sequence[Any]], list[Array]]


AS_BITS = Carrier(
  pack=lambda masks: [pack(mask) for mask in masks],
  unpack=lambda packed, like: [
    unpack(bits, x.shape) for bits, x in zip(packed, like, strict=True)
  ],
)
_AS_THEY_ARE = Carrier(pack=list, unpack=lambda packed, like: list(packed))


def carrier(arrays: Sequence[Array]) -> Carrier:
  """Returns bits inside jit on one device, and else the masks as they are.

  Packing reads along an axis, which may be sharded over several devices.

  Args:
    arrays: those that the masks belong to; their types name the mesh.
  """
  meshes = [jax.typeof(array).sharding.mesh for array in arrays]
  apart = any(not mesh.empty and mesh.size > 1 for mesh in meshes)
  traced = any(isinstance(array, core.Tracer) for array in arrays)
  return AS_BITS if traced and not apart else _AS_THEY_ARE


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
