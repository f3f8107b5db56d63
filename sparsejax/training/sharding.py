"""Where arrays lie on the devices of all processes.

The mesh has three axes, whose sizes `config.mesh` sets:

    data    each device has other examples, and the same weights
    fsdp    each device has other examples, and another part of the weights
    tensor  each device has the same examples, and another part of the weights

A step gathers the weights that lie on different devices of `fsdp` and trains
with whole ones, as on `data`. Those of `tensor` stay where they are, and XLA
splits the computation. A single device is a mesh of size one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)

from sparsejax import command_line

AXES = ("data", "fsdp", "tensor")
"""The axes of a mesh; examples are sharded over the first two."""

DEFAULT = {"data": -1, "fsdp": 1, "tensor": 1}
"""The sizes of the axes; -1 stands for all devices that are left."""

_BATCH = ("data", "fsdp")
_WEIGHTS = ("fsdp", "tensor")


def axis_sizes(sizes: Mapping[str, int], devices: int) -> tuple[int, ...]:
  """Find the sizes of the axes of a mesh.

  Args:
    sizes: of each of `AXES`, positive, or -1 for all devices that are left.
    devices: number of devices.

  Returns:
    The sizes, in the order of `AXES`.

  Raises:
    InputError: if their product is not the number of devices.
  """
  given = [sizes[axis] for axis in AXES]
  text = ", ".join(f"{axis} {sizes[axis]}" for axis in AXES)
  if min(given) < -1 or 0 in given or given.count(-1) > 1:
    raise command_line.InputError(
      "`config.mesh` must have positive sizes, and -1 for at most one, got"
      f" {text}."
    )
  known = math.prod(size for size in given if size != -1)
  rest = devices // known
  found = tuple(rest if size == -1 else size for size in given)
  if math.prod(found) != devices:
    raise command_line.InputError(
      "`config.mesh` must have sizes whose product is the number of devices,"
      f" {devices}, got {text}. Set `config.mesh.data` to -1 for all devices"
      " that are left."
    )
  return found


def batch_shards(sizes: Mapping[str, int]) -> int:
  """Returns into how many parts a batch is sharded on all devices.

  Raises InputError as `axis_sizes` does.
  """
  found = axis_sizes(sizes, jax.device_count())
  return math.prod(found[AXES.index(axis)] for axis in _BATCH)


def shards_weights(sizes: Mapping[str, int]) -> bool:
  """Returns whether a mesh of all devices may shard weights.

  Raises InputError as `axis_sizes` does.
  """
  found = axis_sizes(sizes, jax.device_count())
  return any(
    size > 1 for axis, size in zip(AXES, found, strict=True) if axis in _WEIGHTS
  )


def make_mesh(
  sizes: Mapping[str, int] = DEFAULT,
  *,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """Make a mesh.

  Args:
    sizes: as in `axis_sizes`; by default, all devices are on `data`.
    devices: of the mesh; by default, all devices of all processes.

  Returns:
    The mesh, with the axes `AXES`.

  Raises:
    InputError: as in `axis_sizes`.
  """
  devices = jax.devices() if devices is None else devices
  shape = axis_sizes(sizes, len(devices))
  types = (AxisType.Auto,) * len(AXES)
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if slices == 1:
    return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
  outer = over_slices(shape, slices)
  inner = [size // each for size, each in zip(shape, outer, strict=True)]
  grid = mesh_utils.create_hybrid_device_mesh(
    inner, outer, devices, allow_split_physical_axes=True
  )
  return Mesh(grid, AXES, axis_types=types)


def over_slices(shape: tuple[int, ...], slices: int) -> list[int]:
  """Returns how often each axis crosses the slow network between slices.

  Earlier axes communicate less, so they cross it first.

  Args:
    shape: sizes of the axes; `slices` divides their product.
    slices: TPU slices, or machines with GPUs.
  """
  outer = []
  for size in shape:
    outer.append(math.gcd(size, slices))
    slices //= outer[-1]
  return outer


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
  """Returns the sharding with a full copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of examples along the first array axis."""
  return NamedSharding(mesh, PartitionSpec(_BATCH))


def batch_sharder(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
  """Returns a function that shards an array's first axis inside jit."""
  sharding = batch_sharding(mesh)
  return lambda x: jax.lax.with_sharding_constraint(x, sharding)


def of(tree: Any) -> Any:
  """Returns the sharding of every leaf, of arrays or of their shapes."""
  return jax.tree.map(lambda x: x.sharding, tree)


def put(tree: Any, shardings: Any) -> Any:
  """Copy arrays of the host to the devices.

  Args:
    tree: numpy arrays, the same in all processes.
    shardings: a tree with as many leaves.

  Returns:
    Global arrays in the tree of `shardings`.
  """

  def place(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    x = np.asarray(x)
    return jax.make_array_from_callback(
      x.shape, sharding, lambda index: x[index]
    )

  places, structure = jax.tree.flatten(shardings)
  # By leaves: a checkpoint that was read has None for a node without arrays.
  leaves = zip(jax.tree.leaves(tree), places, strict=True)
  return jax.tree.unflatten(structure, [place(*each) for each in leaves])


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Returns arrays of the host, the same in all processes, on every device."""
  whole = replicated(mesh)
  return put(tree, jax.tree.map(lambda _: whole, tree))


class LocalBatch(NamedTuple):
  """The part of every batch that this process reads.

  Attributes:
    rows: positions in the batch that its devices hold, ascending.
    of_device: device of this process -> which of `rows` it holds.
    batch_size: global batch size B.
    sharding: of a batch.
  """

  rows: list[int]
  of_device: dict[Any, slice]
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
  """Copy whole arrays to the host of every process; a collective call.

  A sharded array is gathered first, so it has to fit on one device, and all of
  the arrays in the memory of the host.

  Args:
    tree: global arrays.

  Returns:
    The same tree of numpy arrays.
  """

  def whole(x: jax.Array) -> np.ndarray:
    if x.is_fully_addressable:
      return jax.device_get(x)
    if not x.is_fully_replicated:
      place: Any = x.sharding
      x = jax.device_put(x, replicated(place.mesh))
    return jax.device_get(x.addressable_data(0))

  return jax.tree.map(whole, tree)
