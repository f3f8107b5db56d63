"""Scopes: which weights compete for the same budget, and how large it is."""

import dataclasses

import numpy as np
from jaxtyping import PyTree

from sparsejax.components import counts, trees
from sparsejax.method import (
  Distribution,
  Layout,
  Quota,
  Scope,
  described,
)


def _override_counts(layout: Layout, progress: float) -> dict[str, int]:
  """Returns the counts of the layers whose override sets a sparsity."""
  size = dict(zip(layout.shapes, layout.sizes, strict=True))
  sizes = [size[name] for name in layout.overrides]
  sparsities = [s * progress for s in layout.overrides.values()]
  requested = counts.requested_count(sizes, sparsities)
  found = counts.apportion(sizes, sparsities, requested)
  return dict(zip(layout.overrides, found.tolist(), strict=True))


def _rest(layout: Layout, sparsity: float, fixed: dict[str, int]) -> int:
  """Returns what is left of the total for the layers without an override."""
  total = counts.requested_count(layout.sizes, sparsity)
  pairs = zip(layout.shapes, layout.sizes, strict=True)
  space = sum(size for name, size in pairs if name not in fixed)
  rest = total - sum(fixed.values())
  if not 0 <= rest <= space:
    raise ValueError(
      f"`sparsity` of {sparsity} requests {total} active weights, but the"
      f" layers whose sparsity is set in `overrides` have"
      f" {sum(fixed.values())} and the others can have at most {space}. Change"
      " either, or make the layers 'dense' to leave them out of the count."
    )
  return rest


def _global_groups(layout: Layout) -> np.ndarray:
  fixed = {name: i for i, name in enumerate(layout.overrides, start=1)}
  return np.asarray([fixed.get(name, 0) for name in layout.shapes], np.int64)


def _global_budgets(layout: Layout, sparsity, progress, limits) -> np.ndarray:
  del limits  # One group can only shrink; overrides are settled later.
  if sparsity is None:
    raise ValueError("`sparsity` must be given to a global scope, got None.")
  fixed = _override_counts(layout, progress)
  rest = _rest(layout, sparsity, fixed)
  return np.asarray([rest, *fixed.values()], np.int64)


global_scope = Scope(groups=_global_groups, budgets=_global_budgets)
"""All layers compete together, those whose override sets a sparsity alone."""


def layerwise(distribution: Distribution) -> Scope:
  """Weights compete inside their layer, at the sparsities of a distribution.

  Counts are rounded by largest remainder, so that they sum to the requested
  total. Layers whose override sets a sparsity have that one, and the
  distribution is solved over the others for the rest of the budget.

  Raises:
    ValueError: if the distribution is no function.
  """
  if not callable(distribution):
    raise ValueError(
      "`distribution` must be a function such as sparsejax.erk, got"
      f" {described(distribution)}."
    )

  def budgets(layout: Layout, sparsity, progress, limits) -> np.ndarray:
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
    shapes = {n: s for n, s in layout.kernels.items() if n not in fixed}
    solved = list(distribution(shapes, sparsity).values())
    most = sizes if limits is None else np.minimum(sizes, limits[free])
    requested = counts.requested_count(sizes.tolist(), solved)
    requested = min(requested, int(most.sum()))
    found[free] = counts.apportion(sizes.tolist(), solved, requested, most)
    return found

  return Scope(lambda layout: np.arange(len(layout.shapes)), budgets)


def global_magnitude(params: PyTree) -> Distribution:
  """The sparsity per layer that global magnitude pruning of `params` leads to.

  With `layerwise` it fixes the number of active weights of each layer at each
  sparsity, and the criterion of the method decides which they are: the budget
  `GS` of OptG's Table 5, from the weights of a trained dense network.

  Args:
    params: tree of arrays with the names of the network to prune; not traced.

  Returns:
    A distribution. It raises ValueError for a layer that is missing in `params`
    or has another shape there.

  References:
    Zhang et al., OptG, 2022, section 4.5.
  """
  leaves = {
    name: np.abs(np.asarray(leaf, np.float32))
    for name, leaf in trees.named_leaves(params)
  }

  def distribution(shapes, sparsity) -> dict[str, float]:
    for name, shape in shapes.items():
      found = leaves[name].shape if name in leaves else "no such leaf"
      if found != tuple(shape):
        raise ValueError(
          f"`params` of global_magnitude must have {name!r} of shape"
          f" {tuple(shape)}, got {found}. Give the weights of this network."
        )
    sizes = [leaves[name].size for name in shapes]
    values = np.concatenate([leaves[name].ravel() for name in shapes])
    highest = np.argsort(-values, kind="stable")
    highest = highest[: counts.requested_count(sizes, sparsity)]
    layer_of = np.repeat(np.arange(len(sizes)), sizes)
    active = np.bincount(layer_of[highest], minlength=len(sizes)).tolist()
    triples = zip(shapes, active, sizes, strict=True)
    return {name: 1 - count / size for name, count, size in triples}

  return distribution


def keep_alive(scope: Scope, min_active_per_layer: int) -> Scope:
  """Returns the scope with a minimum of active weights in every layer.

  The highest scores of each layer are selected first; the requested total is
  unchanged. Layers with fewer than `min_active_per_layer` weights stay dense.

  Raises:
    ValueError: if the minimum is below 1; in `init`, if the minima sum to more
      weights than the sparsity leaves.
  """
  if not isinstance(scope, Scope):
    raise ValueError(
      f"`scope` must be a `Scope`, got {described(scope)}. Write"
      " keep_alive(sparsejax.global_scope, 1)."
    )
  if min_active_per_layer < 1:
    raise ValueError(
      f"`min_active_per_layer` must be at least 1, got {min_active_per_layer}."
    )
  return dataclasses.replace(scope, min_active_per_layer=min_active_per_layer)


def groups_of(scope: Scope, layout: Layout) -> np.ndarray:
  """Returns int[layers]: the group of each layer."""
  return np.asarray(scope.groups(layout))


def least_counts(
  scope: Scope, layout: Layout, quota: Quota | None = None
) -> np.ndarray:
  """Returns int[layers]: the minimum of active weights of every layer.

  That is the scope's, or the most that the minima of a quota can take.
  """
  least = np.minimum(scope.min_active_per_layer, layout.sizes)
  if quota is None:
    return least
  needed = [quota.minimum(x) for x in layout.leaves for _ in x.layer_names]
  return np.maximum(least, np.asarray(needed, int))


def budget_table(
  scope: Scope,
  layout: Layout,
  sparsities: tuple[float | None, ...],
  *,
  shrinking: bool = False,
  first: np.ndarray | None = None,
  quota: Quota | None = None,
) -> np.ndarray:
  """Returns int64[len(sparsities), groups]: the counts at each sparsity.

  No count rises where they are `shrinking`, because no weight is ever regrown;
  rounded independently, they would fall and rise. At the start they are
  `first`, int[groups], or else the requested ones. No layer falls below what a
  `quota` needs.
  """
  if not layout.leaves:
    return np.zeros((len(sparsities), 1), np.int64)
  final, rows, limits = sparsities[-1], [], first
  for sparsity in sparsities:
    progress = sparsity / final if final and sparsity is not None else 1.0
    row = scope.budgets(layout, sparsity, progress, limits)
    row = at_least(scope, layout, row, sparsity, quota)
    if limits is not None:
      row = _within(row, limits)
    rows.append(row)
    limits = row if shrinking else None
  return np.stack(rows).astype(np.int64)


def at_least(
  scope: Scope,
  layout: Layout,
  budget: np.ndarray,
  sparsity: float | None,
  quota: Quota | None,
) -> np.ndarray:
  """Raises groups to the minima of their layers, at the cost of the largest."""
  minima = least_counts(scope, layout, quota)
  if not minima.any():
    return budget
  groups = groups_of(scope, layout)
  least = np.bincount(groups, minima, len(budget)).astype(int)
  if least.sum() > budget.sum():
    needs = f"`min_active_per_layer` of {scope.min_active_per_layer} needs"
    if quota is not None:
      needs = "`granularity` has minima that may need"
    raise ValueError(
      f"{needs} {least.sum()} weights, but a sparsity of {sparsity} leaves"
      f" {budget.sum()}. Lower either."
    )
  return _lowered(np.maximum(budget, least), least, int(budget.sum()))


def _within(budget: np.ndarray, limits: np.ndarray) -> np.ndarray:
  """Bounds groups by limits and gives their surplus to the others."""
  capped = np.minimum(budget, limits)
  spare = limits - capped
  left = max(0, int(spare.sum() - (budget - capped).sum()))
  return limits - _lowered(spare, np.zeros_like(spare), left)


def _lowered(budget: np.ndarray, least: np.ndarray, total: int) -> np.ndarray:
  """Lowers counts to a total, each time the one with the most space."""
  budget = budget.copy()
  while budget.sum() > total:
    space = budget - least
    widest = int(np.argmax(space))
    second = int(np.max(np.delete(space, widest), initial=0))
    step = max(1, int(space[widest]) - second)
    budget[widest] -= min(step, int(budget.sum()) - total)
  return budget
