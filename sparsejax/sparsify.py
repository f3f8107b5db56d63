"""`sparsify`: the masks of a method around any optax transformation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import core
from jaxtyping import Array, Float, Int, PyTree

from sparsejax.components import trees
from sparsejax.components.trees import Layout, Overrides, Select
from sparsejax.method import (
  Key,
  Masks,
  Method,
  Moment,
  Order,
  Seen,
  Start,
  Stepped,
)
from sparsejax.selection import bitmasks, random_bits
from sparsejax.state import SparseState
from sparsejax.updates import context, mask_update
from sparsejax.updates import inner_state as inner_states
from sparsejax.updates.mask_update import Memories

_NO_PARAMS = (
  "`params` must be given to `update`, got None: the masked weights move to 0"
  " from where they are. Call tx.update(grads, opt_state, params)."
)

_PACKED_APART = (
  "`pack_masks` must be False for parameters that are sharded over several"
  " devices, got True: eight weights share a byte. Leave it out."
)


def sparsify(
  inner: Any,
  method: Method,
  *,
  key: Key | None = None,
  select: Select = None,
  overrides: Overrides | None = None,
  masks: Masks | None = None,
  pack_masks: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """Keeps the parameters sparse by a method, around any optimizer.

  The parameters that the user holds are the sparse network after every step:
  the emitted update is `-p` where a weight is off and the inner update where it
  stays. The gradients that go in are the plain dense ones. What is chained
  behind this transformation may move weights that are off, so it stands last.

  Args:
    inner: the optimizer, an optax transformation or `MultiSteps`; clipping and
      weight decay belong inside. It gets the masked gradient and all extra
      arguments.
    method: what `sparsejax.granet(...)` and the like return.
    key: random key, typed or raw; for methods that draw.
    select: which leaves are sparse: None for all kernels (at least two
      dimensions above 1, and no bias, scale or embedding by name), a glob or
      several over names like `block/conv/kernel`, a function (name, leaf) ->
      bool, or a tree of bools.
    overrides: glob -> "dense", an own sparsity in [0, 1), or an `Override`; the
      last match wins.
    masks: masks to start from instead of the method's first ones: a tree of
      bools like the parameters, None or `MaskedNode` at dense leaves.
    pack_masks: whether the state holds masks in one bit a weight and not one
      byte. Not for parameters that are sharded over devices: eight neighbours
      share a byte.

  Returns:
    A transformation whose state is a `SparseState`. Its `update` needs
    `params`, returns updates for `optax.apply_updates`, changes masks at the
    due steps, and skips (until the next step) a mask update whose gradients, or
    whose `value=`, are not finite.

  Raises:
    ValueError: at once for `select` beside `masks`; in `init` for a missing
      key, a selector or override that matches nothing, budgets that contradict
      each other, and sharded parameters with `pack_masks`.

  Examples:
    >>> import jax, jax.numpy as jnp, optax, sparsejax
    >>> params = {"kernel": jnp.ones((4, 5)), "bias": jnp.zeros(5)}
    >>> tx = sparsejax.sparsify(
    ...     optax.sgd(0.1), sparsejax.static(0.9), key=jax.random.key(0))
    >>> params = sparsejax.apply_masks(params, tx.init(params))
    >>> int((params["kernel"] != 0).sum())
    2
  """
  if masks is not None and select is not None:
    raise ValueError(
      "`select` must be None where `masks` is given: the masks say which"
      " leaves are sparse."
    )
  if hasattr(inner, "gradient_transformation"):  # optax.MultiSteps
    inner = inner.gradient_transformation()
  inner = optax.with_extra_args_support(inner)
  key_data, key_impl = (), None
  if key is not None:
    key = _typed(key)
    key_data, key_impl = jax.random.key_data(key), jax.random.key_impl(key)

  def init_fn(params: PyTree) -> SparseState:
    layout = _first_layout(params, select, overrides, masks)
    if pack_masks and any(map(_is_cut, layout.take(params))):
      raise ValueError(_PACKED_APART)
    first, requested = _first_masks(method, layout, key, params, masks)
    first = _placed_like(params, trees.masks_tree(params, layout, first))
    start = Start(params, first, layout)
    memory = {name: slot.init(start) for name, slot in method.memory.items()}
    state = SparseState(
      step=jnp.zeros((), jnp.int32),
      last_update=jnp.full((), -1, jnp.int32),
      masks=bitmasks.pack_tree(first) if pack_masks else first,
      requested=requested,
      axes=jnp.array([-1 if a is None else a for a in layout.axes], jnp.int32),
      inner_state=inner.init(trees.where(first, params)),
      latent=method.storage.init(params, first, memory),
      memory=memory,
      key_data=jax.tree.map(jnp.array, key_data),
    )
    return _without_aliases(state, params)

  def update_fn(
    updates: PyTree,
    state: Any,
    params: PyTree | None = None,
    **extra_args: Any,
  ) -> tuple[PyTree, SparseState]:
    if params is None:
      raise ValueError(_NO_PARAMS)
    metric = _heard(method, extra_args.pop("metric", None))
    key = None
    if key_impl is not None:
      key = jax.random.wrap_key_data(state.key_data, impl=key_impl)
    layout = trees.layout(
      params, trees.sparse_flags(params, state.masks), overrides
    )
    # From here on nothing reads the state's masks but the mask update: what
    # reads them after the conditional would make XLA copy them at every step.
    held = jax.tree.leaves(state.masks)
    carrier = (
      bitmasks.AS_BITS if pack_masks else bitmasks.carrier(layout.take(params))
    )
    bits = held if pack_masks else carrier.pack(held)
    call = _Call(
      method,
      inner,
      layout,
      params=params,
      grads=updates,
      latent=state.latent,
      old=carrier.unpack(bits, layout.leaves),
      inner_state=state.inner_state,
      step=state.step,
      key=key,
      extra_args=extra_args,
    )
    order = method.order
    memory = state.memory
    if order is Order.STEP_FIRST:
      memory = call.after_step(call.old, memory)
    turn = mask_update.maybe_update(
      method,
      layout,
      mask_update.Before(
        held, bits, state.last_update, state.requested, memory
      ),
      carrier,
      old=call.old,
      step=_after(state.step) if order is Order.STEP_FIRST else state.step,
      key=key,
      # Of the masks there: such as pass into a branch are written at each step.
      scored=lambda on: call._replace(old=on).scored(state.memory),
      grads=updates,
      metric=metric,
      watched=(updates, extra_args.get("value")),
    )
    masks_first = order is Order.MASKS_FIRST
    if method.restarts_statistics and masks_first:
      call = call._replace(
        inner_state=inner_states.restart(
          inner, state.inner_state, turn.done, params
        )
      )
    if masks_first:
      taken = call.take_step(turn.new, turn.keep, turn.memory)
    else:
      taken = call.take_step(call.old, turn.keep, state.memory)
    if method.restarts_statistics and not masks_first:
      taken = taken._replace(
        inner_state=inner_states.restart(
          inner, taken.inner_state, turn.done, params
        )
      )
    step, memory = _after(state.step), turn.memory
    if order is not Order.STEP_FIRST:
      memory = call.after_step(taken.masks, memory)
    if order is Order.INSTEAD_OF_STEP:
      step = jnp.where(turn.done, state.step, step)
      memory = _unless(turn.done, memory, turn.memory)
      taken = taken.unless(turn.done)
    updates, latent = method.storage.settle(
      Stepped(
        params,
        call.weights(),
        taken.updates,
        old=call.as_tree(call.old),
        new=call.as_tree(turn.new),
        keep=call.as_tree(taken.keep),
        memory=memory,
      )
    )
    return updates, SparseState(
      step=step,
      last_update=turn.last_update,
      masks=jax.tree.unflatten(jax.tree.structure(state.masks), turn.held),
      requested=turn.requested,
      axes=state.axes,
      inner_state=taken.inner_state,
      latent=latent,
      memory=dict(memory),
      key_data=state.key_data,
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _Taken(NamedTuple):
  """A step of the inner optimizer.

  Attributes:
    masks: one per sparse leaf, those that the step was taken with.
    keep: which weights the updates move; the others go to 0.
    updates: tree of what the weights are moved by.
    inner_state: the optimizer's state after it, statistics reset.
    entering: the state before it, statistics reset.
  """

  masks: list[Array]
  keep: list[Array]
  updates: PyTree
  inner_state: optax.OptState
  entering: optax.OptState

  def unless(self, spent: Array) -> "_Taken":
    """Returns the step, or what is left of it where a mask update spent it."""
    updates, inner_state = _unless(
      spent,
      (self.updates, self.inner_state),
      (optax.tree.zeros_like(self.updates), self.entering),
    )
    return self._replace(updates=updates, inner_state=inner_state)


class _Call(NamedTuple):
  """One call of `update`: what goes in, and the parts that a step is made of.

  Attributes:
    method: the slots.
    inner: the inner transformation.
    layout: the sparse leaves; lists below are in its order.
    params: tree of what the user holds.
    grads: tree of dense gradients.
    latent: the latent tree of the state.
    old: list of the masks before.
    inner_state: the inner optimizer's state before.
    step: int32[], completed steps.
    key: typed key of the run, or None.
    extra_args: for the inner optimizer.
  """

  method: Method
  inner: optax.GradientTransformationExtraArgs
  layout: Layout
  params: PyTree
  grads: PyTree
  latent: PyTree
  old: list[Array]
  inner_state: optax.OptState
  step: Int[Array, ""]
  key: Key | None
  extra_args: dict[str, Any]

  def as_tree(self, masks: list[Array]) -> Masks:
    """Returns masks as a tree like the parameters."""
    return trees.masks_tree(self.params, self.layout, masks)

  def weights(self) -> PyTree:
    """Returns the tree that the inner optimizer steps."""
    old = self.as_tree(self.old)
    return self.method.storage.weights(self.params, self.latent, old)

  def seen(self, masks: list[Array], memory: Memories) -> list[Seen]:
    """Returns what slots look at in each sparse leaf."""
    found = context.seen_leaves(
      self.layout,
      self.layout.take(self.weights()),
      self.layout.take(self.grads),
      masks,
      self.method.memory,
      memory,
    )
    if not self.method.storage.draws:
      return found
    return context.keyed(
      self.layout, found, self.step, self.key, random_bits.STEP
    )

  def after_step(self, masks: list[Array], memory: Memories) -> Memories:
    """Returns the memories after a step with these masks."""
    moment = Moment(self.step, self.seen(masks, memory))
    return {
      name: slot.step(memory[name], moment) if slot.step else memory[name]
      for name, slot in self.method.memory.items()
    }

  def scored(self, memory: Memories) -> PyTree:
    """Returns the weights that a mask update looks at.

    They are made anew in its branch of the conditional, because whatever
    passes into that is written to memory at every step.
    """
    weights = self.weights()
    if self.method.order is not Order.STEP_FIRST:
      return weights
    updates, _ = self.inner.update(
      self._visible(self.old, memory),
      self.inner_state,
      weights,
      **self.extra_args,
    )
    return optax.apply_updates(weights, self._moves(updates, self.old, memory))

  def take_step(
    self, masks: list[Array], keep: list[Array], memory: Memories
  ) -> _Taken:
    """Steps the inner optimizer.

    Args:
      masks: those that the gradient is taken with.
      keep: weights that go on with their value and statistics. The others start
        at 0, before the step where the masks come first, and after it where
        the step does.
      memory: by name.
    """
    storage, inner, params = self.method.storage, self.inner, self.params
    masks_first = self.method.order is Order.MASKS_FIRST
    entering, weights = self.inner_state, self.weights()
    alone = storage.resets and inner_states.move_alone(inner, params)
    kept, stay = self.as_tree(keep), keep
    if masks_first:
      stay = masks
    elif alone:
      masks = keep  # What leaves is set anew, so its gradient is not needed.
    if storage.resets and (alone or masks_first):
      entering = inner_states.reset(inner, entering, kept, params)
      weights = trees.where(kept, weights)
    updates, inner_state = inner.update(
      self._visible(masks, memory), entering, weights, **self.extra_args
    )
    updates = self._moves(updates, masks, memory)
    if storage.resets and not alone:
      entering = inner_states.reset(inner, entering, kept, params)
      inner_state = inner_states.reset(
        inner, inner_state, self.as_tree(stay), params
      )
    if storage.resets and masks_first:
      updates = _from_zero(kept, updates, params)
    return _Taken(masks, stay, updates, inner_state, entering)

  def _visible(self, masks: list[Array], memory: Memories) -> PyTree:
    """Returns the gradient that the inner optimizer sees."""
    gradient = self.method.storage.gradient
    seen = self.seen(masks, memory)
    return self.layout.put(self.grads, [gradient(s) for s in seen])

  def _moves(
    self, updates: PyTree, masks: list[Array], memory: Memories
  ) -> PyTree:
    """Returns what of the inner updates moves the weights."""
    pairs = zip(
      self.seen(masks, memory), self.layout.take(updates), strict=True
    )
    move = self.method.storage.move
    return self.layout.put(updates, [move(s, u) for s, u in pairs])


def _typed(key: Key) -> Key:
  if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    return key
  return jax.random.wrap_key_data(key)


def _after(step: Int[Array, ""]) -> Int[Array, ""]:
  return jnp.asarray(optax.safe_increment(step))


def _heard(method: Method, metric: Any) -> Float[Array, ""] | None:
  if metric is not None:
    return jnp.asarray(metric, jnp.float32)
  if method.needs_metric:
    raise ValueError(
      "`metric` must be given to `update`, got None: this method follows"
      f" the {method.follows} of the last epoch. Call tx.update(grads,"
      " opt_state, params, metric=...) with one number; before the first"
      " epoch has ended any number does."
    )
  return None


def _from_zero(keep: Masks, updates: PyTree, params: PyTree) -> PyTree:
  """Lets weights that start again move from 0 and not from where they were."""
  return trees.map_masked(
    lambda k, u, p: jnp.where(k, u, u - p),
    keep,
    updates,
    params,
    dense=lambda u, p: u,
  )


def _unless(condition, new: PyTree, old: PyTree) -> PyTree:
  """Selects `old` where `condition` holds, a scalar bool."""
  return jax.tree.map(lambda n, o: jnp.where(condition, o, n), new, old)


def _first_layout(params, select, overrides, masks) -> Layout:
  trees.check_overrides(params, overrides)
  if masks is None:
    chosen = trees.select_leaves(params, select)
  else:
    chosen = trees.sparse_flags(params, masks)
  return trees.layout(params, chosen, overrides)


def _first_masks(method, layout, key, params, given):
  """Returns the masks of step 0, in layout order, and what was requested."""
  if not layout.leaves:
    return [], jnp.zeros(1, jnp.int32)
  table = mask_update.requested_table(
    method, layout
  )  # Checks every later budget too.
  if given is not None:
    nodes = jax.tree.structure(params).flatten_up_to(given)
    first = [jnp.array(nodes[leaf.index], bool) for leaf in layout.leaves]
    return first, mask_update.requested_as_found(layout, first)
  if key is None and method.draws:
    raise ValueError(
      "`key` must be given, got None: this method draws at random. Pass"
      " key=jax.random.key(0) to `sparsify`."
    )
  first = mask_update.first_masks(method, layout, key, layout.take(params))
  if method.initial_pattern is not None:
    return first, mask_update.requested_as_found(layout, first)
  if method.prunes:
    return first, jnp.array(table[0])
  return first, jnp.array(mask_update.first_requested(method, layout))


def _is_cut(array: Array) -> bool:
  """Whether devices hold parts of an array, as far as is known outside jit."""
  sharding = getattr(array, "sharding", None)
  if isinstance(array, core.Tracer) or sharding is None:
    return False
  return not sharding.is_fully_replicated


def _placed_like(params: PyTree, masks: Masks) -> Masks:
  """Puts each mask where its parameter is; jit leaves that to the compiler."""
  return trees.map_masked(
    lambda m, p: m | jnp.zeros_like(p, dtype=bool),
    masks,
    params,
    dense=lambda p: optax.MaskedNode(),
  )


def _without_aliases(state: SparseState, params: PyTree) -> SparseState:
  """Copies arrays that stand twice, so that state and params can be donated."""
  seen = {id(leaf) for leaf in jax.tree.leaves(params)}

  def own(leaf):
    if id(leaf) in seen:
      leaf = jnp.array(leaf)
    seen.add(id(leaf))
    return leaf

  return jax.tree.map(own, state)
