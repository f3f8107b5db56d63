"""Packings: the leaves of a layout as few arrays, so that they share code.

Compiling a search once per leaf takes most of a minute for a ResNet-50. Two
packings avoid it, and `select` works on either:

* `blocks`: all leaves in one array of rows, each row within one layer. The
  code is compiled once; the leaves are copied.
* `stacks`: leaves of equal shape are stacked along a new axis. Nothing crosses
  a dimension of a leaf, so arrays that are sharded over devices stay so.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from sparsejax import masks
from sparsejax.trees import Layout

_LARGEST_ROW = 8192
_SMALLEST_ROW = 128


@dataclasses.dataclass(frozen=True)
class Packing:
  """Some arrays, cut into slices, each of which lies in one layer.

  Attributes:
    axes: for each array, the axis along which it is cut; None for one slice.
    layers: int[slices]; the layer of each slice, in tree order.
    offsets: int[slices]; the index in its layer of the first element.
    pack: leaves in layout order -> the arrays.
    unpack: the arrays -> leaves in layout order.
    inside: makes, for each array, bools of which elements are weights; None
      where all are.
    rows: length of the rows of the one array of `blocks`, None for `stacks`.
  """

  axes: tuple[int | None, ...]
  layers: np.ndarray
  offsets: np.ndarray
  pack: Callable[[Sequence[Array]], list[Array]]
  unpack: Callable[[Sequence[Array]], list[Array]]
  inside: Callable[[], list[Bool[Array, "..."] | None]]
  rows: int | None = None

  def contest(
    self, groups: Sequence[int] | np.ndarray, sizes: Sequence[int]
  ) -> masks.Competition:
    """Returns the competition of layers, as one of slices.

    Args:
      groups: int[layers]; the group that each layer competes in.
      sizes: weights of each layer.
    """
    of_layer, size = np.asarray(groups), np.asarray(sizes)
    before = np.zeros_like(size)
    for group in range(of_layer.max(initial=-1) + 1):
      members = of_layer == group
      before[members] = np.cumsum(size[members]) - size[members]
    return masks.Competition(
      self.axes,
      tuple(of_layer[self.layers].tolist()),
      tuple((before[self.layers] + self.offsets).tolist()),
    )


def choose(layout: Layout, arrays: Sequence[Array]) -> Packing:
  """Returns `stacks` for arrays that may be sharded over devices, or `blocks`.

  Args:
    layout: the sparse leaves.
    arrays: what will be packed; their types name the mesh, also inside jit.
  """
  meshes = [jax.typeof(array).sharding.mesh for array in arrays]
  if any(not mesh.empty and mesh.size > 1 for mesh in meshes):
    return stacks(layout)
  return blocks(layout)


def stacks(layout: Layout) -> Packing:
  """Stacks leaves of equal shape; a leaf of several layers stands alone."""
  alike: dict[tuple, list[int]] = {}
  for number, leaf in enumerate(layout.leaves):
    alone = None if leaf.axis is None else number
    alike.setdefault((leaf.shape, alone), []).append(number)
  members = list(alike.values())

  def pack(leaves):
    return [
      leaves[m[0]] if len(m) == 1 else jnp.stack([leaves[i] for i in m])
      for m in members
    ]

  def unpack(arrays):
    leaves = [arrays[0]] * len(layout.leaves)
    for numbers, array in zip(members, arrays, strict=True):
      for i, number in enumerate(numbers):
        leaves[number] = array if len(numbers) == 1 else array[i]
    return leaves

  layers = [layout.layers_of(number) for m in members for number in m]
  return Packing(
    axes=tuple(layout.leaves[m[0]].axis if len(m) == 1 else 0 for m in members),
    layers=np.concatenate(layers),
    offsets=np.zeros(len(layout.sizes), np.int64),
    pack=pack,
    unpack=unpack,
    inside=lambda: [None] * len(members),
  )


def blocks(layout: Layout) -> Packing:
  """Cuts every layer into rows of one array, the last row padded."""
  row = _row_size(layout)
  rows = [-(-size // row) for size in layout.sizes]
  ends = np.cumsum(rows)
  total = int(ends[-1])
  layers = np.repeat(np.arange(len(rows)), rows)
  offsets = (np.arange(total) - np.repeat(ends - rows, rows)) * row
  left = np.asarray(layout.sizes)[layers] - offsets
  left = np.clip(left, 0, row).astype(np.int32)

  def inside() -> list[Array | None]:
    if (left == row).all():
      return [None]
    return [jnp.arange(row, dtype=jnp.int32) < jnp.asarray(left)[:, None]]

  def pack(leaves):
    parts = []
    for leaf, array in zip(layout.leaves, leaves, strict=True):
      if leaf.axis is not None:
        array = jnp.moveaxis(array, leaf.axis, 0)
      size = math.prod(leaf.layer_shape)
      flat = array.reshape(leaf.num_layers, size)
      if size % row:
        flat = jnp.pad(flat, ((0, 0), (0, -size % row)))
      parts.append(flat.ravel())
    flat = jnp.concatenate(parts) if len(parts) > 1 else parts[0]
    return [flat.reshape(total, row)]

  def unpack(arrays):
    (array,) = arrays
    flat, leaves, start = array.ravel(), [], 0
    for leaf in layout.leaves:
      size = math.prod(leaf.layer_shape)
      padded = size + -size % row
      stop = start + leaf.num_layers * padded
      part = flat[start:stop].reshape(leaf.num_layers, padded)[:, :size]
      start = stop
      if leaf.axis is None:
        leaves.append(part.reshape(leaf.shape))
      else:
        part = part.reshape(leaf.num_layers, *leaf.layer_shape)
        leaves.append(jnp.moveaxis(part, 0, leaf.axis))
    return leaves

  return Packing((0,), layers, offsets, pack, unpack, inside, row)


def _row_size(layout: Layout) -> int:
  """A power of two, so small that padding costs an eighth at the most."""
  mean = sum(layout.sizes) / (4 * len(layout.sizes))
  row = 2 ** math.floor(math.log2(max(mean, 1)))
  return min(max(row, _SMALLEST_ROW), _LARGEST_ROW)
