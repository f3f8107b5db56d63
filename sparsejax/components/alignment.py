"""Masks next to parameters that are not the tree that `init` got.

An NNX model or optimizer, a whole Equinox module, a `multi_transform` that
labels whole subtrees: the masks belong to some of the leaves, by their names.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from sparsejax.components.trees import is_mask, is_masked_node, named_leaves
from sparsejax.method import Masks


def plain(tree: PyTree) -> PyTree:
  """Returns a tree without the variables of NNX around its leaves.

  A variable is known by its methods, so that nothing here imports Flax.
  """
  return jax.tree.map(
    lambda x: x.get_value() if _is_variable(x) else x,
    tree,
    is_leaf=_is_variable,
  )


def masks_like(masks: Masks, params: PyTree) -> Masks:
  """Returns masks as a tree like `params`, with `MaskedNode` at dense leaves.

  Leaves are matched by position where the trees are alike, else by name, so
  that `params` may have leaves that `init` never saw.

  Raises:
    ValueError: if a mask belongs to no leaf, or to one of another shape.
  """
  treedef = jax.tree.structure(params)
  nodes = _by_position(masks, params) or _by_name(masks, params)
  for (name, leaf), mask in zip(named_leaves(params), nodes, strict=True):
    if not is_masked_node(mask) and tuple(mask.shape) != jnp.shape(leaf):
      raise ValueError(
        f"`masks` has shape {tuple(mask.shape)} at {name!r}, where the"
        f" parameter has {jnp.shape(leaf)}. Give one bool per weight."
      )
  return jax.tree.unflatten(treedef, nodes)


def params_like(params: PyTree, masks: Masks) -> PyTree:
  """Returns the parameters that `init` got: those that `masks` has nodes for.

  Args:
    params: a tree with at least these leaves.
    masks: the masks, `MaskedNode` at dense leaves or subtrees.

  Raises:
    ValueError: if a mask belongs to no leaf.
  """
  params = plain(params)
  if _by_position(masks, params) is not None:
    return params
  _by_name(masks, params)  # Raises for a mask without a leaf.
  found = dict(named_leaves(params))
  named, treedef = _nodes(masks)
  missing = [name for name, _ in named if name not in found]
  if missing:
    raise ValueError(
      f"`params` has no leaf {', '.join(missing)}. Give the tree that `init`"
      " got, or the model that it is part of."
    )
  return jax.tree.unflatten(treedef, [found[name] for name, _ in named])


def _by_position(masks: Masks, params: PyTree) -> list[Any] | None:
  """Returns a node for each leaf; None if the trees differ.

  A `MaskedNode` may stand for a whole subtree.
  """
  named, treedef = _nodes(masks)
  nodes: list[Any] = []
  try:
    subtrees = treedef.flatten_up_to(params)
  except ValueError:
    return None
  for (_, mask), subtree in zip(named, subtrees, strict=True):
    if is_masked_node(mask):
      nodes += [mask] * len(jax.tree.leaves(subtree))
    elif jax.tree_util.all_leaves([subtree]):
      nodes.append(mask)
    else:
      return None
  return nodes


def _by_name(masks: Masks, params: PyTree) -> list[Any]:
  """Returns a node for each leaf.

  Raises:
    ValueError: if a mask belongs to no leaf.
  """
  names = [name for name, _ in named_leaves(params)]
  given = {name: x for name, x in _nodes(masks)[0] if not is_masked_node(x)}
  lost = sorted(set(given) - set(names))
  if lost or len(set(names)) < len(names):
    raise ValueError(
      f"`masks` is not a tree like `params`: no leaf for {', '.join(lost)}."
      f" Leaves: {', '.join(names)}."
    )
  return [given.get(name, optax.MaskedNode()) for name in names]


def _nodes(masks: Masks) -> tuple[Sequence[tuple[str, Any]], Any]:
  """Returns (name, mask or `MaskedNode`) of all nodes, and the structure."""
  treedef = jax.tree.structure(masks, is_leaf=is_mask)
  return named_leaves(masks, is_leaf=is_mask), treedef


def _is_variable(node: Any) -> bool:
  return hasattr(node, "get_value") and hasattr(node, "get_metadata")
