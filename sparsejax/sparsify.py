"""`sparsify`: a sparse-training method around any optax transformation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from sparsejax.components import (
  arguments,
  counts,
  leaves,
  placement,
  trees,
  wide_counts,
)
from sparsejax.components.leaves import Overrides, Select
from sparsejax.method import Key, Layout, Masks, Method, described
from sparsejax.selection import bitmasks
from sparsejax.state import (
  SparseState,
  map_sparse_states,
  sparse_states,
  unit_masks,
)
from sparsejax.updates import (
  first_masks,
  followers,
  inner_state as inner_states,
  orders,
  requested,
)
from sparsejax.updates.optimizer_step import Call


def sparsify(
  inner: Any,
  method: Method,
  *,
  key: Key | None = None,
  select: Select = None,
  overrides: Overrides | None = None,
  masks: Masks | None = None,
  sharded: bool | None = None,
) -> "SparseTransformation":
  """Keeps the parameters sparse by a method, around any optimizer.

  The parameters that the user holds are the sparse network after every step:
  the emitted update is `-p` where a weight is inactive and the inner update
  where it is active. The gradients that go in are the plain dense ones. A
  transformation chained after this one may move inactive weights, so this one
  stands last.

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
    overrides: glob -> "dense", a sparsity in [0, 1), or an `Override`; the last
      match wins.
    masks: masks to start from instead of the method's first ones: a tree of
      bools like the parameters, None or `MaskedNode` at dense leaves.
    sharded: whether parameters are sharded over devices. Masks are the same;
      what differs is the compiled code, which gathers no sharded weights, or is
      that of one device. None looks at the parameters: where those do not tell,
      inside jit on several devices, they count as sharded, so that False
      compiles faster in data-parallel training. Where they name no devices, as
      in lowering from shapes without a sharding, they count as replicated:
      give True there.

  Returns:
    A transformation whose state is a `SparseState`. Its `update` needs
    `params`, returns updates for `optax.apply_updates`, changes masks at the
    due steps, and postpones a mask update whose gradients, or whose `value=`,
    are not finite. A method whose criterion needs a second derivative takes
    `hvp=`, a function from a tree like `params` to the product of the Hessian
    of the loss with it; it is called inside a conditional, where a mask update
    is due. Its `update_masks` changes masks between two steps.

  Raises:
    ValueError: at once for `select` together with `masks`, and for arguments of
      another kind; in `init` for leaves that are no arrays, a missing key, a
      selector or override that matches nothing, and budgets that contradict
      each other; for parameters that are seen to be sharded where `sharded` is
      False.

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
  arguments.check_sparsify(inner, method, key, overrides)
  if hasattr(inner, "gradient_transformation"):  # optax.MultiSteps
    inner = inner.gradient_transformation()
  if key is not None and not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  bound = _Bound(
    optax.with_extra_args_support(inner),
    method,
    overrides,
    sharded,
    key_data=() if key is None else jax.random.key_data(key),
    key_impl=None if key is None else jax.random.key_impl(key),
  )

  def init_fn(params: PyTree) -> SparseState:
    return _init(bound, params, select, masks)

  def update_fn(
    updates: PyTree,
    state: Any,
    params: PyTree | None = None,
    **extra_args: Any,
  ) -> tuple[PyTree, SparseState]:
    if params is None:
      raise ValueError(
        "`params` must be given to `update`, got None: a pruned weight moves to"
        " 0 from its present value. Call tx.update(grads, opt_state, params)."
      )
    if updates is None or not isinstance(state, SparseState):
      raise ValueError(
        "`update` takes gradients and the state of this transformation, got"
        f" {described(updates)} and {described(state)}. Call"
        " tx.update(grads, opt_state, params)."
      )
    call = _call(bound, updates, state, params, extra_args)
    order = method.order or orders.step_then_update
    updates, state = _emitted(call, order(call))
    if masks is None:
      found = requested.of_method(method, call.layout, state.requested)
      state = state._replace(requested=found)
    return updates, state

  tx = SparseTransformation(init_fn, update_fn)
  tx._bound = bound
  return tx


class SparseTransformation(optax.GradientTransformationExtraArgs):
  """What `sparsify` returns: an optax transformation with `update_masks`."""

  _bound: "_Bound"

  def update_masks(
    self,
    params: PyTree,
    opt_state: optax.OptState,
    *,
    metric: Any = None,
  ) -> tuple[PyTree, optax.OptState]:
    """Updates the masks between two steps, if an update is due.

    `update` does so itself, but for methods that update masks before a step
    (OptG, AccSET, LSET, DynSET, SET with `masks_first`) the gradient that it
    gets is that of the old masks. The papers take it at the new ones: call this
    before the first gradient of an epoch. Other methods have nothing due then.

    Args:
      params: the sparse network.
      opt_state: holds one `SparseState`, that of this transformation.
      metric: as in `update`, for methods that follow one.

    Returns:
      The network at the new masks, and the state; both as they were if no mask
      update is due.

    Raises:
      ValueError: if mask updates of the method read the gradient, `metric` is
        missing, or `opt_state` does not hold one `SparseState`.
    """
    if not self._bound.method.updates_without_gradient:
      raise ValueError(
        "`update_masks` needs a method whose mask updates read no gradient."
        " Call `update`: it updates the masks of this method at the due steps."
      )
    state, *others = sparse_states(opt_state)
    if others:
      raise ValueError(
        f"`opt_state` must hold one `SparseState`, got {1 + len(others)}. Call"
        " the `update_masks` of each transformation with its own state."
      )
    call = _call(self._bound, None, state, params, {"metric": metric})
    updates, state = _emitted(call, orders.update_only(call))
    return optax.apply_updates(params, updates), map_sparse_states(
      lambda _: state, opt_state
    )


class _Bound(NamedTuple):
  """The arguments of `sparsify` that `init` and `update` share."""

  inner: optax.GradientTransformationExtraArgs
  method: Method
  overrides: Overrides | None
  sharded: bool | None
  key_data: Any
  key_impl: Any

  def layout(
    self, params: PyTree, select: Select, masks: Masks | None
  ) -> Layout:
    """Returns the layout of parameters."""
    return leaves.find_layout(
      params, select, self.overrides, masks, self.sharded
    )

  def key(self, key_data: Any) -> Key | None:
    """Returns the typed key of some key data; None without a key."""
    if self.key_impl is None:
      return None
    return jax.random.wrap_key_data(key_data, impl=self.key_impl)


def _init(
  bound: _Bound, params: PyTree, select: Select, masks: Masks | None
) -> SparseState:
  """Returns the state at step 0."""
  method, storage = bound.method, bound.method.storage
  arguments.check_params(params)
  layout = bound.layout(params, select, masks)
  layout = method.granularity.leaves(layout)
  key = bound.key(bound.key_data)
  first = first_masks.begin(method, layout, key, params, masks)
  pairs = zip(first.masks, layout.take(params), strict=True)
  first = first._replace(
    masks=[placement.alike(m, param) for m, param in pairs]
  )
  accumulators = first_masks.start_accumulators(method, layout, params, first)
  masks = layout.masked_tree(first.masks)
  inner_state = bound.inner.init(trees.where(masks, params))
  inner_states.check(
    bound.inner, inner_state, masks, resets=not storage.keeps_state
  )
  if method.reads_momentum:
    inner_states.momentum(inner_state, layout)  # Raises where there is none.
  state = SparseState(
    step=jnp.zeros((), jnp.int32),
    last_update=jnp.full((), -1, jnp.int32),
    masks=masks,
    units=first.units,
    requested=first.requested,
    changes=wide_counts.zeros(
      (2, len(layout.sizes)), counts.limbs_of_layers(layout)
    ),
    axes=jnp.array([-1 if a is None else a for a in layout.axes], jnp.int32),
    inner_state=inner_state,
    latent=storage.init(params, masks, accumulators),
    followers=(),
    accumulators=accumulators,
    key_data=jax.tree.map(jnp.array, bound.key_data),
  )
  if layout.leaves:
    found = followers.begin(method, layout, params, unit_masks(state))
    state = state._replace(followers=found)
  return _without_aliases(_placed(bound, layout, params, state), params)


def _placed(
  bound: _Bound, layout: Layout, params: PyTree, state: SparseState
) -> SparseState:
  """Puts all that belongs to a weight where that weight is.

  Inside jit the compiler would put zeros on every device.
  """
  if not layout.sharded:
    return state
  sparse = layout.masked_tree(layout.take(params))

  def place(value: Any, param: Array) -> Any:
    if trees.is_masked_node(value) or value.shape != param.shape:
      return value
    return placement.alike(value, param)

  return state._replace(
    inner_state=optax.tree.map_params(
      bound.inner,
      place,
      state.inner_state,
      params,
      is_leaf=trees.is_masked_node,
    ),
    latent=placement.trees_alike(state.latent, sparse),
    accumulators=placement.trees_alike(state.accumulators, sparse),
  )


def _call(
  bound: _Bound,
  grads: PyTree | None,
  state: SparseState,
  params: PyTree,
  extra_args: dict[str, Any],
) -> Call:
  layout = bound.layout(params, None, state.masks)
  carrier = bitmasks.carrier(layout.take(params), sharded=layout.sharded)
  bits = carrier.pack(jax.tree.leaves(state.masks))
  return Call(
    method=bound.method,
    inner=bound.inner,
    layout=layout,
    params=params,
    grads=grads,
    state=state,
    carrier=carrier,
    bits=bits,
    masks=carrier.unpack(bits, layout.leaves),
    key=bound.key(state.key_data),
    metric=_metric(bound.method, extra_args.pop("metric", None)),
    hvp=_hvp(bound.method, extra_args.pop("hvp", None)),
    extra_args=extra_args,
  )


def _emitted(call: Call, outcome: orders.Outcome) -> tuple[PyTree, SparseState]:
  """Returns the updates of the sparse network, and the state after a call."""
  change, step, state = outcome
  updates, latent = call.method.storage.emit(
    call.params, step, change, state.accumulators
  )
  before = call.state.followers
  masks = followers.masks_of(call.method, call.layout, unit_masks(state))
  updates, after = followers.emit(before, masks, call.params, updates)
  inner_state = followers.reset(
    call.inner, step.inner_state, before, after, call.params
  )
  return updates, state._replace(
    inner_state=inner_state, latent=latent, followers=after
  )


def _metric(method: Method, metric: Any) -> Float[Array, ""] | None:
  if metric is not None:
    return jnp.asarray(metric, jnp.float32)
  if method.metric is not None:
    raise ValueError(
      "`metric` must be given to `update`, got None: this method follows the"
      f" {method.metric} of the last epoch. Call tx.update(grads, opt_state,"
      " params, metric=...) with one number; before the first epoch has ended"
      " any number will do."
    )
  return None


def _hvp(method: Method, hvp: Any) -> Any:
  if hvp is None and method.reads_hessian_gradient:
    raise ValueError(
      "`hvp` must be given to `update`, got None: this method scores weights by"
      " a second derivative of the loss, which the gradient does not contain."
      " Call tx.update(grads, opt_state, params, hvp=lambda v:"
      " jax.jvp(jax.grad(loss), (params,), (v,))[1])."
    )
  return hvp


def _without_aliases(state: SparseState, params: PyTree) -> SparseState:
  """Copies arrays that occur twice, so that state and params can be donated."""
  seen = {id(leaf) for leaf in jax.tree.leaves(params)}

  def copied_once(leaf):
    if id(leaf) in seen:
      leaf = jnp.array(leaf)
    seen.add(id(leaf))
    return leaf

  return jax.tree.map(copied_once, state)
