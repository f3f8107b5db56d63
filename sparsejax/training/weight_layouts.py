"""How sparse weights lie in memory while a network trains.

    masked   dense arrays with exact zeros, as `sparsify` has them
    sparse   the values of active weights in lanes (`components.fan_in`), for
             kernels that the model multiplies with `SparseDense`

Both train the same network: the same losses but for rounding, and the same
masks. What differs is memory and speed.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

import sparsejax
from sparsejax.components import fan_in, trees
from sparsejax.components.fan_in import FanIn
from sparsejax.method import Method
from sparsejax.methods.compositions import track_ever_active
from sparsejax.state import stored_masks
from sparsejax.training import lane_training


class WeightLayout(NamedTuple):
  """How sparse weights lie in memory.

  Attributes:
    sparsify: as `sparsejax.sparsify`, for weights in this layout; `init` gets
      dense ones.
    hold: (dense weights, optimizer state) -> the sparse parameters of a run.
    collections: (optimizer state) -> Flax collections that the network reads
      besides its parameters.
    shapes: (parameters, optimizer state) -> the dense shapes of all leaves.
    check: (method) raises ValueError where the layout cannot train a method.
  """

  sparsify: Callable[..., sparsejax.SparseTransformation]
  hold: Callable[[PyTree, optax.OptState], PyTree]
  collections: Callable[[optax.OptState], dict[str, Any]]
  shapes: Callable[[PyTree, optax.OptState], PyTree]
  check: Callable[[Method], None]


def _sparsify_masked(
  inner: Any, method: Method, **options: Any
) -> sparsejax.SparseTransformation:
  return sparsejax.sparsify(inner, track_ever_active(method), **options)


def _shapes(params: PyTree, opt_state: optax.OptState) -> PyTree:
  del opt_state  # Masked weights are dense arrays.
  return params


def _values(params: PyTree, opt_state: optax.OptState) -> PyTree:
  return trees.map_masked(
    lambda mask, kernel: fan_in.values_of(kernel, mask),
    stored_masks(opt_state),
    params,
  )


def _masks_collection(opt_state: optax.OptState) -> dict[str, Any]:
  return {"masks": _without_dense(stored_masks(opt_state))}


def _without_dense(masks: Mapping[str, Any]) -> dict[str, Any]:
  """Returns nested dicts of the masks alone."""
  found = {
    key: _without_dense(node) if isinstance(node, Mapping) else node
    for key, node in masks.items()
  }
  return {
    key: node
    for key, node in found.items()
    if isinstance(node, FanIn) or (isinstance(node, dict) and node)
  }


def _kernel_shapes(params: PyTree, opt_state: optax.OptState) -> PyTree:
  return trees.map_masked(
    lambda mask, values: jax.ShapeDtypeStruct(mask.shape, values.dtype),
    stored_masks(opt_state),
    params,
    dense=lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
  )


def dense_network(params: PyTree, masks: PyTree) -> tuple[PyTree, PyTree]:
  """Returns a stored network as dense arrays, in either layout.

  Args:
    params: of a checkpoint, as `checkpointing.reading.read` returns them.
    masks: of its optimizer state; None at dense leaves.

  Returns:
    Numpy arrays: parameters with exact zeros, and bool masks, `MaskedNode` at
    dense leaves.
  """

  def dense(values: Any, mask: Any) -> tuple[Any, Any]:
    if mask is None:
      return values, optax.MaskedNode()
    if not isinstance(mask, Mapping):
      return values, mask
    lanes = fan_in.restored(mask)
    kernel = fan_in.kernel_of(jnp.asarray(values), lanes)
    return np.asarray(kernel), np.asarray(fan_in.mask_of(lanes))

  values, structure = jax.tree.flatten(params)
  pairs = map(dense, values, structure.flatten_up_to(masks))
  return tuple(map(structure.unflatten, zip(*pairs, strict=True)))


MASKED = WeightLayout(
  sparsify=_sparsify_masked,
  hold=sparsejax.apply_masks,
  collections=lambda opt_state: {},
  shapes=_shapes,
  check=lambda method: None,
)
SPARSE = WeightLayout(
  sparsify=lane_training.sparsify,
  hold=_values,
  collections=_masks_collection,
  shapes=_kernel_shapes,
  check=lane_training.check,
)
LAYOUTS = {"masked": MASKED, "sparse": SPARSE}
"""Choices of `config.model.layout`, for models that take it."""
