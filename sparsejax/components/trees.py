"""Parameter trees: names of leaves, and maps over trees of masks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from sparsejax.components.fan_in import FanIn
from sparsejax.method import Masks


def is_masked_node(x: Any) -> bool:
  """Whether `x` takes the place of a mask at a dense leaf."""
  return isinstance(x, optax.MaskedNode)


def is_mask(x: Any) -> bool:
  """Whether `x` is a leaf of a tree of masks that is no array."""
  return isinstance(x, FanIn) or is_masked_node(x)


def named_leaves(
  tree: PyTree, is_leaf: Callable[[Any], bool] | None = None
) -> list[tuple[str, Any]]:
  """Returns (name, leaf) of every leaf, in tree order.

  A name is like `a/b/kernel`, without the `.value` of NNX.
  """
  pairs = jax.tree_util.tree_flatten_with_path(tree, is_leaf)[0]
  return [(_leaf_name(path), leaf) for path, leaf in pairs]


def map_masked(
  f: Callable[..., Any],
  masks: Masks,
  *trees: PyTree,
  dense: Callable[..., Any] = lambda *leaves: leaves[0],
) -> PyTree:
  """Maps `f(mask, *leaves)` over sparse leaves, `dense(*leaves)` elsewhere."""
  return jax.tree.map(
    lambda m, *x: dense(*x) if is_masked_node(m) else f(m, *x),
    masks,
    *trees,
    is_leaf=is_mask,
  )


def sparse_only(masks: Masks, tree: PyTree) -> PyTree:
  """Returns `tree` with `MaskedNode` at dense leaves."""
  return map_masked(
    lambda _, x: x, masks, tree, dense=lambda _: optax.MaskedNode()
  )


def merged(a: Masks, b: Masks) -> Masks:
  """Returns the masks of two trees that have none for the same leaf.

  A `MaskedNode` may stand for a whole subtree. Raises ValueError if both have a
  mask for one leaf.
  """
  if is_masked_node(a) or is_masked_node(b):
    return b if is_masked_node(a) else a
  if jax.tree_util.all_leaves([a]) or jax.tree_util.all_leaves([b]):
    raise ValueError(
      "`opt_state` holds two masks for one leaf; `sparsify` was applied to it"
      " twice. Wrap each leaf once."
    )
  return jax.tree.map(
    merged, a, b, is_leaf=lambda node: node is not a and node is not b
  )


def where(masks: Masks, params: PyTree) -> PyTree:
  """Returns the parameters with exact zeros at inactive weights.

  A select, not a product: a NaN times 0 is NaN.
  """
  return map_masked(
    lambda m, p: jnp.where(m, p, jnp.zeros_like(p)), masks, params
  )


def _leaf_name(path: tuple[Any, ...]) -> str:
  if len(path) > 1 and getattr(path[-1], "name", None) == "value":
    path = path[:-1]
  return jax.tree_util.keystr(path, simple=True, separator="/")
