"""What a method requests on the host: counts, and when updates are due."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from sparsejax.components import counts, scopes, wide_counts
from sparsejax.components.wide_counts import Counted
from sparsejax.method import Layout, Method
from sparsejax.selection import counting
from sparsejax.selection.groups import each_layer


def on_device(method: Method, layout: Layout, numbers: np.ndarray) -> Counted:
  """Returns counts of a scope, or of the state, as the device has them."""
  return wide_counts.on_device(
    numbers, counts.limbs_of_all(method.counted(layout))
  )


def first_counts(method: Method, layout: Layout) -> np.ndarray:
  """Returns int64[groups] of `method.initial`: active units at step 0."""
  layout, scope = method.counted(layout), method.initial.scope
  first, progress = method.initial_sparsity, 1.0
  if method.prune is not None and first is not None:
    final = method.prune.schedule.sparsities[-1]
    progress = first / final if final else 1.0
  budgets = scope.budgets(layout, first, progress, None)
  quota = method.granularity.quota
  if quota is not None and layout.leaves:
    budgets = scopes.at_least(scope, layout, budgets, first, quota)
  return budgets.astype(np.int64)


@functools.lru_cache(maxsize=8)  # `init` and each trace need it.
def budget_table(method: Method, layout: Layout) -> np.ndarray:
  """Returns int64[updates, groups] of `method.prune`: units to keep."""
  assert method.prune is not None  # Only what prunes has budgets.
  of_weights, layout = layout, method.counted(layout)
  scope, sparsities = method.prune.scope, method.prune.schedule.sparsities
  shrinking = not method.storage.keeps_values
  first = None
  if shrinking and sparsities[0] and layout.leaves:
    groups = scopes.groups_of(scope, layout)
    first = np.zeros(groups.max() + 1, np.int64)
    np.add.at(first, groups, first_requested(method, of_weights)[1:])
  return scopes.budget_table(
    scope,
    layout,
    sparsities,
    shrinking=shrinking,
    first=first,
    quota=method.granularity.quota,
  )


def requested_table(method: Method, layout: Layout) -> np.ndarray:
  """Returns int64[updates, 1 + layers]: `SparseState.requested` by update."""
  assert method.prune is not None  # Only what prunes has budgets.
  groups = scopes.groups_of(method.prune.scope, method.counted(layout))
  table = budget_table(method, layout)
  return np.stack([_by_layer(groups, row) for row in table])


def first_requested(method: Method, layout: Layout) -> np.ndarray:
  """Returns int64[1 + layers]: the counts requested of the first masks."""
  groups = scopes.groups_of(method.initial.scope, method.counted(layout))
  return _by_layer(groups, first_counts(method, layout))


def of_method(method: Method, layout: Layout, present: Counted) -> Counted:
  """Returns the requested counts, in a state that another method may have made.

  A method that never prunes keeps the count of the masks that it finds. Where
  that is not its own, what it requests is what `summary` compares with.
  """
  keeps = method.prune is None and not method.counts_as_found
  if not keeps or method.target_sparsity is None or not layout.leaves:
    return present
  own = first_requested(method, layout)
  if own.shape != present.shape:  # The state has other units.
    return present
  total = int(np.maximum(own, 0).sum())
  positive = wide_counts.maximum(present, 0)
  limbs = counts.limbs_of_all(method.counted(layout))
  same = wide_counts.equal(wide_counts.total(positive, limbs), total)
  return wide_counts.where(same, present, wide_counts.like(own, present))


def due_steps(method: Method, total: int) -> np.ndarray:
  """Returns bool[total + 1]: whether a mask update is due at each step."""
  steps = np.arange(total + 1)
  due = np.zeros(total + 1, bool)
  for when in (
    method.prune and method.prune.schedule.when,
    method.regrow and method.regrow.when,
  ):
    if when is not None:
      due |= np.asarray(jax.vmap(when)(jnp.asarray(steps))) == steps
  return due


def as_found(layout: Layout, masks: Sequence[Bool[Array, "..."]]) -> Counted:
  """Returns [1 + layers]: the counts of given masks."""
  groups = each_layer(layout.axes, layout.sizes, sharded=layout.sharded)
  return with_no_shared(layout, counting.count_active(masks, groups))


def with_no_shared(layout: Layout, active: Counted) -> Counted:
  """Returns [1 + layers] of layers that do not share a budget."""
  none = wide_counts.zeros(1, counts.limbs_of_all(layout))
  return wide_counts.concatenate([none, active])


def _by_layer(groups: np.ndarray, budgets: np.ndarray) -> np.ndarray:
  """Spreads counts of groups to [shared, layer, ...], -1 in a shared group."""
  alone = np.bincount(groups, minlength=len(budgets)) == 1
  shared = budgets[~alone].sum()
  layers = np.where(alone[groups], budgets[groups], -1)
  return np.concatenate([[shared], layers]).astype(np.int64)
