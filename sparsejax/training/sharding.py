"""Data parallelism: one mesh over all devices of all processes.

Parameters are replicated and batches are sharded along the mesh axis `data`. A
single device is a mesh of size one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

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


class LocalBatch(NamedTuple):
  """The part of every batch that this process reads.

  Attributes:
    rows: positions in the batch that its devices hold, ascending.
    of_device: for each of its devices, which of `rows` it holds.
    batch_size: global batch size B.
    sharding: of a batch.
  """

  rows: list[int]
  of_device: dict[jax.Device, slice]
  batch_size: int
  sharding: NamedSharding


def local_batch(mesh: Mesh, batch_size: int) -> LocalBatch:
  """Find the part of every batch that this process reads.

  Args:
    mesh: device mesh.
    batch_size: global batch size B, a multiple of the number of shards.

  Returns:
    The rows, the same for every batch of that size.
  """
  sharding = batch_sharding(mesh)
  found = sharding.addressable_devices_indices_map((batch_size,))
  held = {
    device: range(batch_size)[index]
    for device, indices in found.items()
    for index in indices or ()
  }
  rows = sorted({row for rows in held.values() for row in rows})
  starts = {device: rows.index(held[device][0]) for device in held}
  of_device = {
    device: slice(start, start + len(held[device]))
    for device, start in starts.items()
  }
  return LocalBatch(rows, of_device, batch_size, sharding)


def put_batch(tree: Any, local: LocalBatch) -> Any:
  """Copy this process's rows of a batch to its devices.

  Args:
    tree: numpy arrays of the rows `local.rows`.
    local: of this process.

  Returns:
    The same tree of global arrays, sharded along the first axis.
  """

  def put(x: np.ndarray) -> jax.Array:
    # The loop allows transfers by `device_put`, but those of
    # `jax.make_array_from_process_local_data` only on one process.
    shards = [
      jax.device_put(x[rows], device)
      for device, rows in local.of_device.items()
    ]
    return jax.make_array_from_single_device_arrays(
      (local.batch_size, *x.shape[1:]), local.sharding, shards
    )

  return jax.tree.map(put, tree)


def fetch(tree: Any) -> Any:
  """Copy replicated arrays to the host, as numpy arrays."""
  return jax.tree.map(lambda x: jax.device_get(x.addressable_data(0)), tree)
