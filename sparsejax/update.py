"""One mask update over a tree: prune, then exchange within layers."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax
from jaxtyping import Array, Bool, Int, PyTree, UInt32

from sparsejax import criteria, masks, scopes
from sparsejax.base import Criterion, Key, MaskUpdate, Regrow, Scope
from sparsejax.trees import Layout

FIRST_MASKS, PRUNE, REGROW = 0, 1, 2  # purposes of random bits


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


def leaf_key(key: Key, step: Any, index: Any, purpose: int) -> Key:
  """Returns the key of one leaf, one step and one purpose."""
  for data in (step, index, purpose):
    key = jax.random.fold_in(key, data)
  return key


def random_scores(
  layout: Layout, key: Key | None, step: Any, purpose: int
) -> list[UInt32[Array, "..."]]:
  """Returns random ranks for every weight, one array per pack."""
  blank = layout.pack([jnp.zeros(leaf.shape) for leaf in layout.leaves])
  return _scores(criteria.random, layout, blank, blank, key, step, purpose)


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
  contest = scopes.competition(method.initial, layout)
  scores = random_scores(layout, key, 0, FIRST_MASKS)
  return layout.unpack(
    masks.select(scores, first_counts(method, layout), contest)
  )


def first_counts(method: MaskUpdate, layout: Layout) -> np.ndarray:
  """Returns int32[num_groups] of `method.initial`: active weights at step 0."""
  progress = 1.0
  sparsities = method.sparsity.sparsities
  if sparsities[-1]:
    progress = sparsities[0] / sparsities[-1]
  budgets = method.initial.budgets(layout, sparsities[0], progress)
  return budgets.astype(np.int32)


def asked_table(method: MaskUpdate, layout: Layout) -> np.ndarray:
  """Returns int32[updates, 1 + layers]: `SparseState.asked` at each update."""
  groups = np.asarray(method.scope.groups(layout))
  table = scopes.budget_table(method.scope, layout, method.sparsity.sparsities)
  return np.stack([_by_layer(groups, row) for row in table])


def first_asked(method: MaskUpdate, layout: Layout) -> np.ndarray:
  """Returns int32[1 + layers]: the counts asked of the first masks."""
  groups = np.asarray(method.initial.groups(layout))
  return _by_layer(groups, first_counts(method, layout))


def asked_as_found(
  layout: Layout, found: Sequence[Bool[Array, "..."]]
) -> Int[Array, " counts"]:
  """Returns int32[1 + layers]: the counts of given masks."""
  counts = masks.count_active(found, layout.axes)
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
  table = scopes.budget_table(method.scope, layout, method.sparsity.sparsities)

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
  if keep is None:
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
  params, grads, old = map(layout.pack, (params, grads, old))
  pruned = old
  if method.prunes:
    scores = _scores(method.criterion, layout, params, grads, key, step, PRUNE)
    valid = None if method.storage.prunes_all else old
    pruned = _prune(method.scope, layout, scores, budgets, valid)
  if method.regrow is None:
    return Masked(layout.unpack(pruned), None)
  new, stays = _exchange(
    method.regrow,
    layout,
    params,
    grads,
    pruned,
    step=step,
    due=exchange,
    key=key,
  )
  if not _sets_keep(method):
    return Masked(layout.unpack(new), None)
  goes_on = stays if method.regrow.restart else pruned
  keep = [n & g for n, g in zip(new, goes_on, strict=True)]
  return Masked(layout.unpack(new), layout.unpack(keep))


def _sets_keep(method: MaskUpdate) -> bool:
  """Whether a weight may be on before and after and yet start again at 0."""
  exchange = method.regrow
  return exchange is not None and (exchange.restart or method.prunes)


def _prune(scope: Scope, layout, scores, budgets, valid):
  contest = scopes.competition(scope, layout)
  if not scope.min_active_per_layer:
    return masks.select(scores, budgets, contest, valid=valid)
  sizes = np.asarray(layout.sizes)[list(layout.packed_layers)]
  sure = masks.select(
    scores,
    np.minimum(scope.min_active_per_layer, sizes),
    _each_layer(layout),
    valid=valid,
  )
  first = [
    jnp.where(s, masks.HIGHEST_RANK, masks.ranks(r))
    for s, r in zip(sure, scores, strict=True)
  ]
  return masks.select(first, budgets, contest, valid=valid)


def _exchange(regrow: Regrow, layout, params, grads, pruned, *, step, due, key):
  """Prunes a share of each layer's active weights and regrows as many.

  Returns:
    The new masks, and those of the weights that were not pruned.
  """
  contest = _each_layer(layout)
  by = _scores(regrow.prune_by, layout, params, grads, key, step, PRUNE)
  parts = [regrow.split(p) for p in params]
  stays = [jnp.zeros_like(m) for m in pruned]
  removed = jnp.zeros(len(layout.sizes), jnp.int32)
  for part in zip(*parts, strict=True):
    valid = [m & p for m, p in zip(pruned, part, strict=True)]
    active = masks.count_active(valid, contest.axes)
    lost = masks.share(active, regrow.fraction, step, regrow.count)
    lost = jnp.where(due, jnp.clip(lost, 0, active), 0)
    chosen = masks.select(by, active - lost, contest, valid=valid)
    stays = [a | b for a, b in zip(stays, chosen, strict=True)]
    removed += lost
  scores = _scores(regrow.by, layout, params, grads, key, step, REGROW)
  if any(score.dtype != jnp.uint32 for score in scores):
    # A score of exactly 0 says nothing, so those are drawn at random.
    bits = _scores(criteria.random, layout, params, grads, key, step, REGROW)
    scores = [
      masks.shuffle_zeros(masks.ranks(s), b)
      for s, b in zip(scores, bits, strict=True)
    ]
  off = [~s for s in stays]
  grown = masks.select(scores, removed, contest, valid=off)
  return [s | g for s, g in zip(stays, grown, strict=True)], stays


def _each_layer(layout: Layout) -> masks.Competition:
  axes = [pack.axis for pack in layout.packs]
  return masks.each_layer(axes, len(layout.sizes))


def _scores(criterion: Criterion, layout, params, grads, key, step, purpose):
  """Scores every pack, leaf by leaf where it has several."""
  out = []
  for pack, p, g in zip(layout.packs, params, grads, strict=True):
    if key is None:
      out.append(criterion(p, g, None))
      continue
    index = [layout.leaves[member].index for member in pack.members]
    if len(index) == 1:
      out.append(criterion(p, g, leaf_key(key, step, index[0], purpose)))
      continue
    keys = jax.vmap(leaf_key, (None, None, 0, None))(
      key, step, jnp.asarray(index), purpose
    )
    out.append(jax.vmap(criterion)(p, g, keys))
  return out


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
