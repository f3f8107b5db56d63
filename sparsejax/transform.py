"""`sparsify`: the masks of a method around any optax transformation."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from sparsejax import draws, statistics, trees, update, view
from sparsejax.base import (
  Key,
  Masks,
  MaskUpdate,
  Moment,
  Order,
  Seen,
  Start,
  Stepped,
)
from sparsejax.state import SparseState
from sparsejax.trees import Layout, Overrides, Select
from sparsejax.update import Memories

_NO_PARAMS = (
  "`params` must be given to `update`, got None: the masked weights move to 0"
  " from where they are. Call tx.update(grads, opt_state, params)."
)


def sparsify(
  inner: Any,
  method: MaskUpdate,
  *,
  key: Key | None = None,
  select: Select = None,
  overrides: Overrides | None = None,
  masks: Masks | None = None,
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

  Returns:
    A transformation whose state is a `SparseState`. Its `update` needs
    `params`, returns updates for `optax.apply_updates`, changes masks at the
    due steps, and skips (until the next step) a mask update whose gradients, or
    whose `value=`, are not finite.

  Raises:
    ValueError: at once for `select` beside `masks`; in `init` for a missing
      key, a selector or override that matches nothing, and budgets that
      contradict each other.

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
    first, asked = _first_masks(method, layout, key, params, masks)
    first = _placed_like(params, trees.masks_tree(params, layout, first))
    start = Start(params, first, layout)
    memory = {name: slot.init(start) for name, slot in method.memory.items()}
    state = SparseState(
      step=jnp.zeros((), jnp.int32),
      last_update=jnp.full((), -1, jnp.int32),
      masks=first,
      asked=asked,
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
    performance = _heard(method, extra_args.pop("performance", None))
    grads = updates
    layout = trees.layout(
      params, trees.sparse_flags(params, state.masks), overrides
    )
    key = None
    if key_impl is not None:
      key = jax.random.wrap_key_data(state.key_data, impl=key_impl)
    storage, order = method.storage, method.order

    def weights() -> PyTree:
      return storage.weights(params, state.latent, state.masks)

    def seen(masks_: Masks, memory: Memories) -> list[Seen]:
      """What the step looks at in each sparse leaf."""
      found = view.seen_leaves(
        layout,
        layout.take(weights()),
        layout.take(grads),
        jax.tree.leaves(masks_),
        method.memory,
        memory,
      )
      if not storage.draws:
        return found
      return view.keyed(layout, found, state.step, key, draws.STEP)

    def visible(masks_: Masks, memory: Memories) -> PyTree:
      """The gradient that the inner optimizer sees."""
      return layout.put(
        grads, [storage.gradient(s) for s in seen(masks_, memory)]
      )

    def moves(updates: PyTree, masks_: Masks, memory: Memories) -> PyTree:
      """What of the inner updates moves the weights."""
      pairs = zip(seen(masks_, memory), layout.take(updates), strict=True)
      return layout.put(updates, [storage.move(s, u) for s, u in pairs])

    def after_step(masks_: Masks, memory: Memories) -> Memories:
      """The memories after a step with these masks."""
      moment = Moment(state.step, seen(masks_, memory))
      return {
        name: memory[name]
        if slot.step is None
        else slot.step(memory[name], moment)
        for name, slot in method.memory.items()
      }

    def scored() -> PyTree:
      """The weights that a mask update looks at.

      They are made anew in its branch of the conditional, because whatever
      passes into that is written to memory at every step.
      """
      if order is not Order.STEP_FIRST:
        return weights()
      updates, _ = inner.update(
        visible(state.masks, state.memory),
        state.inner_state,
        weights(),
        **extra_args,
      )
      updates = moves(updates, state.masks, state.memory)
      return optax.apply_updates(weights(), updates)

    memory = state.memory
    if order is Order.STEP_FIRST:
      memory = after_step(state.masks, memory)
    turn = update.maybe_update(
      method,
      layout,
      jax.tree.leaves(state.masks),
      state.last_update,
      state.asked,
      memory,
      step=_after(state.step) if order is Order.STEP_FIRST else state.step,
      key=key,
      scored=scored,
      grads=grads,
      performance=performance,
      watched=(grads, extra_args.get("value")),
    )
    new_masks = trees.masks_tree(params, layout, turn.masks)
    keep = trees.masks_tree(params, layout, turn.keep)

    with_masks, with_memory, on = state.masks, state.memory, keep
    if order is Order.MASKS_FIRST:
      with_masks, with_memory, on = new_masks, turn.memory, new_masks
    entering, stepping = state.inner_state, weights()
    gradient = visible(with_masks, with_memory)
    alone = storage.resets and statistics.move_alone(inner, params)
    if storage.resets and (alone or order is Order.MASKS_FIRST):
      entering = statistics.reset(inner, entering, keep, params)
      stepping = trees.where(keep, stepping)
    if alone:
      gradient = trees.where(on, gradient)
    updates, inner_state = inner.update(
      gradient, entering, stepping, **extra_args
    )
    updates = moves(updates, with_masks, with_memory)
    if storage.resets and not alone:
      entering = statistics.reset(inner, entering, keep, params)
      inner_state = statistics.reset(inner, inner_state, on, params)
    step = _after(state.step)
    memory = turn.memory
    if order is not Order.STEP_FIRST:
      memory = after_step(with_masks, memory)
    if order is Order.INSTEAD_OF_STEP:
      step = jnp.where(turn.done, state.step, step)
      updates, inner_state, memory = _unless(
        turn.done,
        (updates, inner_state, memory),
        (optax.tree.zeros_like(updates), entering, turn.memory),
      )
    elif order is Order.MASKS_FIRST and storage.resets:
      updates = _from_zero(keep, updates, params)
    updates, latent = storage.settle(
      Stepped(params, weights(), updates, state.masks, new_masks, on, memory)
    )
    return updates, SparseState(
      step=step,
      last_update=turn.last_update,
      masks=new_masks,
      asked=turn.asked,
      axes=state.axes,
      inner_state=inner_state,
      latent=latent,
      memory=dict(memory),
      key_data=state.key_data,
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _typed(key: Key) -> Key:
  if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    return key
  return jax.random.wrap_key_data(key)


def _after(step: Int[Array, ""]) -> Int[Array, ""]:
  return jnp.asarray(optax.safe_increment(step))


def _heard(method: MaskUpdate, performance: Any) -> Float[Array, ""] | None:
  if performance is not None:
    return jnp.asarray(performance, jnp.float32)
  if method.needs_performance:
    raise ValueError(
      "`performance` must be given to `update`, got None: this method follows"
      f" the {method.follows} of the last epoch. Call tx.update(grads,"
      " opt_state, params, performance=...) with one number; before the first"
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
  """Returns the masks of step 0, in layout order, and what was asked."""
  if not layout.leaves:
    return [], jnp.zeros(1, jnp.int32)
  table = update.asked_table(method, layout)  # Checks every later budget too.
  if given is not None:
    nodes = jax.tree.structure(params).flatten_up_to(given)
    first = [jnp.array(nodes[leaf.index], bool) for leaf in layout.leaves]
    return first, update.asked_as_found(layout, first)
  if key is None and method.draws:
    raise ValueError(
      "`key` must be given, got None: this method draws at random. Pass"
      " key=jax.random.key(0) to `sparsify`."
    )
  first = update.first_masks(method, layout, key, layout.take(params))
  if method.initial_pattern is not None:
    return first, update.asked_as_found(layout, first)
  if method.prunes:
    return first, jnp.array(table[0])
  return first, jnp.array(update.first_asked(method, layout))


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
