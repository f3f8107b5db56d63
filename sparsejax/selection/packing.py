"""Packing: the leaves of a layout as the arrays that `select` searches.

XLA compiles one kernel for each shape that a search reads, so 54 leaves of a
ResNet-50 should not be 54 arrays. There are three packings:

* `blocks`: all leaves in one array of rows, each row within one layer. One
  kernel searches it, but the leaves are copied.
* `rows`: small leaves in blocks, and each large one reshaped to rows without a
  copy: on a CPU the first touch of new memory costs more than a search. Leaves
  of equal size share the kernels.
* `leaves`: the leaves as they are. Nothing crosses a dimension, so arrays that
  are sharded over devices stay so.

Rows of 4,096 elements pad less than longer ones and vectorize as well.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool

from sparsejax.components import wide_counts
from sparsejax.method import Layout, SparseLeaf
from sparsejax.selection.groups import Groups

_LARGEST_ROW = 4096
_SMALLEST_ROW = 128
_LARGE = 2**24  # weights of a leaf that is not copied


@dataclasses.dataclass(frozen=True)
class Packing:
  """Arrays that hold the leaves, divided into slices within one layer each.

  Attributes:
    axes: for each array, the axis along which it is divided into slices; None
      for one slice.
    layers: int[slices]; the layer of each slice, in tree order.
    offsets: int[slices]; the index in its layer of the first element.
    sizes: weights of each layer.
    pack: leaves in layout order -> the arrays.
    slice: (the arrays, starts) -> leaves in layout order.
    is_weight: makes, for each array, bools of which elements are weights and
      not padding; None where all are.
    rows: the shape of each array of rows; None where arrays are leaves.
    starts: where leaves that share an array begin in it, in layout order.
    sharded: whether arrays may be sharded over devices.
  """

  axes: tuple[int | None, ...]
  layers: np.ndarray
  offsets: np.ndarray
  sizes: tuple[int, ...]
  pack: Callable[[Sequence[Array]], list[Array]]
  slice: Callable[[Sequence[Array], Sequence[Any]], list[Array]]
  is_weight: Callable[[], list[Bool[Array, "..."] | None]]
  rows: tuple[tuple[int, int], ...] | None = None
  starts: tuple[np.uint32, ...] = ()
  sharded: bool = False

  def unpack(
    self, arrays: Sequence[Any], starts: Sequence[Any] | None = None
  ) -> list[Any]:
    """Returns the leaves in layout order.

    Give the values of `self.starts` as operands of a branch, and one kernel
    slices out all leaves of a shape; constants make one for each leaf.
    """
    return self.slice(arrays, self.starts if starts is None else starts)

  @property
  def each_layer(self) -> Groups:
    """Every layer as a group."""
    return self.groups(np.arange(len(self.sizes)))

  def groups(self, of_layer: Sequence[int] | np.ndarray) -> Groups:
    """Returns groups of layers, int[layers], as groups of slices."""
    of_layer, size = np.asarray(of_layer), np.asarray(self.sizes)
    before, largest = np.zeros_like(size), 0
    for group in range(of_layer.max(initial=-1) + 1):
      members = of_layer == group
      before[members] = np.cumsum(size[members]) - size[members]
      largest = max(largest, int(size[members].sum()))
    return Groups(
      self.axes,
      tuple(of_layer[self.layers].tolist()),
      tuple((before[self.layers] + self.offsets).tolist()),
      # A search of one group then compiles as one of all layers does.
      min_count=len(size) if self.rows else 0,
      sharded=self.sharded,
      limbs=wide_counts.limbs_for(largest),
    )


def packing_for(layout: Layout) -> Packing:
  """Returns `leaves` of what may be sharded over devices, `rows` of others.

  Positions in rows end at 2^32, so larger networks are `leaves` too.
  """
  wide = wide_counts.limbs_for(sum(layout.sizes)) is not None
  return leaves(layout) if layout.sharded or wide else rows(layout)


def leaves(layout: Layout) -> Packing:
  """Takes every leaf as it is."""
  return Packing(
    axes=layout.axes,
    layers=np.arange(len(layout.sizes)),
    offsets=np.zeros(len(layout.sizes), np.int64),
    sizes=layout.sizes,
    pack=list,
    slice=lambda arrays, starts: list(arrays),
    is_weight=lambda: [None] * len(layout.leaves),
    sharded=layout.sharded,
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
  own = Packing(
    axes=(0,) * len(large),
    layers=np.concatenate(
      [
        np.repeat(layout.layers_of(i), n)
        for i, (n, _) in zip(large, shapes, strict=True)
      ]
    ),
    offsets=np.concatenate([np.arange(n) * length for n, length in shapes]),
    sizes=layout.sizes,
    pack=lambda arrays: [
      x.reshape(shape) for x, shape in zip(arrays, shapes, strict=True)
    ],
    slice=lambda arrays, starts: [
      x.reshape(layout.leaves[i].shape)
      for i, x in zip(large, arrays, strict=True)
    ],
    is_weight=lambda: [None] * len(large),
    rows=tuple(shapes),
  )
  return _side_by_side(layout, own, large, small) if small else own


def _side_by_side(
  layout: Layout, own: Packing, large: list[int], small: list[int]
) -> Packing:
  """Packs the large leaves by one packing, and the others in blocks."""
  rest = blocks(Layout(tuple(layout.leaves[i] for i in small)))
  numbers = np.concatenate([layout.layers_of(i) for i in small])

  def pack(leaves):
    return own.pack([leaves[i] for i in large]) + rest.pack(
      [leaves[i] for i in small]
    )

  def slice_(arrays, starts):
    found = own.slice(arrays[: len(large)], ())
    found += rest.slice(arrays[len(large) :], starts)
    by_number = dict(zip(large + small, found, strict=True))
    return [by_number[i] for i in range(len(layout.leaves))]

  return Packing(
    axes=own.axes + rest.axes,
    layers=np.concatenate([own.layers, numbers[rest.layers]]),
    offsets=np.concatenate([own.offsets, rest.offsets]),
    sizes=layout.sizes,
    pack=pack,
    slice=slice_,
    is_weight=lambda: own.is_weight() + rest.is_weight(),
    rows=(own.rows or ()) + (rest.rows or ()),
    starts=rest.starts,
  )


def blocks(layout: Layout) -> Packing:
  """Lays every layer in rows of one array, the last row padded."""
  row = _row_size(layout)
  heights = [-(-size // row) for size in layout.sizes]
  ends = np.cumsum(heights)
  total = int(ends[-1])
  layers = np.repeat(np.arange(len(heights)), heights)
  offsets = (np.arange(total) - np.repeat(ends - heights, heights)) * row
  left = np.asarray(layout.sizes)[layers] - offsets
  left = np.clip(left, 0, row).astype(np.int32)

  def is_weight() -> list[Array | None]:
    if (left == row).all():
      return [None]
    return [jnp.arange(row, dtype=jnp.int32) < jnp.asarray(left)[:, None]]

  lengths = [_padded_length(leaf, row) for leaf in layout.leaves]
  starts = map(np.uint32, itertools.accumulate(lengths[:-1], initial=0))
  return Packing(
    axes=(0,),
    layers=layers,
    offsets=offsets,
    sizes=layout.sizes,
    pack=functools.partial(_pack_blocks, layout, row),
    slice=functools.partial(_slice_blocks, layout, row),
    is_weight=is_weight,
    rows=((total, row),),
    starts=tuple(starts),
  )


def _pack_blocks(layout: Layout, row: int, leaves: Sequence[Array]):
  """Returns the leaves as one array of rows."""
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
  return [flat.reshape(-1, row)]


def _slice_blocks(
  layout: Layout, row: int, arrays: Sequence[Array], starts: Sequence[Any]
) -> list[Array]:
  """Undoes `_pack_blocks`."""
  flat, found = arrays[0].ravel(), []
  for leaf, start in zip(layout.leaves, starts, strict=True):
    part = lax.dynamic_slice(flat, (start,), (_padded_length(leaf, row),))
    size = math.prod(leaf.layer_shape)
    if size % row:
      part = part.reshape(leaf.num_layers, -1)[:, :size]
    if leaf.axis is None:
      found.append(part.reshape(leaf.shape))
    else:
      part = part.reshape(leaf.num_layers, *leaf.layer_shape)
      found.append(jnp.moveaxis(part, 0, leaf.axis))
  return found


def _padded_length(leaf: SparseLeaf, row: int) -> int:
  """Elements of a leaf in blocks, padding included."""
  return leaf.num_layers * math.ceil(math.prod(leaf.layer_shape) / row) * row


def _own_row(leaf: SparseLeaf) -> int:
  """Length of the rows that a leaf reshapes to without a copy, 0 for none."""
  size = math.prod(leaf.shape)
  length = math.gcd(size, _LARGEST_ROW)
  alone = leaf.axis is None and size >= _LARGE and length >= _SMALLEST_ROW
  return length if alone else 0


def _row_size(layout: Layout) -> int:
  """A power of two, so small that padding costs an eighth at the most."""
  mean = sum(layout.sizes) / (4 * len(layout.sizes))
  row = 2 ** math.floor(math.log2(max(mean, 1)))
  return min(max(row, _SMALLEST_ROW), _LARGEST_ROW)
