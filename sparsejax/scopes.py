"""Scopes: who competes with whom when the sparsity changes."""

import dataclasses

import numpy as np

from sparsejax import masks
from sparsejax.base import Distribution, Scope
from sparsejax.trees import Layout

_INT32_MAX = 2**31 - 1


def _own_counts(layout: Layout, progress: float) -> dict[str, int]:
  """Counts of the layers that have a sparsity of their own."""
  size = dict(zip(layout.shapes, layout.sizes, strict=True))
  return {
    name: masks.asked_count(size[name], sparsity * progress)
    for name, sparsity in layout.overrides.items()
  }


def _left_over(layout: Layout, sparsity: float, own: dict[str, int]) -> int:
  """What the layers without an own sparsity keep, so that the sum is K."""
  total = masks.asked_count(layout.sizes, sparsity)
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
  layout: Layout, sparsity: float, progress: float
) -> np.ndarray:
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

  Counts are rounded by largest remainder, so that they sum to the asked one.
  Layers with a sparsity of their own keep it, and the distribution is solved
  over the others for the rest of the budget.

  Args:
    distribution: (shapes, sparsity) -> sparsity per layer.
  """

  def budgets(layout: Layout, sparsity: float, progress: float) -> np.ndarray:
    own = _own_counts(layout, progress)
    rest = {n: s for n, s in layout.shapes.items() if n not in own}
    sizes = [
      n
      for name, n in zip(layout.shapes, layout.sizes, strict=True)
      if name not in own
    ]
    if own and rest:
      left = _left_over(layout, sparsity, own)
      sparsity = 1 - left / sum(sizes)
    solved = distribution(rest, sparsity) if rest else {}
    asked = masks.asked_count(sizes, list(solved.values())) if rest else 0
    counts = dict(
      zip(
        rest, masks.apportion(sizes, list(solved.values()), asked), strict=True
      )
    )
    return np.asarray(
      [own.get(name, counts.get(name)) for name in layout.shapes], np.int64
    )

  return Scope(
    groups=lambda layout: np.arange(len(layout.shapes)), budgets=budgets
  )


def keep_alive(scope: Scope, min_active_per_layer: int) -> Scope:
  """The same scope, with no layer below a number of active weights.

  The highest weights of each layer are sure of their place; the asked total is
  unchanged.

  Args:
    scope: the scope to bound.
    min_active_per_layer: at least 1; a smaller layer stays dense.

  Raises:
    ValueError: if the number is below 1.
  """
  if min_active_per_layer < 1:
    raise ValueError(
      f"`min_active_per_layer` must be at least 1, got {min_active_per_layer}."
    )
  return dataclasses.replace(scope, min_active_per_layer=min_active_per_layer)


def competition(scope: Scope, layout: Layout) -> masks.Competition:
  """Returns the competition that a scope holds over the packs of a layout."""
  groups = np.asarray(scope.groups(layout))
  sizes = np.asarray(layout.sizes)
  offsets = np.zeros_like(sizes)
  for group in range(groups.max(initial=-1) + 1):
    members = groups == group
    offsets[members] = np.cumsum(sizes[members]) - sizes[members]
  order = list(layout.packed_layers)
  return masks.Competition(
    tuple(pack.axis for pack in layout.packs),
    tuple(groups[order].tolist()),
    tuple(offsets[order].tolist()),
  )


def budget_table(
  scope: Scope, layout: Layout, sparsities: tuple[float, ...]
) -> np.ndarray:
  """Returns int32[len(sparsities), num_groups]: the counts at each update."""
  if not layout.leaves:
    return np.zeros((len(sparsities), 1), np.int32)
  final = sparsities[-1]
  rows = [
    scope.budgets(layout, s, s / final if final else 1.0) for s in sparsities
  ]
  return np.stack(rows).astype(np.int32)
