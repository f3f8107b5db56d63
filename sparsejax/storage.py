"""Storages: what becomes of the value of a weight that is off.

The user always holds the sparse network. `zeroed` keeps nothing else. `kept`
holds the dense latent weights in the optimizer state, lets the inner optimizer
step those, and shows the user the part that the masks keep.
"""

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from sparsejax import trees
from sparsejax.base import Masks, Storage


def masked_gradient(grad: Array, mask: Array) -> Array:
  """Lets the loss act on the weights that are on."""
  return jnp.where(mask, grad, jnp.zeros_like(grad))


def _settle_zeroed(params, updates, weights, masks, new_masks, keep):
  """Emits `-p` where a weight is off or starts again, the update elsewhere."""
  del weights, masks, new_masks  # Only what keeps its value matters.
  emitted = trees.map_masked(
    lambda k, u, p: jnp.where(k, u, -p),
    keep,
    updates,
    params,
    dense=lambda u, p: u,
  )
  return emitted, ()


def _settle_kept(params, updates, weights, masks, new_masks, keep):
  """Emits what moves each held weight to its latent value, or to 0."""
  del keep  # Values survive while a weight is off.
  latent = trees.map_masked(
    lambda m, w, u: (w + u).astype(w.dtype),
    masks,
    weights,
    updates,
    dense=lambda w, u: w,
  )

  def emit(new_mask, mask, update, stepped, param):
    return jnp.where(new_mask, jnp.where(mask, update, stepped), -param)

  emitted = trees.map_masked(
    emit,
    new_masks,
    masks,
    updates,
    latent,
    params,
    dense=lambda mask, update, stepped, param: update,
  )
  return emitted, trees.sparse_only(new_masks, latent)


def _kept_weights(params: PyTree, latent: PyTree, masks: Masks) -> PyTree:
  """Returns the latent weights, taking over the held value where one is on.

  So the two never drift apart by rounding.
  """
  return trees.map_masked(
    jnp.where, masks, params, latent, dense=lambda param, _: param
  )


zeroed = Storage(
  init=lambda params, masks: (),
  weights=lambda params, latent, masks: params,
  gradient=masked_gradient,
  settle=_settle_zeroed,
  prunes_all=False,
  resets=True,
)
"""A weight that is off is gone; if it is regrown it starts again at 0."""

kept = Storage(
  init=lambda params, masks: trees.sparse_only(masks, params),
  weights=_kept_weights,
  gradient=masked_gradient,
  settle=_settle_kept,
  prunes_all=True,
  resets=False,
)
"""A weight that is off keeps its latent value, which weight decay and momentum
still move, and comes back with it (Zhu & Gupta, 2017)."""
