"""Granularity: what is pruned and regrown as one, and how it is spread.

A unit is a set of weights that are active together: a filter, or a block of a
matrix. Its score is the sum of those of its weights, so that a filter is pruned
by its L1 norm and regrown by the sum of its gradient magnitudes. A quota leaves
every weight a unit and says how many are active in every cell of a layer.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from sparsejax.components import (
  distributions,
  ranking,
  scopes,
  trees,
  wide_counts,
)
from sparsejax.components.wide_counts import Counted
from sparsejax.method import (
  Granularity,
  Layout,
  Quota,
  Span,
  SparseLeaf,
  Units,
)

_READER = 2  # the role of an index that only consumes a channel


@runtime_checkable
class ChannelGroups(Protocol):
  """The channels that belong together: what `analysis.coupling` finds.

  Attributes:
    of: leaf name -> for each axis the group of each index, int[n].
    roles: leaf name -> for each axis what each index does to its channel,
      int[n]: 2 only reads it.
    frozen: bool[groups], which groups can never be removed.
  """

  @property
  def of(self) -> Mapping[str, Sequence[np.ndarray]]: ...  # noqa: D102
  @property
  def roles(self) -> Mapping[str, Sequence[np.ndarray]]: ...  # noqa: D102
  @property
  def frozen(self) -> np.ndarray: ...  # noqa: D102


def filters(
  groups: ChannelGroups | None = None, *, coupled: bool = True
) -> Granularity:
  """Whole output filters: the weights of one output of a kernel.

  Outputs are the last axis: those of convolutions, and the neurons of a dense
  layer. Without `groups` every output of every sparse leaf is a unit, and what
  stands behind it (a bias, a normalization) stays, as in GraNet's code; make
  the classifier dense in `overrides`, or the network loses classes.

  With `groups` the units are channels. All filters that write a channel, as
  those of a residual stream do, are one unit; its score is their sum. The
  biases, scales and other dense leaves of a channel are masked with it, so that
  an inactive channel is exactly 0, and they get their values back with it. What
  writes the outputs of the network is no unit and stays dense.

  Args:
    groups: of `sparsejax.analysis.coupling.coupling`, for these parameters.
    coupled: whether all that writes a channel is one unit. If not, `groups`
      says only what writes the outputs, and each filter is a unit by itself.

  References:
    Li et al., `Pruning filters for efficient ConvNets
    <https://arxiv.org/abs/1608.08710>`_, 2017; Liu et al., `GraNet
    <https://arxiv.org/abs/2106.10404>`_, 2021, appendix A.
  """
  if groups is None:
    return _OWN_FILTERS
  return Granularity(
    units=functools.partial(_channels, groups, coupled),
    leaves=functools.partial(_with_channels, groups),
  )


@functools.cache
def blocks(height: int = 16, width: int = 16) -> Granularity:
  """Blocks of (height, width) weights of every matrix.

  A matrix is (inputs, outputs); a convolution has one at every tap. Blocks at
  the edge of a matrix that is no multiple of them are smaller.

  Args:
    height: inputs of a block, at least 1.
    width: outputs of a block, at least 1.

  Raises:
    ValueError: for sizes below 1; in `init`, for leaves that are no matrices.
  """
  for name, size in (("height", height), ("width", width)):
    if isinstance(size, bool) or size != int(size) or size < 1:
      raise ValueError(f"`{name}` must be a whole number from 1, got {size!r}.")

  def array(leaf: SparseLeaf) -> tuple[int, ...]:
    inputs, outputs = leaf.shape[-2:]
    return (*leaf.shape[:-2], -(-inputs // height), -(-outputs // width))

  def span(number: int, leaf: SparseLeaf) -> Span:
    inputs, outputs = leaf.shape[-2:]
    rows, columns = array(leaf)[-2:]
    tiles = (*leaf.shape[:-2], rows, height, columns, width)
    missing = (rows * height - inputs, columns * width - outputs)

    def sums(x: Array) -> Array:
      if any(missing):
        ends = [(0, 0)] * (x.ndim - 2) + [(0, n) for n in missing]
        x = jnp.pad(x, ends)
      return jnp.sum(x.reshape(tiles), axis=(-3, -1))

    def spread(mask: Array) -> Array:
      tiled = jnp.broadcast_to(mask[..., :, None, :, None], tiles)
      whole = (*tiles[:-4], rows * height, columns * width)
      return tiled.reshape(whole)[..., :inputs, :outputs]

    return Span(number, sums, spread)

  def units(layout: Layout) -> Units:
    arrays = tuple(
      _array(leaf, array(leaf), leaf.axis) for leaf in layout.leaves
    )
    spans = tuple((span(i, leaf),) for i, leaf in enumerate(layout.leaves))
    return Units(Layout(arrays, sharded=layout.sharded), spans)

  return Granularity(units, leaves=_matrices)


@functools.cache
def n_of_m(n: int = 2, m: int = 4) -> Granularity:
  """Exactly n active weights of every m along the inputs.

  A cell is m consecutive weights along the last axis but one, the contraction
  axis of kernels (in, out) and (height, width, in, out). Where the sparsity
  rises, all cells have `ceil(m (1 - s))`. Prune-and-regrow prunes the smallest
  weights of a layer, and each cell regrows as many as it lost. A leaf whose
  number of inputs is no multiple of m stays dense.

  Args:
    n: in [1, m).
    m: weights of a cell.

  Raises:
    ValueError: for an n out of range; for a method whose `sparsity` is not
      `1 - n / m`, or that does not regrow what it prunes; in `init`, for leaves
      that are no matrices and for overrides of the sparsity.

  References:
    Zhou et al., `Learning N:M fine-grained structured sparse neural networks
    from scratch <https://arxiv.org/abs/2102.04010>`_, 2021.
  """
  if not 1 <= n < m:
    raise ValueError(f"`n` must be in [1, m), got n={n}, m={m}.")

  def best(scores, ties, least, valid, present, leaf) -> Bool[Array, "*dims"]:
    shape = scores.shape
    if shape[-2] % m:
      return jnp.zeros(shape, bool)  # It is dense: all are kept anyway.

    def cells(x: Array) -> Array:
      return x.reshape(*shape[:-2], shape[-2] // m, m, shape[-1])

    # What is not valid comes after all that is.
    keys = [jnp.where(valid, jnp.maximum(scores, 1), 0)]
    keys += [] if ties is None else [ties]
    place = ranking.places([cells(key) for key in keys], axis=-2)
    has = jnp.sum(cells(present), axis=-2, keepdims=True, dtype=jnp.int32)
    missing = _for_cells(least, leaf) - has
    return (place < missing).reshape(shape) & valid

  def least(layout: Layout, counts: Counted) -> Array:
    cells = [max(1, size // m) for size in layout.sizes]
    return wide_counts.quotient(counts, cells)

  def leaves(layout: Layout) -> Layout:
    if layout.overrides:
      raise ValueError(
        f"`overrides` must not set a sparsity with {n}:{m}, which has its own,"
        f" got {layout.overrides}. Make leaves 'dense'."
      )
    return _matrices(layout)

  distribution = functools.partial(distributions.n_of_m, n=n, m=m)
  return Granularity(
    quota=Quota(best, least, minimum=lambda leaf: 0, refills=True),
    leaves=leaves,
    scope=scopes.layerwise(distribution),
    sparsity=1 - n / m,
  )


@functools.cache
def at_least(*, rows: int = 0, columns: int = 0) -> Granularity:
  """Single weights, but at least so many in every row and column of a layer.

  The best of each column are kept first, then those of the rows that have too
  few; the others compete as without it, and the counts are the same. A column
  holds the weights of one output (all taps and inputs), a row those of one
  input. A row or column that is shorter stays dense; a vector, such as a bias,
  has neither and no minimum.

  Args:
    rows: the minimum of each input, at least 0.
    columns: the minimum of each output, at least 0.

  Raises:
    ValueError: for numbers below 0, or none; in `init`, where a sparsity leaves
      fewer weights than the minima may take.

  References:
    Gao et al., Weight-sparse transformers have interpretable circuits, OpenAI
    2025, appendix A.
  """
  minima = {"rows": rows, "columns": columns}
  for name, k in minima.items():
    if isinstance(k, bool) or k != int(k) or k < 0:
      raise ValueError(f"`{name}` must be a whole number from 0, got {k!r}.")
  if not rows and not columns:
    raise ValueError("`rows` or `columns` must be above 0, got 0 and 0.")
  cells = [(axis, k) for axis, k in ((-1, columns), (-2, rows)) if k]

  def best(scores, ties, least, valid, present, leaf) -> Bool[Array, "*dims"]:
    del ties, least  # The index orders what is equal; minima are constant.
    chosen = jnp.zeros(scores.shape, bool)
    for axis, k in cells if len(leaf.layer_shape) > 1 else ():
      others = _across(leaf, axis)
      has = jnp.sum(
        present | chosen, axis=others, keepdims=True, dtype=jnp.int32
      )
      free = valid & ~chosen
      more = jnp.maximum(k - has, 0)
      chosen |= ranking.highest(scores, more, free, axes=others)
    return chosen

  def minimum(leaf: SparseLeaf) -> int:
    size, needed = math.prod(leaf.layer_shape), 0
    for axis, k in cells if len(leaf.layer_shape) > 1 else ():
      number = leaf.shape[axis]
      needed += number * min(k, size // number)
    return min(size, needed)

  def none(layout: Layout, counts: Counted) -> Array:
    return jnp.zeros(counts.shape, jnp.int32)

  quota = Quota(best, none, minimum)
  return Granularity(quota=quota, leaves=_no_divided_matrices)


def _no_divided_matrices(layout: Layout) -> Layout:
  """Checks that no layer axis is that of the inputs or outputs of matrices."""
  for leaf in layout.leaves:
    if len(leaf.layer_shape) > 1 and (leaf.axis or 0) >= len(leaf.shape) - 2:
      _check_axis(leaf)
  return layout


def _matrices(layout: Layout) -> Layout:
  """Checks that the last two axes of all leaves are inputs and outputs."""
  for leaf in layout.leaves:
    if len(leaf.layer_shape) < 2 or (leaf.axis or 0) >= len(leaf.shape) - 2:
      _check_axis(leaf)
  return layout


def _check_axis(leaf: SparseLeaf) -> None:
  if len(leaf.layer_shape) < 2:
    raise ValueError(
      f"`granularity` needs matrices (inputs, outputs), but a layer of"
      f" {leaf.name!r} has the shape {leaf.layer_shape}. Make it 'dense' in"
      " `overrides`."
    )
  if leaf.axis is not None:
    raise ValueError(
      f"`axis` of the override for {leaf.name!r} must come before the inputs"
      f" and outputs, the last two of {leaf.shape}, got {leaf.axis}."
    )


def _array(
  leaf: SparseLeaf, shape: tuple[int, ...], axis: int | None
) -> SparseLeaf:
  """Returns the array of the units of a leaf."""
  return SparseLeaf(leaf.index, leaf.name, shape, axis, leaf.sparsity)


def _across(leaf: SparseLeaf, axis: int) -> tuple[int, ...]:
  """Returns the axes along which a row or column of a layer extends."""
  ndim = len(leaf.shape)
  return tuple(d for d in range(ndim) if d not in (axis % ndim, leaf.axis))


def _for_cells(per_layer: Array, leaf: SparseLeaf) -> Array:
  """Returns numbers per layer in a shape that broadcasts over cells."""
  if leaf.axis is None:
    return per_layer.reshape(())
  return per_layer.reshape((*leaf.one_per_layer, 1))


def _own_filters(layout: Layout) -> Units:
  """Returns the outputs of every leaf, of each layer in it."""
  arrays, spans = [], []
  for number, leaf in enumerate(layout.leaves):
    output = len(leaf.shape) - 1
    if leaf.axis == output:
      _check_axis(leaf)
    kept = (output,) if leaf.axis is None else (leaf.axis, output)
    shape = tuple(leaf.shape[d] for d in kept)
    arrays.append(_array(leaf, shape, None if leaf.axis is None else 0))
    spans.append((_along(number, leaf.shape, kept),))
  return Units(Layout(tuple(arrays), sharded=layout.sharded), tuple(spans))


def _along(number: int, shape: Sequence[int], kept: Sequence[int]) -> Span:
  """Returns the span whose units are the indices of some axes."""
  others = tuple(d for d in range(len(shape)) if d not in kept)
  return Span(
    number,
    sums=lambda x: jnp.sum(x, axis=others),
    spread=lambda mask: jnp.broadcast_to(
      jnp.expand_dims(mask, others), tuple(shape)
    ),
  )


_OWN_FILTERS = Granularity(_own_filters)


def _with_channels(groups: ChannelGroups, layout: Layout) -> Layout:
  """Returns the leaves that write a channel which may be removed."""
  free = _free_channels(groups, layout)
  written = {number for found in free.values() for number, _ in found}
  leaves = tuple(x for i, x in enumerate(layout.leaves) if i in written)
  if layout.leaves and not leaves:
    raise ValueError(
      "`groups` has no channel of a sparse leaf that may be removed. Leaves:"
      f" {', '.join(leaf.name for leaf in layout.leaves)}."
    )
  return Layout(leaves, layout.treedef, layout.sharded)


def _free_channels(
  groups: ChannelGroups, layout: Layout
) -> dict[int, list[tuple[int, int]]]:
  """Returns group -> (number of the leaf, axis) of all that writes it."""
  found: dict[int, list[tuple[int, int]]] = {}
  for number, leaf in enumerate(layout.leaves):
    _check_leaf(groups, leaf)
    for axis, of in enumerate(groups.of[leaf.name]):
      for group in np.unique(_writing(groups, leaf.name, axis)[0]).tolist():
        found.setdefault(group, []).append((number, axis))
      del of
  return dict(sorted(found.items()))


def _check_leaf(groups: ChannelGroups, leaf: SparseLeaf) -> None:
  shape = tuple(map(len, groups.of.get(leaf.name, ())))
  if shape != leaf.shape:
    raise ValueError(
      f"`groups` must be those of these parameters, but has the shape {shape}"
      f" for {leaf.name!r} of shape {leaf.shape}. Trace the same network."
    )
  if leaf.axis is not None:
    raise ValueError(
      f"`axis` of the override for {leaf.name!r} must be None with `groups`,"
      f" got {leaf.axis}."
    )


def _writing(
  groups: ChannelGroups, name: str, axis: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns groups and positions of the indices that do not only read."""
  of = np.asarray(groups.of[name][axis])
  role = np.asarray(groups.roles[name][axis])
  chosen = (role != _READER) & ~np.asarray(groups.frozen)[of]
  return of[chosen], np.flatnonzero(chosen)


def _channels(groups: ChannelGroups, coupled: bool, layout: Layout) -> Units:
  """Returns the channels, in one array for all that the same leaves write."""
  by_writers: dict[tuple[tuple[int, int], ...], list[int]] = {}
  for group, writers in _free_channels(groups, layout).items():
    for some in [tuple(writers)] if coupled else [(x,) for x in writers]:
      by_writers.setdefault(some, []).append(group)
  arrays, spans, followers, names = [], [], [], set()
  dense = _dense_leaves(groups, layout) if coupled else []
  for writers, members in sorted(by_writers.items()):
    first = layout.leaves[writers[0][0]]
    name = _distinct(first.name, len(writers), names)
    arrays.append(
      SparseLeaf(
        first.index + (len(names) << 20 if first.name in names else 0),
        name,
        (len(members),),
        None,
        _common_sparsity([layout.leaves[i] for i, _ in writers]),
      )
    )
    names |= {name, first.name}
    spans.append(
      tuple(
        _picked(groups, number, layout.leaves[number], axis, members)
        for number, axis in writers
      )
    )
    followers.append(tuple(_followers(groups, dense, members)))
  layout_ = Layout(tuple(arrays), sharded=layout.sharded)
  return Units(layout_, tuple(spans), tuple(followers))


def _distinct(first: str, writers: int, taken: set[str]) -> str:
  """Returns a name for channels: that of the first leaf that writes them."""
  name = first if writers == 1 else f"{first}+{writers - 1}"
  others = (f"{name}#{i}" for i in range(2, len(taken) + 3))
  return next(each for each in (name, *others) if each not in taken)


def _common_sparsity(leaves: Sequence[SparseLeaf]) -> float | None:
  found = {leaf.sparsity for leaf in leaves}
  if len(found) > 1:
    raise ValueError(
      "`overrides` must give one sparsity to leaves that write the same"
      f" channels, got {sorted(found, key=str)} for"
      f" {', '.join(leaf.name for leaf in leaves)}."
    )
  return found.pop()


def _dense_leaves(groups: ChannelGroups, layout: Layout) -> list[SparseLeaf]:
  """Returns the leaves of the parameters that are not sparse."""
  sparse = {leaf.index for leaf in layout.leaves}
  tree = layout.treedef.unflatten(range(layout.treedef.num_leaves))
  return [
    SparseLeaf(index, name, tuple(map(len, groups.of[name])))
    for name, index in trees.named_leaves(tree)
    if index not in sparse and name in groups.of
  ]


def _followers(
  groups: ChannelGroups, dense: Sequence[SparseLeaf], members: Sequence[int]
) -> list[Span]:
  """Returns the spans of the dense leaves that belong to some channels."""
  return [
    _picked(groups, leaf.index, leaf, axis, members)
    for leaf in dense
    for axis in range(len(leaf.shape))
    if np.isin(_writing(groups, leaf.name, axis)[0], members).any()
  ]


def _picked(
  groups: ChannelGroups,
  number: int,
  leaf: SparseLeaf,
  axis: int,
  members: Sequence[int],
) -> Span:
  """Returns the span of some channels along an axis of a leaf."""
  of, positions = _writing(groups, leaf.name, axis)
  unit = {group: i for i, group in enumerate(members)}
  where = np.full(leaf.shape[axis], -1)
  where[positions] = [unit.get(group, -1) for group in of.tolist()]
  along = _along(number, leaf.shape, (axis,))
  if np.array_equal(where, np.arange(len(members))):
    return along
  size, none = len(members), where < 0

  def sums(x: Array) -> Array:
    each = along.sums(x)
    return (
      jnp.zeros(size, each.dtype)
      .at[np.where(none, size, where)]
      .add(each, mode="drop")
    )

  return Span(
    number, sums, lambda mask: along.spread(mask[np.maximum(where, 0)] | none)
  )
