"""One mask update over a tree: prune, then exchange within layers."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax
from jaxtyping import Array, Bool, Int, PyTree

from sparsejax import criteria, draws, masks, packing, scopes
from sparsejax.base import Criterion, Key, MaskUpdate, Regrow, Scope
from sparsejax.packing import Packing
from sparsejax.trees import Layout


class Masked(NamedTuple):
  """What a mask update returns, one array per sparse leaf.

  Attributes:
    masks: the new masks.
    keep: weights that are on and go on with their value and statistics. None
      where those are all that were on before and are on now.
  """

  masks: list[Bool[Array, "..."]]
  keep: list[Bool[Array, "..."]] | None


class Turn(NamedTuple):
  """The masks after a step, changed or not.

  Attributes:
    done: bool[]; whether a mask update took place.
    masks: one array per sparse leaf.
    keep: weights that are on and go on with their value and statistics.
    asked: int32[1 + layers], as in `SparseState`.
    last_update: int32[], as in `SparseState`.
  """

  done: Bool[Array, ""]
  masks: list[Bool[Array, "..."]]
  keep: list[Bool[Array, "..."]]
  asked: Int[Array, " counts"]
  last_update: Int[Array, ""]


@functools.partial(jax.jit, static_argnums=(0, 1))
def first_masks(
  method: MaskUpdate, layout: Layout, key: Key | None
) -> list[Bool[Array, "..."]]:
  """Draws the masks of step 0: dense, or exact random counts per layer.

  Args:
    method: its `initial` scope and first sparsity decide.
    layout: the sparse leaves.
    key: may be None where the first masks are dense.
  """
  if not method.sparsity.sparsities[0]:
    return [jnp.ones(leaf.shape, bool) for leaf in layout.leaves]
  assert key is not None  # `sparsify` refused to go on without one.
  packed = packing.blocks(layout)
  groups = method.initial.groups(layout)
  first = masks.select(
    draws.bits(layout, packed, key, 0, draws.FIRST_MASKS),
    first_counts(method, layout),
    packed.contest(groups, layout.sizes),
    valid=packed.inside(),
  )
  return packed.unpack(first)


def first_counts(method: MaskUpdate, layout: Layout) -> np.ndarray:
  """Returns int32[num_groups] of `method.initial`: active weights at step 0."""
  progress = 1.0
  sparsities = method.sparsity.sparsities
  if sparsities[-1]:
    progress = sparsities[0] / sparsities[-1]
  budgets = method.initial.budgets(layout, sparsities[0], progress, None)
  return budgets.astype(np.int32)


def budget_table(method: MaskUpdate, layout: Layout) -> np.ndarray:
  """Returns int32[updates, num_groups] of `method.scope`: weights to keep."""
  sparsities = method.sparsity.sparsities
  shrinking = not method.storage.prunes_all
  first = None
  if shrinking and sparsities[0] and layout.leaves:
    by_layer = first_asked(method, layout)[1:]
    groups = method.scope.groups(layout)
    first = np.zeros(groups.max() + 1, np.int64)
    np.add.at(first, groups, by_layer)
  return scopes.budget_table(
    method.scope, layout, sparsities, shrinking=shrinking, first=first
  )


def asked_table(method: MaskUpdate, layout: Layout) -> np.ndarray:
  """Returns int32[updates, 1 + layers]: `SparseState.asked` at each update."""
  groups = np.asarray(method.scope.groups(layout))
  table = budget_table(method, layout)
  return np.stack([_by_layer(groups, row) for row in table])


def first_asked(method: MaskUpdate, layout: Layout) -> np.ndarray:
  """Returns int32[1 + layers]: the counts asked of the first masks."""
  groups = np.asarray(method.initial.groups(layout))
  return _by_layer(groups, first_counts(method, layout))


def asked_as_found(
  layout: Layout, found: Sequence[Bool[Array, "..."]]
) -> Int[Array, " counts"]:
  """Returns int32[1 + layers]: the counts of given masks."""
  contest = masks.each_layer(layout.axes, len(layout.sizes))
  counts = masks.count_active(found, contest)
  return jnp.concatenate([jnp.zeros(1, jnp.int32), counts])


def _by_layer(groups: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Spreads counts of groups to [shared, layer, ...], -1 in a shared group."""
  alone = np.bincount(groups, minlength=len(counts)) == 1
  shared = counts[~alone].sum()
  layers = np.where(alone[groups], counts[groups], -1)
  return np.concatenate([[shared], layers]).astype(np.int32)


def maybe_update(
  method: MaskUpdate,
  layout: Layout,
  old: Sequence[Bool[Array, "..."]],
  last_update: Int[Array, ""],
  asked: Int[Array, " counts"],
  *,
  step: Int[Array, ""],
  key: Key | None,
  scored: Callable[[], PyTree],
  grads: PyTree,
  watched: PyTree,
) -> Turn:
  """Updates the masks if that is due at `step` and all numbers are finite.

  Only masks pass through the conditional: parameters and optimizer state would
  be copied by it at every step.

  Args:
    method: the slots.
    layout: the sparse leaves.
    old: the masks before, in layout order.
    last_update: int32[], step of the last mask update.
    asked: int32[1 + layers], as in the state.
    step: int32[].
    key: for random scores.
    scored: makes the tree of weights to score, inside the branch.
    grads: tree of dense gradients.
    watched: tree that must be finite; otherwise the update stays due.
  """
  old = list(old)
  if not layout.leaves or not (method.prunes or method.regrow):
    return Turn(jnp.asarray(False), old, old, asked, last_update)
  exchange = jnp.asarray(False)
  if method.regrow is not None:
    exchange = method.regrow.when(step) > last_update
  due = exchange | (method.when(step) > last_update)
  index = method.sparsity.index(step)
  table = budget_table(method, layout)

  def change():
    new = next_masks(
      method,
      layout,
      layout.take(scored()),
      layout.take(grads),
      old,
      jnp.asarray(table)[index],
      step=step,
      exchange=exchange,
      key=key,
    )
    finite = _all_finite(watched)
    return finite, jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, stay)

  stay = Masked(old, old if _sets_keep(method) else None)
  done, new = _cond(due, change, lambda: (jnp.asarray(False), stay))
  keep = new.keep
  if keep is None and method.regrow is None:
    keep = new.masks  # No weight comes back that could start again.
  elif keep is None:
    keep = [n & o for n, o in zip(new.masks, old, strict=True)]
  if method.prunes:
    asked = jnp.where(
      done, jnp.asarray(asked_table(method, layout))[index], asked
    )
  return Turn(done, new.masks, keep, asked, jnp.where(done, step, last_update))


@functools.partial(jax.jit, static_argnums=(0, 1))
def next_masks(
  method: MaskUpdate,
  layout: Layout,
  params: Sequence[Array],
  grads: Sequence[Array],
  old: Sequence[Bool[Array, "..."]],
  budgets: Int[Array, " groups"],
  *,
  step: Int[Array, ""],
  exchange: Bool[Array, ""],
  key: Key | None,
) -> Masked:
  """Returns the masks after one update.

  Args:
    method: the slots.
    layout: the sparse leaves; the lists below are in its order.
    params: the weights that are scored, latent ones where storage keeps them.
    grads: the dense gradients.
    old: the masks before.
    budgets: int32[num_groups] of `method.scope`: weights to keep.
    step: int32, the step of the update.
    exchange: whether `method.regrow` is due; otherwise it is a no-op.
    key: for random scores.
  """
  packed = packing.choose(layout, [*params, *grads])
  view = _View(layout, packed, params, grads, step, key)
  pruned = before = packed.pack(old)
  if method.prunes:
    scores = view.score(method.criterion, draws.PRUNE)
    valid = packed.inside() if method.storage.prunes_all else before
    pruned = _prune(method.scope, view, scores, budgets, valid)
  if method.regrow is None:
    return Masked(packed.unpack(pruned), None)
  new, stays = _exchange(method.regrow, view, pruned, due=exchange)
  if not _sets_keep(method):
    return Masked(packed.unpack(new), None)
  goes_on = stays if method.regrow.restart else pruned
  keep = [n & g for n, g in zip(new, goes_on, strict=True)]
  return Masked(packed.unpack(new), packed.unpack(keep))


class _View(NamedTuple):
  """What a mask update looks at: leaves, how they are packed, randomness."""

  layout: Layout
  packed: Packing
  params: Sequence[Array]
  grads: Sequence[Array]
  step: Int[Array, ""]
  key: Key | None

  def score(self, criterion: Criterion, purpose: int) -> list[Array]:
    """Scores all weights, packed."""
    if criterion in criteria.ELEMENTWISE:
      pairs = zip(
        self.packed.pack(self.params), self.packed.pack(self.grads), strict=True
      )
      return [criterion(p, g, None) for p, g in pairs]
    if criterion is criteria.random and self.key is not None:
      return self.bits(purpose)
    keys = draws.leaf_keys(self.layout, self.key, self.step, purpose)
    leaves = zip(self.params, self.grads, keys, strict=True)
    return self.packed.pack([criterion(*leaf) for leaf in leaves])

  def bits(self, purpose: int) -> list[Array]:
    """Draws random ranks for all weights, packed."""
    assert self.key is not None  # `sparsify` refused to go on without one.
    return draws.bits(self.layout, self.packed, self.key, self.step, purpose)

  def contest(self, groups: Sequence[int] | np.ndarray) -> masks.Competition:
    """Returns the competition of the layers in groups."""
    return self.packed.contest(groups, self.layout.sizes)

  @property
  def each_layer(self) -> masks.Competition:
    """Every layer on its own."""
    return self.contest(np.arange(len(self.layout.sizes)))


def _sets_keep(method: MaskUpdate) -> bool:
  """Whether a weight may be on before and after and yet start again at 0."""
  exchange = method.regrow
  return exchange is not None and (exchange.restart or method.prunes)


def _prune(scope: Scope, view: _View, scores, budgets, valid):
  contest = view.contest(scope.groups(view.layout))
  if not scope.min_active_per_layer:
    return masks.select(scores, budgets, contest, valid=valid)
  least = np.minimum(scope.min_active_per_layer, view.layout.sizes)
  sure = masks.select(scores, least, view.each_layer, valid=valid)
  first = [
    jnp.where(s, masks.HIGHEST_RANK, masks.ranks(r))
    for s, r in zip(sure, scores, strict=True)
  ]
  return masks.select(first, budgets, contest, valid=valid)


def _exchange(regrow: Regrow, view: _View, pruned, *, due):
  """Prunes a share of each layer's active weights and regrows as many.

  Returns:
    The new masks, and those of the weights that were not pruned.
  """
  contest = view.each_layer
  by = view.score(regrow.prune_by, draws.PRUNE)
  parts = [regrow.split(p) for p in view.packed.pack(view.params)]
  stays: list[Array] = []
  removed = jnp.zeros(contest.num_groups, jnp.int32)
  for part in zip(*parts, strict=True):
    valid = [m & p for m, p in zip(pruned, part, strict=True)]
    active = masks.count_active(valid, contest)
    lost = masks.share(active, regrow.fraction, view.step, regrow.count)
    lost = jnp.where(due, jnp.clip(lost, 0, active), 0)
    left = masks.select(by, active - lost, contest, valid=valid)
    stays = _either(stays, left) if stays else left
    removed += lost
  off = [
    ~s if i is None else ~s & i
    for s, i in zip(stays, view.packed.inside(), strict=True)
  ]
  grown = masks.select(
    view.score(regrow.by, draws.REGROW),
    removed,
    contest,
    valid=off,
    # A score of exactly 0 says nothing, so those are drawn at random.
    shuffle=lambda: view.bits(draws.REGROW),
  )
  return _either(stays, grown), stays


def _either(a, b):
  return [x | y for x, y in zip(a, b, strict=True)]


def _all_finite(tree: PyTree) -> Bool[Array, ""]:
  leaves = map(jnp.asarray, jax.tree.leaves(tree))
  inexact = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in inexact]))


def _cond(condition, true_fn, false_fn):
  """`lax.cond`, or the branch itself where the condition is known.

  Outside jit a conditional would be compiled anew at every call.
  """
  if isinstance(condition, core.Tracer):
    return lax.cond(condition, true_fn, false_fn)
  return true_fn() if condition else false_fn()
