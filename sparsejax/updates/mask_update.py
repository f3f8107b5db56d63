"""One mask update: is it due, and what are the masks after it.

Everything runs inside one conditional, so that a step without a mask update
pays nothing for it, also where several networks train under `vmap`. What passes
through the conditional is written to memory at every step, so only masks and a
few numbers do. The branch computes the moved weights again for its scores,
instead of taking them as an operand: moving scores through the conditional cost
1.4 to 2.5 times the plain step.

Inside the branch a second conditional holds the search. Weights, gradients and
masks are its operands on purpose. XLA's CPU backend recomputes an elementwise
value in every fusion that reads it, and may round a product and a sum together
in one fusion and apart in another; scores that differ in the last bit between
counting and comparing break exact counts (an N:M mask had 1 of 4). An
`optimization_barrier` does not prevent that, an operand does.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from sparsejax.components import placement, wide_counts
from sparsejax.components.wide_counts import Counted
from sparsejax.method import Context, MaskChange, Method
from sparsejax.selection import counting, packing as packings
from sparsejax.selection.groups import Groups
from sparsejax.state import SparseState, unit_masks
from sparsejax.updates import (
  conditional,
  context as contexts,
  finite,
  inner_state as inner_states,
  pruning,
  regrowth,
  requested,
  units,
)
from sparsejax.updates.optimizer_step import Call


class NextMasks(NamedTuple):
  """The masks after a mask update, and what changes with them.

  Attributes:
    opened: bool[]; whether the gate let it take place.
    new: the new masks, in layout order.
    units: the new masks of units, as in `SparseState`.
    keep: active weights that keep their value and optimizer state; None where
      those are all active ones.
    changes: counts [2, layers], how many weights were pruned, and regrown.
    requested: counts [1 + layers] that the method found by itself; None where
      the schedule requests them.
    accumulators: by name, those that a mask update changes.
  """

  opened: Bool[Array, ""]
  new: list[Bool[Array, "..."]]
  units: tuple[dict[str, Bool[Array, "..."]], ...]
  keep: list[Bool[Array, "..."]] | None
  changes: Counted
  requested: Counted | None
  accumulators: dict[str, PyTree]


def maybe_update(
  call: Call,
  accumulators: Mapping[str, PyTree],
  step: Int[Array, ""],
  scored: Callable[[Sequence[Array]], tuple[PyTree, optax.OptState]],
) -> tuple[MaskChange, SparseState]:
  """Updates the masks if that is due at `step` and all numbers are finite.

  From the masks inside the branch, `scored` makes the tree of weights to score
  and the state of the optimizer that goes with them.
  """
  method, state, layout = call.method, call.state, call.layout
  if not layout.leaves or not (method.prune or method.regrow):
    masks = layout.masked_tree(call.masks)
    change = MaskChange(jnp.asarray(False), masks, masks, masks)
    return change, state._replace(accumulators=dict(accumulators))
  schedule = method.prune and method.prune.schedule
  regrow_due = _is_due(method.regrow, state, step)
  due = regrow_due | _is_due(schedule, state, step)
  stored = jax.tree.leaves(state.masks)

  def same() -> tuple:
    no = jnp.asarray(False)
    next_ = _unchanged(method, state, accumulators, stored)
    return no, next_._replace(keep=None), call.bits, call.bits

  def update() -> tuple:
    finite_, next_ = _search(call, accumulators, step, regrow_due, scored)
    new = call.carrier.pack(next_.new)
    keep = new if next_.keep is None else call.carrier.pack(next_.keep)
    return finite_, *_placed(call, (next_._replace(keep=None), new, keep))

  done, next_, new, keep = conditional.cond(due, update, same)
  next_, new, keep = _placed(call, (next_, new, keep))
  change = MaskChange(
    done,
    old=layout.masked_tree(call.masks),
    new=layout.masked_tree(call.carrier.unpack(new, layout.leaves)),
    keep=layout.masked_tree(call.carrier.unpack(keep, layout.leaves)),
  )
  return change, state._replace(
    last_update=jnp.where(done, step, state.last_update),
    masks=jax.tree.unflatten(jax.tree.structure(state.masks), next_.new),
    units=next_.units,
    requested=_requested(call, next_, step),
    changes=next_.changes,
    accumulators={**accumulators, **next_.accumulators},
  )


def _placed(call: Call, found: Any) -> Any:
  """Keeps masks where their weights are.

  Some compilers gather what leaves a conditional, of nested ones each.
  """
  weights = call.layout.take(call.params)
  trees = (weights, call.layout.masked_tree(weights))
  for like in trees if call.layout.sharded else ():
    found = placement.trees_alike(found, like)
  return found


def _is_due(part, state: SparseState, step) -> Bool[Array, ""]:
  if part is None:
    return jnp.asarray(False)
  return part.when(step) > state.last_update


def _requested(call: Call, next_: NextMasks, step) -> Counted:
  """Returns the counts requested after a call."""
  method = call.method
  if method.counts_as_found:
    assert next_.requested is not None
    return next_.requested
  if method.prune is None:
    return call.state.requested
  table = requested.requested_table(method, call.layout)
  table = requested.on_device(method, call.layout, table)
  index = method.prune.schedule.index(step)
  return wide_counts.where(next_.opened, table[index], call.state.requested)


def _unchanged(
  method: Method, state: SparseState, accumulators, masks: Sequence[Array]
) -> NextMasks:
  """What stays where no mask update takes place."""
  return NextMasks(
    opened=jnp.asarray(False),
    new=list(masks),
    units=state.units,
    keep=None if method.regrow is None else list(masks),
    changes=state.changes,
    requested=state.requested if method.counts_as_found else None,
    accumulators={name: accumulators[name] for name in _observing(method)},
  )


def _search(
  call: Call, accumulators, step, regrow_due, scored
) -> tuple[Array, NextMasks]:
  """Returns whether all numbers are finite, and the masks of a due update."""
  method, state, layout = call.method, call.state, call.layout
  masks = jax.tree.leaves(state.masks)
  tree, inner_state = scored(masks)
  weights = layout.take(tree)
  gradients = None if call.grads is None else layout.take(call.grads)
  momentum = hessian = [None] * len(weights)
  if method.reads_momentum:
    momentum = inner_states.momentum(inner_state, layout)
  if method.reads_hessian_gradient:
    hessian = call.hessian_gradient(masks)
  packing = contexts.packing_of(method, method.counted(layout))
  starts = [jnp.asarray(x) for x in packing.starts]
  if starts:  # Constants would compile one kernel per leaf, not per shape.
    starts = lax.optimization_barrier(starts)
  budgets = None
  if method.prune is not None and method.prune.pattern is None:
    table = requested.budget_table(method, layout)
    table = requested.on_device(method, layout, table)
    budgets = table[method.prune.schedule.index(step)]

  def context() -> Context:
    leaves = contexts.leaves_of(
      method, layout, weights, gradients, masks, accumulators
    )
    leaves = [
      leaf._replace(momentum=v, hessian_gradient=h)
      for leaf, v, h in zip(leaves, momentum, hessian, strict=True)
    ]
    found = Context(layout, leaves, step, call.key, call.metric, accumulators)
    found = units.with_units(method, found, unit_masks(state))
    return units.scored(method, found)

  read = context()

  def update() -> NextMasks:
    next_ = next_masks(method, read, budgets, regrow_due, starts)
    return _placed(call, next_)

  def stay() -> NextMasks:
    return _unchanged(method, state, accumulators, masks)

  watched = (call.grads, call.extra_args.get("value"), hessian)
  all_finite = finite.all_finite(watched, sharded=layout.sharded)
  return all_finite, _placed(call, conditional.cond(all_finite, update, stay))


@functools.partial(jax.jit, static_argnames="method")
def next_masks(
  method: Method,
  context: Context,
  budgets: Counted | None,
  regrow_due: Bool[Array, ""],
  starts: Sequence[Array] | None = None,
) -> NextMasks:
  """Returns the masks after one update.

  `budgets` are those of `method.prune`, None where it needs none; `starts` are
  for `Packing.unpack`. What is searched are the units of the context.
  """
  counted, parts = context.counted, units.in_units(method)
  packing = contexts.packing_of(method, counted.layout)
  before = leaves = contexts.pack(counted, packing)
  if parts.prune is not None:
    pruned = pruning.prune(
      parts.prune,
      leaves,
      budgets,
      revives=method.storage.keeps_values,
      quota=method.granularity.quota,
    )
    leaves = leaves.with_masks(pruned)
  found = _regrow(parts, leaves, regrow_due)
  opened = jnp.asarray(True)
  if method.gate is not None:
    opened = method.gate.opens(context)
    closed = regrowth.only_counted(before)
    found = jax.tree.map(lambda x, y: jnp.where(opened, x, y), found, closed)
  new = active = packing.unpack(found.new, starts)
  keep = None
  if method.regrow is not None:
    keep = packing.unpack(found.keep, starts)
  old, now, each_layer = before.masks, found.new, packing.each_layer
  of_weights = method.units(context.layout)
  if of_weights is not None:
    new = now = of_weights.weights(active)
    keep = None if keep is None else of_weights.weights(keep)
    old = [leaf.mask for leaf in context.leaves]
    each_layer = packings.leaves(context.layout).each_layer
  after = context._replace(
    leaves=[
      leaf._replace(mask=mask)
      for leaf, mask in zip(context.leaves, new, strict=True)
    ]
  )
  return NextMasks(
    opened,
    new,
    units.named(method, context.layout, active),
    keep,
    _changes(old, now, each_layer),
    requested.with_no_shared(counted.layout, found.counts)
    if method.counts_as_found
    else None,
    {
      name: after_update(context.accumulators[name], after, found.pruned)
      for name, after_update in _observing(method).items()
    },
  )


def _changes(
  old: Sequence[Array], new: Sequence[Array], each_layer: Groups
) -> Counted:
  """Counts the weights that were pruned and regrown, in each layer."""
  pairs = list(zip(old, new, strict=True))
  pruned = counting.count_active([old & ~new for old, new in pairs], each_layer)
  regrown = counting.count_active(
    [new & ~old for old, new in pairs], each_layer
  )
  return wide_counts.stack([pruned, regrown])


def _regrow(method: Method, leaves, due) -> regrowth.Regrown:
  """Prunes and regrows in each layer if that is due."""
  if method.regrow is None:
    return regrowth.only_counted(leaves)
  part, quota = method.regrow, method.granularity.quota

  def placed(found: regrowth.Regrown) -> regrowth.Regrown:
    sharded = leaves.packing.sharded
    return placement.trees_alike(found, leaves.weights) if sharded else found

  return placed(
    conditional.cond(
      due,
      lambda: placed(regrowth.prune_and_regrow(part, leaves, quota)),
      lambda: regrowth.only_counted(leaves),
    )
  )


def _observing(method: Method) -> dict[str, Callable]:
  """Returns by name how accumulators change at a mask update."""
  return {
    each.name: each.after_update
    for each in method.all_accumulators
    if each.after_update is not None
  }
