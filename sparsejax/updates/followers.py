"""Leaves that follow units: the bias and the normalization of a filter.

They are masked with their units, so that an inactive filter is exactly 0, but
are neither scored nor counted. While a unit is inactive the state holds the
values that its followers had: a regrown filter starts at 0 and could not learn
behind a scale of 0.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from sparsejax.components import trees
from sparsejax.method import Layout, Masks, Method
from sparsejax.state import Followers
from sparsejax.updates import inner_state as inner_states


def begin(
  method: Method, layout: Layout, params: PyTree, units: Sequence[Array]
) -> Followers | tuple[()]:
  """Returns the followers at step 0, `()` where there are none."""
  masks = masks_of(method, layout, units)
  if masks is None:
    return ()
  return Followers(masks, trees.sparse_only(masks, params))


def masks_of(
  method: Method, layout: Layout, units: Sequence[Array]
) -> Masks | None:
  """Returns the masks of followers as a tree, None where there are none."""
  found = method.units(layout)
  if found is None or not any(found.followers):
    return None
  nodes: list[Any] = [optax.MaskedNode()] * layout.treedef.num_leaves
  for index, mask in found.following(units).items():
    nodes[index] = mask
  return jax.tree.unflatten(layout.treedef, nodes)


def gradient(followers: Followers | tuple[()], grads: PyTree) -> PyTree:
  """Returns the gradients without those of inactive followers."""
  return trees.where(followers.masks, grads) if followers else grads


def emit(
  followers: Followers | tuple[()],
  masks: Masks | None,
  params: PyTree,
  updates: PyTree,
) -> tuple[PyTree, Followers | tuple[()]]:
  """Returns the updates with those of followers, and the followers after.

  Args:
    followers: before the call.
    masks: of the followers after it.
    params: the tree that the user holds, before the call.
    updates: of the inner optimizer at dense leaves.
  """
  if not followers or masks is None:
    return updates, ()
  values = trees.map_masked(
    lambda mask, value, param, update: jnp.where(
      mask, (param + update).astype(param.dtype), value
    ),
    followers.masks,
    followers.values,
    params,
    updates,
    dense=lambda value, param, update: value,
  )
  returning = jax.tree.map(lambda new, old: new & ~old, masks, followers.masks)
  emitted = trees.map_masked(
    lambda mask, comes, update, param, value: jnp.where(
      mask, jnp.where(comes, value, update), -param
    ),
    masks,
    returning,
    updates,
    params,
    values,
    dense=lambda comes, update, param, value: update,
  )
  return emitted, Followers(masks, values)


def reset(
  inner: optax.GradientTransformation,
  inner_state: optax.OptState,
  before: Followers | tuple[()],
  after: Followers | tuple[()],
  params: PyTree,
) -> optax.OptState:
  """Resets the optimizer state of followers that are or were inactive."""
  if not before or not after:
    return inner_state
  keep = jax.tree.map(jnp.logical_and, before.masks, after.masks)
  return inner_states.reset(inner, inner_state, keep, params)
