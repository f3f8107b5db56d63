"""The state of `sparsify`, and access to its masks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, PyTree, UInt32

from sparsejax.components import alignment, fan_in, leaves, trees
from sparsejax.components.fan_in import FanIn
from sparsejax.components.wide_counts import INT32_MAX
from sparsejax.method import Masks

_FROZEN = np.int32(INT32_MAX)


class Followers(NamedTuple):
  """Leaves that are masked with units, but neither scored nor counted.

  Attributes:
    masks: tree of bool like the parameters; `MaskedNode` at other leaves.
    values: tree of their parameters, where inactive those that they had.
  """

  masks: Masks
  values: PyTree


class SparseState(NamedTuple):
  """The state of `sparsify`.

  Attributes:
    step: int32[]; completed optimizer steps.
    last_update: int32[]; step of the last mask update, -1 before the first one.
      The largest int32 freezes the masks.
    masks: tree of bool like the parameters, `True` = active; `MaskedNode` at
      dense leaves. A kernel that is trained in lanes has a `FanIn` instead.
    units: the masks of what is pruned as one, such as filters, each in a dict
      with its name; empty where each weight is a unit.
    requested: counts [1 + layers], requested of units; int32, or a `WideCount`
      where an int32 cannot hold the number of all sparse weights. First that of
      all layers which share a budget, then one per layer, -1 where it shares
      one.
    changes: counts [2, layers], int32 or a `WideCount` where an int32 cannot
      hold the weights of a layer; how many weights the last mask update pruned
      in each layer, and how many it regrew. A weight that it pruned and regrew
      at once counts as neither.
    axes: int32[leaves]; for each sparse leaf the axis along which every slice
      is its own layer, -1 for a leaf that is one layer.
    inner_state: the state of the inner transformation.
    latent: tree of the latent weights, `()` where the storage keeps none.
    followers: the leaves that are masked with units, `()` without.
    accumulators: what the method's accumulators hold, by name.
    key_data: uint32 data of the random key, `()` without one.
  """

  step: Int[Array, ""]
  last_update: Int[Array, ""]
  masks: PyTree
  units: tuple[dict[str, Bool[Array, "..."]], ...]
  requested: PyTree
  changes: PyTree
  axes: Int[Array, " leaves"]
  inner_state: optax.OptState
  latent: PyTree
  followers: Followers | tuple[()]
  accumulators: dict[str, PyTree]
  key_data: UInt32[Array, "..."] | tuple[()]


def unit_masks(state: SparseState) -> list[Bool[Array, "..."]]:
  """Returns the masks of units, in the order of their layers."""
  return [mask for each in state.units for mask in each.values()]


def sparse_states(opt_state: optax.OptState) -> list[SparseState]:
  """Returns every `SparseState` in an optimizer state, however nested.

  Arrays are plain, also where `nnx.Optimizer` has put them into variables.

  Raises:
    ValueError: if there is none.
  """
  nodes = jax.tree.leaves(opt_state, is_leaf=_is_sparse_state)
  states = [alignment.plain(node) for node in nodes if _is_sparse_state(node)]
  if not states:
    raise ValueError(
      "`opt_state` holds no `SparseState`, got a"
      f" {type(opt_state).__name__}. Wrap the optimizer:"
      " tx = sparsejax.sparsify(tx, method)."
    )
  return states


def map_sparse_states(
  f: Callable[[SparseState], SparseState], opt_state: optax.OptState
) -> optax.OptState:
  """Maps a function over every `SparseState` in an optimizer state.

  Raises ValueError if there is none.
  """
  sparse_states(opt_state)
  return jax.tree.map(
    lambda node: f(node) if _is_sparse_state(node) else node,
    opt_state,
    is_leaf=_is_sparse_state,
  )


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
  return jax.tree.map(
    lambda mask: fan_in.mask_of(mask) if isinstance(mask, FanIn) else mask,
    stored_masks(opt_state),
    is_leaf=trees.is_mask,
  )


def stored_masks(opt_state: optax.OptState) -> Masks:
  """Returns the masks as the state holds them: bools, or a `FanIn`.

  As `get_masks`, but nothing is computed.
  """
  first, *others = [state.masks for state in sparse_states(opt_state)]
  for other in others:
    first = trees.merged(first, other)
  return first


def mask_nodes(masks: Masks) -> list[Any]:
  """Returns the stored masks of the sparse leaves: bools, or a `FanIn`."""
  nodes = jax.tree.leaves(masks, is_leaf=trees.is_mask)
  return [node for node in nodes if not trees.is_masked_node(node)]


def active_flags(masks: Masks) -> list[Any]:
  """Returns for each sparse leaf bools of which as many hold as are active.

  They are the mask, or which slots of a `FanIn` are filled.
  """
  return [
    node.lanes.filled if isinstance(node, FanIn) else node
    for node in mask_nodes(masks)
  ]


def apply_masks(params: PyTree, opt_state: optax.OptState) -> PyTree:
  """Returns the sparse network: exact zeros at inactive weights.

  Call it once, after `init`; from then on `update` keeps the zeros.

  Args:
    params: the tree that `init` got, or a model that it is part of: an NNX or
      Equinox module.
    opt_state: the state that `init` returned, or any state around it, such as
      an `nnx.Optimizer`.

  Returns:
    A tree like `params`. A module of NNX is a copy; to change one in place:
    `nnx.update(model, apply_masks(nnx.state(model, nnx.Param), optimizer))`.
  """
  masks = alignment.masks_like(held_masks(opt_state), params)
  return trees.where(masks, params)


def held_masks(opt_state: optax.OptState) -> Masks:
  """Returns the masks of all leaves that have one, also of those that follow.

  `get_masks` returns those of the sparse leaves alone.
  """
  masks = get_masks(opt_state)
  for state in sparse_states(opt_state):
    if state.followers:
      masks = trees.merged(masks, state.followers.masks)
  return masks


def freeze(opt_state: optax.OptState) -> optax.OptState:
  """Returns the state with masks that never change again, for fine-tuning.

  Raises ValueError if it holds no `SparseState`.
  """

  def frozen(last_update: PyTree) -> PyTree:  # An array, in NNX a variable.
    return jax.tree.map(lambda x: x * 0 + _FROZEN, last_update)

  return map_sparse_states(
    lambda state: state._replace(last_update=frozen(state.last_update)),
    opt_state,
  )


def masks_from_params(params: PyTree, select: leaves.Select = None) -> Masks:
  """Returns the masks of a network that is sparse already: its nonzero weights.

  An active weight that is exactly 0 counts as inactive. If you have the
  optimizer state, use `get_masks`.

  Args:
    params: a sparse network, as from a checkpoint.
    select: which leaves are sparse, as in `sparsify`.

  Returns:
    A tree of bool for `sparsify(..., masks=)`.
  """
  layout = leaves.find_layout(params, select, None)
  return layout.masked_tree([leaf != 0 for leaf in layout.take(params)])


def _is_sparse_state(node: object) -> bool:
  return isinstance(node, SparseState)
