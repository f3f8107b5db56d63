"""The state of `sparsify`, and what can be requested of it."""

from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree, UInt32

from sparsejax.components import trees
from sparsejax.method import Masks
from sparsejax.selection import bitmasks

_FROZEN = np.int32(2**31 - 1)


class SparseState(NamedTuple):
  """The state of `sparsify`.

  Attributes:
    step: int32[]; completed optimizer steps.
    last_update: int32[]; step of the last mask update, -1 before the first one.
      The largest int32 freezes the masks.
    masks: tree of bool like the parameters, `True` = the weight is on;
      `MaskedNode` at dense leaves. `PackedMask` in place of bools where
      `sparsify` was called with `pack_masks=True`; `get_masks` unpacks them.
    requested: int32[1 + layers]; the counts requested. First that of all layers
      which compete together, then one per layer, -1 where it competes with
      others.
    axes: int32[leaves]; for each sparse leaf the axis along which every slice
      is a layer of its own, -1 for a leaf that is one layer.
    inner_state: the state of the inner transformation.
    latent: tree of the values of weights that are off, `()` if none are kept.
    memory: dict of trees that the method accumulates, by name.
    key_data: uint32 data of the random key, `()` without one.
  """

  step: Int[Array, ""]
  last_update: Int[Array, ""]
  masks: PyTree
  requested: Int[Array, " counts"]
  axes: Int[Array, " leaves"]
  inner_state: optax.OptState
  latent: PyTree
  memory: dict[str, PyTree]
  key_data: UInt32[Array, "..."] | tuple[()]


def sparse_states(opt_state: optax.OptState) -> list[SparseState]:
  """Returns every `SparseState` in an optimizer state, however nested.

  Raises:
    ValueError: if there is none.
  """
  nodes = jax.tree.leaves(opt_state, is_leaf=_is_sparse_state)
  states = [node for node in nodes if _is_sparse_state(node)]
  if not states:
    raise ValueError(
      "`opt_state` holds no `SparseState`, got a"
      f" {type(opt_state).__name__}. Wrap the optimizer:"
      " tx = sparsejax.sparsify(tx, method)."
    )
  return states


def get_masks(opt_state: optax.OptState) -> Masks:
  """Returns the masks in an optimizer state, however nested.

  Args:
    opt_state: holds one `SparseState`, or several for separate leaves, as under
      `optax.multi_transform`; those are merged by position.

  Returns:
    A tree of bool like the parameters, `MaskedNode` at dense leaves.

  Raises:
    ValueError: if there is none, or two have a mask for the same leaf.
  """
  first, *others = [
    bitmasks.unpack_tree(state.masks) for state in sparse_states(opt_state)
  ]
  for other in others:
    first = jax.tree.map(_merge, first, other, is_leaf=trees.is_masked_node)
  return first


def apply_masks(params: PyTree, opt_state: optax.OptState) -> PyTree:
  """Returns the sparse network: exact zeros where a mask is off.

  Call it once, after `init`; from then on `update` keeps the zeros.

  Args:
    params: the tree that `init` got.
    opt_state: the state that it returned, or any state around it.
  """
  return trees.where(get_masks(opt_state), params)


def freeze(opt_state: optax.OptState) -> optax.OptState:
  """Returns the state with masks that never change again, for fine-tuning.

  Args:
    opt_state: holds at least one `SparseState`.
  """
  sparse_states(opt_state)  # Raises where there is none.

  def stop(node):
    if not _is_sparse_state(node):
      return node
    return node._replace(last_update=node.last_update * 0 + _FROZEN)

  return jax.tree.map(stop, opt_state, is_leaf=_is_sparse_state)


def masks_from_params(params: PyTree, select: trees.Select = None) -> Masks:
  """Returns the masks of a network that is sparse already: its nonzero weights.

  A weight that is on and exactly 0 counts as off. Where the optimizer state is
  at hand, take `get_masks`.

  Args:
    params: a sparse network, as from a checkpoint.
    select: which leaves are sparse, as in `sparsify`.

  Returns:
    A tree of bool for `sparsify(..., masks=)`.
  """
  layout = trees.layout(params, trees.select_leaves(params, select))
  masks = [leaf != 0 for leaf in layout.take(params)]
  return trees.masks_tree(params, layout, masks)


def _is_sparse_state(node: object) -> bool:
  return isinstance(node, SparseState)


def _merge(a: object, b: object) -> object:
  if trees.is_masked_node(a):
    return b
  if trees.is_masked_node(b):
    return a
  raise ValueError(
    "`opt_state` holds two masks for one leaf; `sparsify` was applied to it"
    " twice. Wrap each leaf once."
  )
