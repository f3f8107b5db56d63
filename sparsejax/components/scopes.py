"""Scopes: which weights compete for the same budget, and how large it is."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import PyTree

from sparsejax.components import counts, trees
from sparsejax.method import Distribution, Layout, Scope


def _override_counts(layout: Layout, progress: float) -> dict[str, int]:
  """Counts of the layers whose override sets a sparsity."""
  if not layout.overrides:
    return {}
  size = dict(zip(layout.shapes, layout.sizes, strict=True))
  sizes = [size[name] for name in layout.overrides]
  sparsities = [s * progress for s in layout.overrides.values()]
  requested = counts.requested_count(sizes, sparsities)
  found = counts.apportion(sizes, sparsities, requested)
  return dict(zip(layout.overrides, found.tolist(), strict=True))


def _rest(layout: Layout, sparsity: float, fixed: dict[str, int]) -> int:
  """What the layers without an override keep, so that the sum is K."""
  total = counts.requested_count(layout.sizes, sparsity)
  room = sum(
    size
    for name, size in zip(layout.shapes, layout.sizes, strict=True)
    if name not in fixed
  )
  rest = total - sum(fixed.values())
  if not 0 <= rest <= room:
    raise ValueError(
      f"`sparsity` of {sparsity} requests {total} weights, but the layers"
      f" whose sparsity is set in `overrides` keep {sum(fixed.values())} and"
      f" the others have {room}. Change either, or make the layers 'dense' to"
      " leave them out of the count."
    )
  return rest


def _global_groups(layout: Layout) -> np.ndarray:
  fixed = list(layout.overrides)
  return np.asarray(
    [1 + fixed.index(n) if n in fixed else 0 for n in layout.shapes], np.int64
  )


def _global_budgets(
  layout: Layout,
  sparsity: float | None,
  progress: float,
  limits: np.ndarray | None,
) -> np.ndarray:
  del limits  # One group can only shrink; overrides are settled later.
  if sparsity is None:
    raise ValueError("`sparsity` must be given to a global scope, got None.")
  fixed = _override_counts(layout, progress)
  rest = _rest(layout, sparsity, fixed)
  if rest > counts.INT32_MAX:
    raise ValueError(
      f"`scope` is global over {sum(layout.sizes)} weights, of which {rest}"
      f" would be kept; counts on the device end at {counts.INT32_MAX}. Use"
      " layerwise(...), or more sparsity."
    )
  return np.asarray([rest, *fixed.values()], np.int64)


global_scope = Scope(groups=_global_groups, budgets=_global_budgets)
"""All layers compete together; layers whose override sets a sparsity, alone."""


def layerwise(distribution: Distribution) -> Scope:
  """Weights compete inside their layer, at the sparsities of a distribution.

  Counts are rounded by largest remainder, so that they sum to the requested
  one. Layers whose override sets a sparsity keep it, and the distribution is
  solved over the others for the rest of the budget.

  Args:
    distribution: (shapes, sparsity) -> sparsity per layer.
  """

  def budgets(
    layout: Layout,
    sparsity: float | None,
    progress: float,
    limits: np.ndarray | None,
  ) -> np.ndarray:
    fixed = _override_counts(layout, progress)
    names = list(layout.shapes)
    free = np.asarray([name not in fixed for name in names])
    found = np.asarray([fixed.get(name, 0) for name in names], np.int64)
    sizes = np.asarray(layout.sizes)[free]
    if fixed and sparsity is not None:
      rest = _rest(layout, sparsity, fixed)
      sparsity = 1 - rest / max(1, sizes.sum())
    if not free.any():
      return found
    shapes = {n: s for n, s in layout.shapes.items() if n not in fixed}
    solved = list(distribution(shapes, sparsity).values())
    most = sizes if limits is None else np.minimum(sizes, limits[free])
    requested = counts.requested_count(sizes.tolist(), solved)
    requested = min(requested, int(most.sum()))
    found[free] = counts.apportion(sizes.tolist(), solved, requested, most)
    return found

  return Scope(
    groups=lambda layout: np.arange(len(layout.shapes)), budgets=budgets
  )


def global_magnitude(params: PyTree) -> Distribution:
  """The layer budgets that global magnitude pruning of given weights leaves.

  With `layerwise` it fixes how many weights each layer keeps at each sparsity,
  and the criterion of the method decides which: the budget `GS` of OptG's Table
  5, from the weights of a trained dense network.

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
    kept[highest[: counts.requested_count(sizes, sparsity)]] = True
    parts = np.split(kept, np.cumsum(sizes)[:-1])
    return {
      name: 1 - int(part.sum()) / part.size
      for name, part in zip(shapes, parts, strict=True)
    }

  return distribution


def keep_alive(scope: Scope, min_active_per_layer: int) -> Scope:
  """Returns the scope with a least number of active weights in every layer.

  The highest weights of each layer are kept first; the requested total is
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


def least_counts(scope: Scope, layout: Layout) -> np.ndarray:
  """Returns int[layers]: the weights that every layer keeps at least."""
  return np.minimum(scope.min_active_per_layer, layout.sizes)


def budget_table(
  scope: Scope,
  layout: Layout,
  sparsities: tuple[float | None, ...],
  *,
  shrinking: bool = False,
  first: np.ndarray | None = None,
) -> np.ndarray:
  """Returns int32[len(sparsities), groups]: the counts at each update.

  Args:
    scope: gives the budgets.
    layout: the sparse leaves.
    sparsities: the sparsity before the first update and after each one.
    shrinking: whether no weight ever comes back, so that a group can only lose
      some. Rounding each update by itself would let a count fall and rise.
    first: int[groups], the counts that the groups start from; None where they
      start as requested.

  Raises:
    ValueError: if `min_active_per_layer` is more than a sparsity leaves.
  """
  if not layout.leaves:
    return np.zeros((len(sparsities), 1), np.int32)
  final, rows, limits = sparsities[-1], [], first
  for sparsity in sparsities:
    progress = sparsity / final if final and sparsity is not None else 1.0
    row = scope.budgets(layout, sparsity, progress, limits)
    row = _at_least(scope, layout, row, sparsity)
    if limits is not None:
      row = _within(row, limits)
    rows.append(row)
    limits = row if shrinking else None
  return np.stack(rows).astype(np.int32)


def _at_least(
  scope: Scope, layout: Layout, budget: np.ndarray, sparsity: float | None
) -> np.ndarray:
  """Raises groups to the least of their layers, at the cost of the largest."""
  if not scope.min_active_per_layer:
    return budget
  least = np.zeros_like(budget)
  np.add.at(least, scope.groups(layout), least_counts(scope, layout))
  if least.sum() > budget.sum():
    raise ValueError(
      f"`min_active_per_layer` of {scope.min_active_per_layer} needs"
      f" {least.sum()} weights, but a sparsity of {sparsity} leaves"
      f" {budget.sum()}. Lower either."
    )
  return _lowered(np.maximum(budget, least), least, int(budget.sum()))


def _within(budget: np.ndarray, limits: np.ndarray) -> np.ndarray:
  """Bounds groups by limits and hands their surplus on to the others."""
  capped = np.minimum(budget, limits)
  spare = limits - capped
  surplus = min(int(budget.sum() - capped.sum()), int(spare.sum()))
  return limits - _lowered(
    spare, np.zeros_like(spare), int(spare.sum()) - surplus
  )


def _lowered(budget: np.ndarray, least: np.ndarray, total: int) -> np.ndarray:
  """Lowers counts to a total, each time the one with the most room."""
  budget = budget.copy()
  while budget.sum() > total:
    room = budget - least
    roomiest = int(np.argmax(room))
    second = int(np.max(np.delete(room, roomiest), initial=0))
    step = max(1, int(room[roomiest]) - second)
    budget[roomiest] -= min(step, int(budget.sum()) - total)
  return budget
