"""Training on the values of active weights alone, in lanes.

The parameters of a sparse kernel are its values, float[S, M], and the masks in
the optimizer state are `FanIn`s. A step knows no other weights: its gradient is
that of the values, and the optimizer steps those. Memory between mask updates
is proportional to the number of active weights.

A mask update is that of `sparsify`, with the same random bits and the same
search, so the masks are the same. It makes a dense kernel and its dense mask
for it, of one layer at a time, and so does the first choice of masks, of all
layers. The new masks fit into the same arrays (`components.fan_in` says why),
so nothing is compiled again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

import sparsejax
from sparsejax.components import fan_in, leaves, storage, trees
from sparsejax.components.fan_in import FanIn
from sparsejax.components.leaves import Overrides, Select
from sparsejax.method import (
  Context,
  Key,
  Layout,
  Leaf,
  Masks,
  Method,
  SparseLeaf,
  as_pruned,
)
from sparsejax.state import SparseState, map_sparse_states, sparse_states
from sparsejax.updates import (
  conditional,
  inner_state as inner_states,
  mask_update,
  orders,
  requested,
)


def check(method: Method) -> None:
  """Raises ValueError if a method cannot train values alone."""
  prune, regrow, initial = method.prune, method.regrow, method.initial
  if method.dense_gradient != "never":
    raise ValueError(
      "it reads the gradient of inactive weights, which is not computed. Use"
      " 'set' or 'static', or the layout 'masked'."
    )
  if prune is not None or initial.pattern is not None:
    raise ValueError(
      "its counts of active weights change, or a pattern sets them, and the"
      " arrays have a fixed size. Use 'set' or 'static', or the layout"
      " 'masked'."
    )
  if method.storage is not storage.zeroed or method.all_accumulators:
    raise ValueError(
      "it keeps numbers for inactive weights, or follows a metric. Use 'set' or"
      " 'static', or the layout 'masked'."
    )
  if regrow is None:
    return
  if regrow.regrow_count is not as_pruned or method.gate is not None:
    raise ValueError(
      "it regrows another number of weights than it prunes, and the arrays have"
      " a fixed size. Leave `config.method.connectivity` out, or use the layout"
      " 'masked'."
    )
  if not orders.between_steps(method):
    raise ValueError(
      "its mask updates take place inside a step, which would need dense"
      " arrays. Set `config.method.masks_first` to True, or use the layout"
      " 'masked'."
    )


def sparsify(
  inner: Any,
  method: Method,
  *,
  key: Key | None = None,
  select: Select = None,
  overrides: Overrides | None = None,
  masks: Masks | None = None,
  sharded: bool | None = None,
) -> sparsejax.SparseTransformation:
  """As `sparsejax.sparsify`, for parameters that are values in lanes.

  `init` gets the dense weights, and `update` and `update_masks` the values.
  Masks change in `update_masks` alone.

  Args:
    inner: the optimizer; it steps the values.
    method: one that passes `check`.
    key: as there.
    select: as there; each chosen leaf is a matrix.
    overrides: as there, but for a layer axis.
    masks: must be None.
    sharded: as there.

  Raises:
    ValueError: if the method cannot be trained in lanes, or `masks` is given;
      in `init` for a sparse leaf that is no matrix.
  """
  check(method)
  if masks is not None:
    raise ValueError("`masks` must be None: lanes hold the method's own masks.")
  inner = optax.with_extra_args_support(inner)
  if key is not None and not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  first = sparsejax.sparsify(
    optax.identity(),
    method,
    key=key,
    select=select,
    overrides=overrides,
    sharded=sharded,
  )

  def init_fn(params: PyTree) -> SparseState:
    state: Any = first.init(params)
    layout = leaves.find_layout(params, select, overrides, None, sharded)
    found = _encode(method, layout, jax.tree.leaves(state.masks))
    pairs = zip(layout.take(params), found, strict=True)
    values = layout.put(params, [fan_in.values_of(*pair) for pair in pairs])
    return state._replace(
      masks=layout.masked_tree(found), inner_state=inner.init(values)
    )

  def update_fn(
    updates: PyTree,
    state: Any,
    params: PyTree | None = None,
    **extra_args: Any,
  ) -> tuple[PyTree, SparseState]:
    extra_args.pop("metric", None)  # The methods follow none.
    updates, inner_state = inner.update(
      updates, state.inner_state, params, **extra_args
    )
    emitted = trees.map_masked(
      lambda mask, update, value: jnp.where(mask.lanes.filled, update, -value),
      state.masks,
      updates,
      params,
      dense=lambda update, value: update,
    )
    step = jnp.asarray(optax.safe_increment(state.step))
    return emitted, state._replace(step=step, inner_state=inner_state)

  tx = LaneTransformation(init_fn, update_fn)
  tx._parts = _Parts(inner, method, key)
  return tx


class LaneTransformation(sparsejax.SparseTransformation):
  """What `sparsify` returns; it updates masks between two steps alone."""

  _parts: "_Parts"

  def update_masks(
    self, params: PyTree, opt_state: optax.OptState, *, metric: Any = None
  ) -> tuple[PyTree, optax.OptState]:
    """As `SparseTransformation.update_masks`, for values in lanes."""
    del metric  # The methods follow none.
    (state,) = sparse_states(opt_state)
    method = self._parts.method
    if method.regrow is None:
      return params, opt_state
    due = method.regrow.when(state.step) > state.last_update
    params, state = conditional.cond(
      due,
      lambda: _updated(self._parts, params, state),
      lambda: (params, state),
    )
    return params, map_sparse_states(lambda _: state, opt_state)


class _Parts(NamedTuple):
  """What a mask update needs besides the state."""

  inner: optax.GradientTransformationExtraArgs
  method: Method
  key: Key | None


class _Layer(NamedTuple):
  """A kernel in lanes, and the optimizer's arrays that belong to it.

  `changes` is int32[2, 1], as in `SparseState`.
  """

  masks: FanIn
  values: Array
  inner: list[Array]
  changes: Array


def _encode(
  method: Method, layout: Layout, masks: Sequence[Bool[Array, "..."]]
) -> list[FanIn]:
  for leaf in layout.leaves:
    if len(leaf.shape) != 2 or leaf.axis is not None:
      raise ValueError(
        f"The layout 'sparse' needs matrices, but {leaf.name!r} has the shape"
        f" {leaf.shape}. Make it dense: `config.dense`."
      )
  _, *counts = requested.first_requested(method, layout).tolist()
  pairs = zip(masks, counts, strict=True)
  return [fan_in.encode(mask, count) for mask, count in pairs]


def _updated(
  parts: _Parts, params: PyTree, state: SparseState
) -> tuple[PyTree, SparseState]:
  """Returns values and state after a mask update that is due."""
  inner, method, _ = parts
  stored = jax.tree.leaves(state.masks, is_leaf=trees.is_mask)
  indices = [i for i, node in enumerate(stored) if isinstance(node, FanIn)]
  names = [name for name, _ in trees.named_leaves(params)]
  fresh = inner.init(optax.tree.zeros_like(params))
  inner_state = state.inner_state
  if method.reset_optimizer:
    inner_state = inner_states.reset_all(
      inner, inner_state, jnp.asarray(True), params
    )
  arrays, treedef = jax.tree.flatten(inner_state)
  starts, owners = jax.tree.leaves(fresh), _owners(inner, inner_state, params)
  values, masks = jax.tree.leaves(params), list(stored)
  changes: list[Array] = []
  for i in indices:
    own = [
      n
      for n, owner in enumerate(owners)
      if owner == i and arrays[n].shape == values[i].shape
    ]
    before = state.changes[:, len(changes), None]
    layer = _Layer(masks[i], values[i], [arrays[n] for n in own], before)
    leaf = SparseLeaf(i, names[i], masks[i].shape)
    layer = _updated_layer(parts, state, leaf, layer, [starts[n] for n in own])
    # The barrier makes the next layer wait, so that one is dense at a time.
    layer, values, arrays = jax.lax.optimization_barrier(
      (layer, values, arrays)
    )
    masks[i], values[i] = layer.masks, layer.values
    changes.append(layer.changes)
    for n, array in zip(own, layer.inner, strict=True):
      arrays[n] = array
  return jax.tree.unflatten(jax.tree.structure(params), values), state._replace(
    last_update=state.step,
    changes=jnp.concatenate(changes, axis=1),
    masks=jax.tree.unflatten(jax.tree.structure(params), masks),
    inner_state=jax.tree.unflatten(treedef, arrays),
  )


def _owners(
  inner: optax.GradientTransformation, inner_state: Any, params: PyTree
) -> list[int]:
  """Returns for each array of the inner state the leaf that it belongs to.

  -1 for those that belong to none.
  """
  numbers = jax.tree.unflatten(
    jax.tree.structure(params), range(len(jax.tree.leaves(params)))
  )
  owned = optax.tree.map_params(
    inner,
    lambda value, number: number,
    inner_state,
    numbers,
    transform_non_params=lambda _: -1,
    is_leaf=trees.is_masked_node,
  )
  return [int(number) for number in jax.tree.leaves(owned)]


def _updated_layer(
  parts: _Parts,
  state: SparseState,
  leaf: SparseLeaf,
  layer: _Layer,
  starts: Sequence[Array],
) -> _Layer:
  """Returns a layer after a mask update.

  `starts` are the optimizer's arrays of zero weights: those of a weight that
  does not keep its value restart with them.
  """
  lanes = layer.masks
  kernel = fan_in.kernel_of(layer.values, lanes)
  dense = Leaf(kernel, None, fan_in.mask_of(lanes), {}, sparse=leaf)
  key = None
  if parts.key is not None:
    impl = jax.random.key_impl(parts.key)
    key = jax.random.wrap_key_data(jnp.asarray(state.key_data), impl=impl)
  context = Context(Layout((leaf,)), [dense], state.step, key, None, {})
  found = mask_update.next_masks(
    parts.method, context, None, jnp.asarray(True), None
  )
  assert found.keep is not None  # The method regrows.
  (new,), (keep,) = found.new, found.keep
  after = fan_in.encode(new, lanes.most)

  def moved(array: Array, start: Array) -> Array:
    restart = start.reshape(-1)[0] if start.size else 0
    whole = jnp.where(keep, fan_in.kernel_of(array, lanes), restart)
    return jnp.where(
      after.lanes.filled, fan_in.values_of(whole, after), restart
    )

  return _Layer(
    after,
    moved(layer.values, jnp.zeros_like(layer.values)),
    [moved(x, y) for x, y in zip(layer.inner, starts, strict=True)],
    found.changes,
  )
