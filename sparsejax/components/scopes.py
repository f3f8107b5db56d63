"""Scopes: who competes with whom when the sparsity changes."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import PyTree

from sparsejax.components import trees
from sparsejax.components.trees import Layout
from sparsejax.method import Distribution, Scope
from sparsejax.selection import search

_INT32_MAX = 2**31 - 1


def _own_counts(layout: Layout, progress: float) -> dict[str, int]:
  """Counts of the layers that have a sparsity of their own."""
  if not layout.overrides:
    return {}
  size = dict(zip(layout.shapes, layout.sizes, strict=True))
  sizes = [size[name] for name in layout.overrides]
  sparsities = [s * progress for s in layout.overrides.values()]
  requested = search.requested_count(sizes, sparsities)
  counts = search.apportion(sizes, sparsities, requested)
  return dict(zip(layout.overrides, counts.tolist(), strict=True))


def _left_over(layout: Layout, sparsity: float, own: dict[str, int]) -> int:
  """What the layers without an own sparsity keep, so that the sum is K."""
  total = search.requested_count(layout.sizes, sparsity)
  room = sum(
    size
    for name, size in zip(layout.shapes, layout.sizes, strict=True)
    if name not in own
  )
  left = total - sum(own.values())
  if not 0 <= left <= room:
    raise ValueError(
      f"`sparsity` of {sparsity} asks for {total} weights, but the layers"
      f" with an own sparsity in `overrides` keep {sum(own.values())} and the"
      f" others have {room}. Change either, or make the layers 'dense' to"
      " leave them out of the count."
    )
  return left


def _global_groups(layout: Layout) -> np.ndarray:
  own = list(layout.overrides)
  return np.asarray(
    [1 + own.index(n) if n in own else 0 for n in layout.shapes], np.int64
  )


def _global_budgets(
  layout: Layout,
  sparsity: float,
  progress: float,
  limits: np.ndarray | None,
) -> np.ndarray:
  del limits  # One group can only shrink; own layers are settled later.
  own = _own_counts(layout, progress)
  left = _left_over(layout, sparsity, own)
  if left > _INT32_MAX:
    raise ValueError(
      f"`scope` is global over {sum(layout.sizes)} weights, of which {left}"
      f" would be kept; counts on the device end at {_INT32_MAX}. Use"
      " layerwise(...), or more sparsity."
    )
  return np.asarray([left, *own.values()], np.int64)


global_scope = Scope(groups=_global_groups, budgets=_global_budgets)
"""All layers compete together; layers with an own sparsity on their own."""


def layerwise(distribution: Distribution) -> Scope:
  """Weights compete inside their layer, at the sparsities of a distribution.

  Counts are rounded by largest remainder, so that they sum to the requested one.
  Layers with a sparsity of their own keep it, and the distribution is solved
  over the others for the rest of the budget.

  Args:
    distribution: (shapes, sparsity) -> sparsity per layer.
  """

  def budgets(
    layout: Layout,
    sparsity: float,
    progress: float,
    limits: np.ndarray | None,
  ) -> np.ndarray:
    own = _own_counts(layout, progress)
    names = list(layout.shapes)
    free = np.asarray([name not in own for name in names])
    counts = np.asarray([own.get(name, 0) for name in names], np.int64)
    sizes = np.asarray(layout.sizes)[free]
    if own:
      left = _left_over(layout, sparsity, own)
      sparsity = 1 - left / max(1, sizes.sum())
    if not free.any():
      return counts
    shapes = {n: s for n, s in layout.shapes.items() if n not in own}
    solved = list(distribution(shapes, sparsity).values())
    most = sizes if limits is None else np.minimum(sizes, limits[free])
    requested = min(
      search.requested_count(sizes.tolist(), solved), int(most.sum())
    )
    counts[free] = search.apportion(sizes.tolist(), solved, requested, most)
    return counts

  return Scope(
    groups=lambda layout: np.arange(len(layout.shapes)), budgets=budgets
  )


def global_magnitude(params: PyTree) -> Distribution:
  """The layer budgets that global magnitude pruning of given weights leaves.

  With `layerwise` it fixes how many weights each layer keeps at each sparsity,
  whatever else decides which: the budget `GS` of OptG's Table 5, from the
  weights of a trained dense network.

  Args:
    params: tree of arrays with the names of the network that is to be pruned;
      not traced.

  Returns:
    A distribution. It raises ValueError for a layer that `params` lacks or has
    in another shape.

  References:
    Zhang et al., OptG, 2022, section 4.5.
  """
  leaves = {
    name: np.abs(np.asarray(leaf, np.float32))
    for name, leaf in trees.named_leaves(params)
  }

  def distribution(
    shapes: Mapping[str, tuple[int, ...]], sparsity: float
  ) -> dict[str, float]:
    for name, shape in shapes.items():
      if name not in leaves or leaves[name].shape != tuple(shape):
        found = leaves[name].shape if name in leaves else "no such leaf"
        raise ValueError(
          f"`params` of global_magnitude must have {name!r} of shape"
          f" {tuple(shape)}, got {found}. Give the weights of this network."
        )
    sizes = [leaves[name].size for name in shapes]
    values = np.concatenate([leaves[name].ravel() for name in shapes])
    kept = np.zeros(values.size, bool)
    highest = np.argsort(-values, kind="stable")
    kept[highest[: search.requested_count(sizes, sparsity)]] = True
    parts = np.split(kept, np.cumsum(sizes)[:-1])
    return {
      name: 1 - int(part.sum()) / part.size
      for name, part in zip(shapes, parts, strict=True)
    }

  return distribution


def keep_alive(scope: Scope, min_active_per_layer: int) -> Scope:
  """The same scope, with no layer below a number of active weights.

  The highest weights of each layer are sure of their place; the requested total is
  unchanged.

  Args:
    scope: the scope to bound.
    min_active_per_layer: at least 1; a smaller layer stays dense.

  Raises:
    ValueError: if the number is below 1; in `init`, if all layers together
      have more such weights than the sparsity leaves.
  """
  if min_active_per_layer < 1:
    raise ValueError(
      f"`min_active_per_layer` must be at least 1, got {min_active_per_layer}."
    )
  return dataclasses.replace(scope, min_active_per_layer=min_active_per_layer)


def budget_table(
  scope: Scope,
  layout: Layout,
  sparsities: tuple[float, ...],
  *,
  shrinking: bool = False,
  first: np.ndarray | None = None,
) -> np.ndarray:
  """Returns int32[len(sparsities), num_groups]: the counts at each update.

  Args:
    scope: gives the budgets.
    layout: the sparse leaves.
    sparsities: the requested sparsity before the first update and after each one.
    shrinking: whether no weight ever comes back, so that a group can only lose
      some. Rounding each update by itself would let a count fall and rise.
    first: int[num_groups], the counts that the groups start from; where it is
      None they start as requested.

  Raises:
    ValueError: if `min_active_per_layer` asks for more than a sparsity leaves.
  """
  if not layout.leaves:
    return np.zeros((len(sparsities), 1), np.int32)
  final, rows, limits = sparsities[-1], [], first
  for sparsity in sparsities:
    progress = sparsity / final if final else 1.0
    row = scope.budgets(layout, sparsity, progress, limits)
    row = _at_least(scope, layout, row, sparsity)
    if limits is not None:
      row = _within(row, limits)
    rows.append(row)
    limits = row if shrinking else None
  return np.stack(rows).astype(np.int32)


def _at_least(
  scope: Scope, layout: Layout, counts: np.ndarray, sparsity: float
) -> np.ndarray:
  """Raises groups to the least of their layers, at the cost of the largest."""
  if not scope.min_active_per_layer:
    return counts
  least = np.zeros_like(counts)
  sure = np.minimum(scope.min_active_per_layer, layout.sizes)
  np.add.at(least, scope.groups(layout), sure)
  if least.sum() > counts.sum():
    raise ValueError(
      f"`min_active_per_layer` of {scope.min_active_per_layer} asks for"
      f" {least.sum()} weights, but a sparsity of {sparsity} leaves"
      f" {counts.sum()}. Lower either."
    )
  return _moved(np.maximum(counts, least), least, int(counts.sum()))


def _within(counts: np.ndarray, limits: np.ndarray) -> np.ndarray:
  """Keeps groups within limits and hands their surplus on to the others."""
  capped = np.minimum(counts, limits)
  spare = limits - capped
  surplus = min(int(counts.sum() - capped.sum()), int(spare.sum()))
  return limits - _moved(
    spare, np.zeros_like(spare), int(spare.sum()) - surplus
  )


def _moved(counts: np.ndarray, least: np.ndarray, total: int) -> np.ndarray:
  """Lowers counts to a total, each time that with the most room."""
  counts = counts.copy()
  while counts.sum() > total:
    room = counts - least
    roomiest = int(np.argmax(room))
    second = int(np.max(np.delete(room, roomiest), initial=0))
    step = max(1, int(room[roomiest]) - second)
    counts[roomiest] -= min(step, int(counts.sum()) - total)
  return counts
