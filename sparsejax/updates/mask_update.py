"""Mask updates over a tree: first masks, budgets, and one update."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from sparsejax.components import criteria, scopes
from sparsejax.components.trees import Layout
from sparsejax.method import Key, Method, Order, Scope, Update
from sparsejax.selection import packing, random_bits, search
from sparsejax.selection.bitmasks import Carrier
from sparsejax.updates import context as views
from sparsejax.updates import finite
from sparsejax.updates.context import View
from sparsejax.updates.regrowth import exchange

Memories = Mapping[str, PyTree]


class Masked(NamedTuple):
  """What a mask update returns.

  Attributes:
    masks: the new masks, in layout order.
    keep: likewise, weights that are on and go on with their value and
      statistics. None where those are all that are on.
    found: int32[1 + layers], the counts that the method found by itself, as
      `SparseState.requested`; None where they are requested beforehand.
    memory: by name, the memories that a mask update changes.
    changed: bool[], whether the gate let it take place.
  """

  masks: list[Bool[Array, "..."]]
  keep: list[Bool[Array, "..."]] | None
  found: Int[Array, " counts"] | None
  memory: dict[str, PyTree]
  changed: Bool[Array, ""]


class Before(NamedTuple):
  """What a mask update changes, as it is before.

  Attributes:
    held: the masks as the state holds them, one array per sparse leaf, in
      layout order: bools, or the very list `bits`.
    bits: the same masks as their carrier packs them.
    last_update: int32[], as in `SparseState`.
    requested: int32[1 + layers], as in `SparseState`.
    memory: all memories by name.
  """

  held: list[Array]
  bits: list[Array]
  last_update: Int[Array, ""]
  requested: Int[Array, " counts"]
  memory: Memories


class Turn(NamedTuple):
  """The masks after a call, changed or not.

  Attributes:
    done: bool[]; whether a mask update took place, or a gate left it out.
    held: one array per sparse leaf, for the state alone: what else reads them
      would make XLA copy them at every step.
    new: the same masks, for all else.
    keep: weights that are on and go on with their value and statistics.
    requested: int32[1 + layers], as in `SparseState`.
    last_update: int32[], as in `SparseState`.
    memory: all memories by name.
  """

  done: Bool[Array, ""]
  held: list[Array]
  new: list[Bool[Array, "..."]]
  keep: list[Bool[Array, "..."]]
  requested: Int[Array, " counts"]
  last_update: Int[Array, ""]
  memory: Memories


@functools.partial(jax.jit, static_argnums=(0, 1))
def first_masks(
  method: Method,
  layout: Layout,
  key: Key | None,
  params: Sequence[Array],
) -> list[Bool[Array, "..."]]:
  """Draws the masks of step 0: dense, by a pattern, or exact counts per layer.

  Args:
    method: its slots `initial*` and first sparsity decide.
    layout: the sparse leaves.
    key: may be None where nothing is drawn.
    params: the weights at step 0, in layout order.
  """
  on = [jnp.ones(leaf.shape, bool) for leaf in layout.leaves]
  seen = views.seen_leaves(layout, params, params, on, {}, {})
  if method.initial_pattern is not None:
    return [method.initial_pattern(criteria.magnitude(s), s) for s in seen]
  if not method.sparsity.sparsities[0]:
    return on
  groups = method.initial.groups(layout)
  counts = first_counts(method, layout)
  if method.initial_criterion is None:
    assert key is not None  # `sparsify` refused to go on without one.
    packed = packing.blocks(layout)
    scores = random_bits.bits(layout, packed, key, 0, random_bits.FIRST_MASKS)
    contest = packed.contest(groups, layout.sizes)
    first = search.select(scores, counts, contest, valid=packed.inside())
    return packed.unpack(first)
  packed = packing.choose(layout, packing.is_apart(params))
  view = views.look(layout, seen, packed, jnp.zeros((), jnp.int32), key)
  if method.pattern is not None:
    scores = view.score_leaves(
      method.initial_criterion, random_bits.FIRST_MASKS
    )
    return [method.pattern(x, s) for x, s in zip(scores, seen, strict=True)]
  first = search.select(
    view.score(method.initial_criterion, random_bits.FIRST_MASKS),
    counts,
    view.contest(groups),
    valid=view.packed.inside(),
  )
  return view.packed.unpack(first)


def first_counts(method: Method, layout: Layout) -> np.ndarray:
  """Returns int32[num_groups] of `method.initial`: active weights at step 0."""
  progress = 1.0
  sparsities = method.sparsity.sparsities
  if sparsities[-1]:
    progress = sparsities[0] / sparsities[-1]
  budgets = method.initial.budgets(layout, sparsities[0], progress, None)
  return budgets.astype(np.int32)


def budget_table(method: Method, layout: Layout) -> np.ndarray:
  """Returns int32[updates, num_groups] of `method.scope`: weights to keep."""
  sparsities = method.sparsity.sparsities
  shrinking = not method.storage.prunes_all
  first = None
  if shrinking and sparsities[0] and layout.leaves:
    by_layer = first_requested(method, layout)[1:]
    groups = method.scope.groups(layout)
    first = np.zeros(groups.max() + 1, np.int64)
    np.add.at(first, groups, by_layer)
  return scopes.budget_table(
    method.scope, layout, sparsities, shrinking=shrinking, first=first
  )


def requested_table(method: Method, layout: Layout) -> np.ndarray:
  """Returns int32[updates, 1 + layers]: `SparseState.requested` at each update."""
  groups = np.asarray(method.scope.groups(layout))
  table = budget_table(method, layout)
  return np.stack([_by_layer(groups, row) for row in table])


def first_requested(method: Method, layout: Layout) -> np.ndarray:
  """Returns int32[1 + layers]: the counts requested of the first masks."""
  groups = np.asarray(method.initial.groups(layout))
  return _by_layer(groups, first_counts(method, layout))


def requested_as_found(
  layout: Layout, found: Sequence[Bool[Array, "..."]]
) -> Int[Array, " counts"]:
  """Returns int32[1 + layers]: the counts of given masks."""
  contest = search.each_layer(layout.axes, len(layout.sizes))
  return _as_requested(search.count_active(found, contest))


def _as_requested(counts: Int[Array, " layers"]) -> Int[Array, " counts"]:
  return jnp.concatenate([jnp.zeros(1, jnp.int32), counts])


def _by_layer(groups: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Spreads counts of groups to [shared, layer, ...], -1 in a shared group."""
  alone = np.bincount(groups, minlength=len(counts)) == 1
  shared = counts[~alone].sum()
  layers = np.where(alone[groups], counts[groups], -1)
  return np.concatenate([[shared], layers]).astype(np.int32)


def maybe_update(
  method: Method,
  layout: Layout,
  before: Before,
  carrier: Carrier,
  *,
  old: list[Bool[Array, "..."]],
  step: Int[Array, ""],
  key: Key | None,
  scored: Callable[[list[Array]], PyTree],
  grads: PyTree,
  metric: Float[Array, ""] | None,
  watched: PyTree,
) -> Turn:
  """Updates the masks if that is due at `step` and all numbers are finite.

  Only masks and a few numbers pass through the conditional: parameters and
  optimizer state would be copied by it at every step.

  Args:
    method: the slots.
    layout: the sparse leaves.
    before: masks, memory and counts before.
    carrier: packs masks for what reads them after the conditional.
    old: the masks before, for what reads them if none can change.
    step: int32[].
    key: for random scores.
    scored: makes the tree of weights to score, given the masks inside the
      branch.
    grads: tree of dense gradients.
    metric: float32[], or None.
    watched: tree that must be finite; otherwise the update stays due.
  """
  held, last_update = before.held, before.last_update
  requested, memory = before.requested, before.memory
  if not layout.leaves or not (method.prunes or method.regrow):
    no = jnp.asarray(False)
    return Turn(no, held, old, old, requested, last_update, memory)
  holds_bits = held is before.bits
  exchange_due = jnp.asarray(False)
  if method.regrow is not None:
    exchange_due = method.regrow.when(step) > last_update
  due = exchange_due
  if method.when is not None:
    due |= method.when(step) > last_update
  index = method.sparsity.index(step)
  table = budget_table(method, layout)

  def same() -> tuple:
    bits = _bits(method, lambda: before.bits, lambda: before.bits)
    found = requested if method.counts_as_found else None
    observed = {name: memory[name] for name in _observing(method)}
    no = jnp.asarray(False)
    return no, no, held, bits, found, observed

  def change() -> tuple:
    # Operands of the inner conditional, so that they are computed once. Made
    # anew by each part that compares them, a product and a sum may be rounded
    # together in one and apart in another, and counts would not be exact.
    on = carrier.unpack(held, layout.leaves) if holds_bits else list(held)
    weights = layout.take(scored(on))
    slopes = layout.take(grads)
    apart = packing.is_apart([*weights, *slopes])
    # Operands as well, so that one kernel cuts out all leaves of a shape.
    starts = packing.choose(layout, apart).starts
    starts = [jnp.asarray(start) for start in starts]
    if starts:
      starts = lax.optimization_barrier(starts)

    def update() -> Masked:
      return next_masks(
        method,
        layout,
        weights,
        slopes,
        on,
        jnp.asarray(table)[index],
        memory,
        step=step,
        exchange_due=exchange_due,
        key=key,
        metric=metric,
        apart=apart,
        starts=starts,
      )

    def stay() -> Masked:
      _, no, _, _, found, observed = same()
      keep = None if method.regrow is None else list(on)
      return Masked(on, keep, found, observed, no)

    # Nested, so that all that reads the old masks ends before the new ones are
    # written in their place.
    sound = finite.all_finite(watched)
    masked = _cond(sound, update, stay)
    new = masked.masks
    keep = new if masked.keep is None else masked.keep
    bits = _bits(method, lambda: carrier.pack(keep), lambda: carrier.pack(new))
    if holds_bits:
      new = carrier.pack(new) if bits.new is None else bits.new
    return sound, masked.changed, new, bits, masked.found, masked.memory

  done, changed, new, bits, found, observed = _cond(due, change, same)
  if method.counts_as_found:
    requested = found
  elif method.prunes:
    requested = jnp.where(
      changed, jnp.asarray(requested_table(method, layout))[index], requested
    )
  packed = bits.new
  if packed is None:
    packed = new if holds_bits else carrier.pack(new)
  return Turn(
    done,
    new,
    carrier.unpack(packed, layout.leaves),
    carrier.unpack(bits.keep or packed, layout.leaves),
    requested,
    jnp.where(done, step, last_update),
    {**memory, **observed},
  )


class _Bits(NamedTuple):
  """Packed masks that leave the conditional; None where nothing reads them."""

  keep: list[Array] | None
  new: list[Array] | None


def _bits(method: Method, keep: Callable, new: Callable) -> _Bits:
  """Zeroed storage goes by what is kept, kept storage by what is on."""
  resets = method.storage.resets
  both = method.order is Order.MASKS_FIRST
  return _Bits(
    keep() if resets else None, new() if both or not resets else None
  )


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="apart")
def next_masks(
  method: Method,
  layout: Layout,
  params: Sequence[Array],
  grads: Sequence[Array],
  old: Sequence[Bool[Array, "..."]],
  budgets: Int[Array, " groups"],
  memory: Memories,
  *,
  step: Int[Array, ""],
  exchange_due: Bool[Array, ""],
  key: Key | None,
  metric: Float[Array, ""] | None = None,
  apart: bool = False,
  starts: Sequence[Array] | None = None,
) -> Masked:
  """Returns the masks after one update.

  Args:
    method: the slots.
    layout: the sparse leaves; the lists below are in its order.
    params: the weights that are scored, latent ones where storage keeps them.
    grads: the dense gradients.
    old: the masks before.
    budgets: int32[num_groups] of `method.scope`: weights to keep.
    memory: by name.
    step: int32, the step of the update.
    exchange_due: whether `method.regrow` is due; otherwise it is a no-op.
    key: for random scores.
    metric: what `update` was given, or None.
    apart: whether leaves may be sharded over devices.
    starts: for `Packing.unpack`.
  """
  seen = views.seen_leaves(layout, params, grads, old, method.memory, memory)
  packed = packing.choose(layout, apart)
  view = views.look(layout, seen, packed, step, key)
  new = _prune(method, view, budgets) if method.prunes else view.masks
  keep, found = None, None
  lost = jnp.zeros(len(layout.sizes), jnp.int32)
  if method.regrow is not None:
    new, keep, lost, counts = _regrow(
      method, view, new, exchange_due, metric, memory
    )
    found = _as_requested(counts)
  if not method.counts_as_found:
    found = None
  elif found is None:
    found = _as_requested(search.count_active(new, view.each_layer))
  changed = jnp.asarray(True)
  if method.gate is not None:
    changed = method.gate(memory, metric)
    new = _unless(changed, new, view.masks)
    keep = _unless(changed, keep, view.masks)
    lost = jnp.where(changed, lost, 0)
    if found is not None:
      before = _as_requested(search.count_active(view.masks, view.each_layer))
      found = jnp.where(changed, found, before)
  new = packed.unpack(new, starts)
  keep = None if keep is None else packed.unpack(keep, starts)
  update = Update(
    step=step,
    metric=metric,
    seen=[s._replace(mask=m) for s, m in zip(seen, new, strict=True)],
    lost=lost,
    layout=layout,
  )
  observed = {
    name: observe(memory[name], update)
    for name, observe in _observing(method).items()
  }
  return Masked(new, keep, found, observed, changed)


def _regrow(method, view, pruned, due, metric, memory):
  """Exchanges weights if that is due.

  Returns:
    The masks, packed; likewise what goes on; int32[layers], pruned and not
    regrown; and int32[layers], how many are on.
  """

  def exchanged():
    new, stays, lost, counts = exchange(
      method.regrow,
      view.with_masks(pruned),
      metric=metric,
      memory=memory,
    )
    goes_on = stays if method.regrow.restart else pruned
    return new, _both(new, goes_on), lost, counts

  def only_pruned():
    counts = search.count_active(pruned, view.each_layer)
    return list(pruned), list(pruned), jnp.zeros_like(counts), counts

  return _cond(due, exchanged, only_pruned)


def _both(a, b):
  return [x & y for x, y in zip(a, b, strict=True)]


def _observing(method: Method) -> dict[str, Callable]:
  """Returns by name how memories change at a mask update."""
  return {
    name: slot.observe
    for name, slot in method.memory.items()
    if slot.observe is not None
  }


def _prune(method: Method, view: View, budgets: Array) -> list[Array]:
  """Lets the weights compete; returns the masks, packed."""
  before = view.masks
  valid = view.packed.inside() if method.storage.prunes_all else before
  if method.pattern is not None:
    scores = view.score_leaves(method.criterion, random_bits.PRUNE)
    chosen = [
      method.pattern(x, s) for x, s in zip(scores, view.seen, strict=True)
    ]
    packed = view.packed.pack(chosen)
    if method.storage.prunes_all:
      return packed
    return _both(packed, before)
  scores = view.score(method.criterion, random_bits.PRUNE)
  return _compete(method.scope, view, scores, budgets, valid)


def _compete(scope: Scope, view: View, scores, budgets, valid):
  contest = view.contest(scope.groups(view.layout))
  if not scope.min_active_per_layer:
    return search.select(scores, budgets, contest, valid=valid)
  least = np.minimum(scope.min_active_per_layer, view.layout.sizes)
  sure = search.select(scores, least, view.each_layer, valid=valid)
  first = [
    jnp.where(s, search.HIGHEST_RANK, search.ranks(r))
    for s, r in zip(sure, scores, strict=True)
  ]
  return search.select(first, budgets, contest, valid=valid)


def _unless(condition, new: PyTree, old: PyTree) -> PyTree:
  """Selects `new` where `condition` holds, a scalar bool."""
  if new is None:
    return None
  return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, list(old))


def _cond(condition, true_fn, false_fn):
  """`lax.cond`, or the branch itself where the condition is known.

  Outside jit a conditional would be compiled anew at every call.
  """
  if isinstance(condition, core.Tracer):
    return lax.cond(condition, true_fn, false_fn)
  return true_fn() if condition else false_fn()
