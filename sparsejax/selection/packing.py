"""Packings: the leaves of a layout as arrays that `select` searches.

* `blocks`: all leaves in one array of rows, each row within one layer. It is
  searched by one piece of code, but the leaves are copied.
* `rows`: small leaves so, large ones each in rows of their own, without a copy:
  on a CPU the first touch of new memory costs more than a search. Leaves of
  equal size share the code, since compilers know equal kernels.
* `leaves`: the leaves themselves. Nothing crosses a dimension, so arrays that
  are sharded over devices stay so.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool

from sparsejax.components.trees import Layout, SparseLeaf
from sparsejax.selection import search

_LARGEST_ROW = 4096
_SMALLEST_ROW = 128
_LARGE = 2**24  # weights of a leaf that is not copied


@dataclasses.dataclass(frozen=True)
class Packing:
  """Some arrays, cut into slices, each of which lies in one layer.

  Attributes:
    axes: for each array, the axis along which it is cut; None for one slice.
    layers: int[slices]; the layer of each slice, in tree order.
    offsets: int[slices]; the index in its layer of the first element.
    pack: leaves in layout order -> the arrays.
    cut: (the arrays, starts) -> leaves in layout order.
    inside: makes, for each array, bools of which elements are weights; None
      where all are.
    rows: the shape of each array of rows; None where arrays are leaves.
    starts: where leaves that share an array begin in it, in layout order.
  """

  axes: tuple[int | None, ...]
  layers: np.ndarray
  offsets: np.ndarray
  pack: Callable[[Sequence[Array]], list[Array]]
  cut: Callable[[Sequence[Array], Sequence[Any]], list[Array]]
  inside: Callable[[], list[Bool[Array, "..."] | None]]
  rows: tuple[tuple[int, int], ...] | None = None
  starts: tuple[np.uint32, ...] = ()

  def unpack(
    self, arrays: Sequence[Any], starts: Sequence[Any] | None = None
  ) -> list[Any]:
    """Returns the leaves in layout order.

    Args:
      arrays: packed.
      starts: `starts` as numbers that compilers do not know, operands of a
        branch: so one kernel cuts out all leaves of one shape.
    """
    return self.cut(arrays, self.starts if starts is None else starts)

  def contest(
    self, groups: Sequence[int] | np.ndarray, sizes: Sequence[int]
  ) -> search.Competition:
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
    return search.Competition(
      self.axes,
      tuple(of_layer[self.layers].tolist()),
      tuple((before[self.layers] + self.offsets).tolist()),
      least_groups=len(size) if self.rows else 0,
    )


def is_apart(arrays: Sequence[Array]) -> bool:
  """Says whether arrays may be sharded over devices: their types name a mesh.

  Args:
    arrays: what will be packed, also inside jit.
  """
  meshes = [jax.typeof(array).sharding.mesh for array in arrays]
  return any(not mesh.empty and mesh.size > 1 for mesh in meshes)


def choose(layout: Layout, apart: bool) -> Packing:
  """Returns `leaves` for arrays that may be sharded over devices, or `rows`."""
  return leaves(layout) if apart else rows(layout)


def leaves(layout: Layout) -> Packing:
  """Takes every leaf as it is."""
  return Packing(
    axes=layout.axes,
    layers=np.arange(len(layout.sizes)),
    offsets=np.zeros(len(layout.sizes), np.int64),
    pack=list,
    cut=lambda arrays, starts: list(arrays),
    inside=lambda: [None] * len(layout.leaves),
  )


def rows(layout: Layout) -> Packing:
  """Takes large leaves as they are, in rows, and `blocks` of the others."""
  lengths = [_own_row(leaf) for leaf in layout.leaves]
  large = [i for i, length in enumerate(lengths) if length]
  small = [i for i, length in enumerate(lengths) if not length]
  if not large:
    return blocks(layout)
  shapes = [
    (math.prod(layout.leaves[i].shape) // lengths[i], lengths[i]) for i in large
  ]
  axes: list[int | None] = [0] * len(large)
  layers = [
    np.repeat(layout.layers_of(i), n)
    for i, (n, _) in zip(large, shapes, strict=True)
  ]
  offsets = [np.arange(n) * length for n, length in shapes]
  rest = None
  if small:
    rest = blocks(Layout(tuple(layout.leaves[i] for i in small)))
    numbers = np.concatenate([layout.layers_of(i) for i in small])
    axes += rest.axes
    layers.append(numbers[rest.layers])
    offsets.append(rest.offsets)

  def pack(leaves):
    own = [
      leaves[i].reshape(shape) for i, shape in zip(large, shapes, strict=True)
    ]
    return own + (rest.pack([leaves[i] for i in small]) if rest else [])

  def cut(arrays, starts):
    leaves = [arrays[0]] * len(layout.leaves)
    for i, array in zip(large, arrays[: len(large)], strict=True):
      leaves[i] = array.reshape(layout.leaves[i].shape)
    if rest:
      others = rest.unpack(arrays[len(large) :], starts)
      for i, leaf in zip(small, others, strict=True):
        leaves[i] = leaf
    return leaves

  return Packing(
    tuple(axes),
    np.concatenate(layers),
    np.concatenate(offsets),
    pack,
    cut,
    lambda: [None] * len(large) + (rest.inside() if rest else []),
    tuple(shapes) + (rest.rows or () if rest else ()),
    rest.starts if rest else (),
  )


def blocks(layout: Layout) -> Packing:
  """Cuts every layer into rows of one array, the last row padded."""
  row = _row_size(layout)
  heights = [-(-size // row) for size in layout.sizes]
  ends = np.cumsum(heights)
  total = int(ends[-1])
  layers = np.repeat(np.arange(len(heights)), heights)
  offsets = (np.arange(total) - np.repeat(ends - heights, heights)) * row
  left = np.asarray(layout.sizes)[layers] - offsets
  left = np.clip(left, 0, row).astype(np.int32)

  def inside() -> list[Array | None]:
    if (left == row).all():
      return [None]
    return [jnp.arange(row, dtype=jnp.int32) < jnp.asarray(left)[:, None]]

  def pack(leaves):
    parts = []
    for leaf, array in zip(layout.leaves, leaves, strict=True):
      size = math.prod(leaf.layer_shape)
      if leaf.axis is not None:
        array = jnp.moveaxis(array, leaf.axis, 0)
      if size % row:
        flat = array.reshape(leaf.num_layers, size)
        array = jnp.pad(flat, ((0, 0), (0, -size % row)))
      parts.append(array.ravel())
    flat = jnp.concatenate(parts) if len(parts) > 1 else parts[0]
    return [flat.reshape(total, row)]

  lengths = [
    leaf.num_layers * math.ceil(math.prod(leaf.layer_shape) / row) * row
    for leaf in layout.leaves
  ]

  def cut(arrays, starts):
    (array,) = arrays
    flat, leaves = array.ravel(), []
    for leaf, start, length in zip(layout.leaves, starts, lengths, strict=True):
      part = lax.dynamic_slice(flat, (start,), (length,))
      size = math.prod(leaf.layer_shape)
      if size % row:
        part = part.reshape(leaf.num_layers, -1)[:, :size]
      if leaf.axis is None:
        leaves.append(part.reshape(leaf.shape))
      else:
        part = part.reshape(leaf.num_layers, *leaf.layer_shape)
        leaves.append(jnp.moveaxis(part, 0, leaf.axis))
    return leaves

  starts = map(np.uint32, itertools.accumulate(lengths[:-1], initial=0))
  return Packing(
    (0,), layers, offsets, pack, cut, inside, ((total, row),), tuple(starts)
  )


def _own_row(leaf: SparseLeaf) -> int:
  """Length of the rows that a leaf is cut into without a copy, 0 for none."""
  size = math.prod(leaf.shape)
  length = math.gcd(size, _LARGEST_ROW)
  alone = leaf.axis is None and size >= _LARGE and length >= _SMALLEST_ROW
  return length if alone else 0


def _row_size(layout: Layout) -> int:
  """A power of two, so small that padding costs an eighth at the most."""
  mean = sum(layout.sizes) / (4 * len(layout.sizes))
  row = 2 ** math.floor(math.log2(max(mean, 1)))
  return min(max(row, _SMALLEST_ROW), _LARGEST_ROW)
