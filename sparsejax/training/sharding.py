"""Data parallelism: one mesh over all devices of all processes.

Parameters are replicated and batches are sharded along the mesh axis `data`. A
single device is a mesh of size one.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_AXIS = "data"


def data_mesh() -> Mesh:
  """Make a mesh of all devices with the single axis `data`."""
  return jax.make_mesh(
    (jax.device_count(),), (_AXIS,), axis_types=(AxisType.Auto,)
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding with a full copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding along the first array axis."""
  return NamedSharding(mesh, PartitionSpec(_AXIS))


def batch_sharder(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
  """Returns a function that shards an array's first axis inside jit."""
  sharding = batch_sharding(mesh)
  return lambda x: jax.lax.with_sharding_constraint(x, sharding)


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Copy arrays to every device.

  Args:
    tree: numpy arrays, the same in all processes.
    mesh: device mesh.

  Returns:
    The same tree of global arrays.
  """

  def put(x: np.ndarray) -> jax.Array:
    x = np.asarray(x)
    return jax.make_array_from_callback(
      x.shape, replicated(mesh), lambda index: x[index]
    )

  return jax.tree.map(put, tree)


def put_batch(tree: Any, mesh: Mesh) -> Any:
  """Copy this process's shard of a batch to its devices.

  Args:
    tree: numpy arrays; shapes are the same in all processes.
    mesh: device mesh.

  Returns:
    The same tree of global arrays, sharded along the first axis.
  """
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(batch_sharding(mesh), x),
    tree,
  )


def fetch(tree: Any) -> Any:
  """Copy replicated arrays to the host, as numpy arrays."""
  return jax.tree.map(lambda x: jax.device_get(x.addressable_data(0)), tree)
