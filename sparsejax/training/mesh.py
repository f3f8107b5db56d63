"""Where arrays lie: one mesh over all devices of all processes.

Parameters are replicated, batches are split along the axis `data`. One device
is a mesh of one.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_AXIS = "data"


def data_mesh() -> Mesh:
  """Make a mesh of all devices with the one axis `data`."""
  return jax.make_mesh(
    (jax.device_count(),), (_AXIS,), axis_types=(AxisType.Auto,)
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of what is split along its first axis."""
  return NamedSharding(mesh, PartitionSpec(_AXIS))


def batch_sharder(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
  """Returns a function that, inside jit, splits an array's first axis."""
  sharding = split(mesh)
  return lambda x: jax.lax.with_sharding_constraint(x, sharding)


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Put arrays that every process holds whole onto every device.

  Args:
    tree: numpy arrays, the same in all processes.
    mesh: the mesh.

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
  """Put this process's share of a batch onto its devices.

  Args:
    tree: numpy arrays; all processes give the same shapes.
    mesh: the mesh.

  Returns:
    The same tree of global arrays, split along the first axis.
  """
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(split(mesh), x), tree
  )


def fetch(tree: Any) -> Any:
  """Read replicated arrays as numpy arrays, from this process's devices."""
  return jax.tree.map(lambda x: jax.device_get(x.addressable_data(0)), tree)
