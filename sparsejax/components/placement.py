"""Where arrays lie: whole on every device, or sharded over several."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import core
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType
from jaxtyping import Array, PyTree

try:  # jax 0.12 has none.
  from jax.experimental.shard_alike import shard_alike
except ModuleNotFoundError:
  shard_alike = None


def may_be_sharded(arrays: Iterable[Any]) -> bool:
  """Whether arrays are sharded over devices, or may be.

  Inside jit an array does not tell how it lies along mesh axes of type `Auto`,
  so on several devices it may be sharded.
  """
  return any(map(_may_be_sharded, arrays))


def is_sharded(array: Any) -> bool:
  """Whether an array is known to be sharded."""
  if _is_concrete(array):
    return not array.sharding.is_fully_replicated
  return any(axis is not None for axis in jax.typeof(array).sharding.spec)


def copied(mask: Any, like: Any) -> Array:
  """Returns a copy of a mask, one on the host where an array of its shape is.

  It is not put whole on one device first.
  """
  if isinstance(mask, jax.Array) or not isinstance(like, jax.Array):
    return jnp.array(mask, bool)
  if not _is_concrete(like):
    return jnp.array(mask, bool)
  on_host = np.asarray(mask, bool)
  return jax.device_put(on_host, like.sharding, may_alias=False)


def alike(x: Array, like: Array) -> Array:
  """Returns `x` sharded as an array of the same shape; on one device, `x`.

  Inside jit the compiler looks up how that is.
  """
  sharding = jax.typeof(like).sharding
  if not _on_several_devices(sharding.mesh):
    return x
  if any(axis is not None for axis in sharding.spec):
    return jax.sharding.reshard(x, sharding)
  if _is_concrete(x) and _is_concrete(like) and x.sharding == like.sharding:
    return x
  return _tied(x, like) if shard_alike is None else shard_alike(x, like)[0]


def trees_alike(tree: PyTree, like: PyTree) -> PyTree:
  """Places every tree within `tree` that is built as `like` is.

  Leaves of another shape than those of `like` stay where they are.
  """
  structure = jax.tree.structure(like)

  def is_like(node: Any) -> bool:
    return jax.tree.structure(node) == structure

  def place(x: Any, other: Any) -> Any:
    return alike(x, other) if x.shape == other.shape else x

  return jax.tree.map(
    lambda node: jax.tree.map(place, node, like) if is_like(node) else node,
    tree,
    is_leaf=is_like,
  )


def _may_be_sharded(array: Any) -> bool:
  if not isinstance(array, jax.Array):
    return False
  if is_sharded(array) or _is_concrete(array):
    return is_sharded(array)
  mesh = jax.typeof(array).sharding.mesh
  return _on_several_devices(mesh) and AxisType.Auto in mesh.axis_types


def _is_concrete(array: Any) -> bool:
  return not isinstance(array, core.Tracer)


def _on_several_devices(mesh: Any) -> bool:
  return not mesh.empty and mesh.size > 1


@custom_partitioning
def _partitioned(x: Array, like: Array) -> Array:
  """Returns `x`; the compiler shards it as `like`."""
  del like
  return x


def _partition(mesh: Any, operands: Any, result: Any) -> tuple[Any, ...]:
  del result
  place = operands[1].sharding
  return mesh, lambda x, like: x, place, (place, place)


_partitioned.def_partition(
  partition=_partition,
  infer_sharding_from_operands=lambda mesh, operands, result: (
    operands[1].sharding
  ),
  sharding_rule="..., ... -> ...",
)


@custom_vmap
def _tied(x: Array, like: Array) -> Array:
  """As `_partitioned`, also under `vmap`.

  A backend without devices, such as the compiler for TPUs that are not there,
  does not know it, so that `shard_alike` is used where jax has it.
  """
  return _partitioned(x, like)


def _tied_copies(size: int, batched: list[bool], *arrays: Array) -> Any:
  x, like = (
    array if is_batched else jnp.broadcast_to(array, (size, *array.shape))
    for array, is_batched in zip(arrays, batched, strict=True)
  )
  return _tied(x, like), True


_tied.def_vmap(_tied_copies)
