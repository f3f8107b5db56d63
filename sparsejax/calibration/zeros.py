"""What comes after pruning, and keeps the zeros: adapters, quantization."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sparsejax.components import trees
from sparsejax.method import Masks


def merge_adapters(
  params: PyTree, deltas: PyTree, masks: Masks | None = None
) -> PyTree:
  """Adds what adapters learned to the weights, and keeps inactive ones at 0.

  `w + d` at active weights and 0 elsewhere. For LoRA the delta of a kernel is
  `scale * (A @ B)`, which is dense.

  Args:
    params: the sparse network.
    deltas: tree like `params`; None where a leaf has no adapter.
    masks: its masks, `MaskedNode` or None at dense leaves; None for the weights
      that are not 0, in every leaf that has an adapter.

  Returns:
    The merged network, in the dtypes of `params`.

  Raises:
    ValueError: if a delta has another shape than its weights.
  """
  names = [name for name, _ in trees.named_leaves(params)]
  weights, treedef = jax.tree.flatten(params)
  each = treedef.flatten_up_to(deltas)
  nodes = [None] * len(names)
  if masks is not None:
    nodes = treedef.flatten_up_to(masks)
  merged = []
  for name, weight, delta, mask in zip(
    names, weights, each, nodes, strict=True
  ):
    if delta is None:
      merged.append(weight)
      continue
    if jnp.shape(delta) != jnp.shape(weight):
      raise ValueError(
        f"`deltas` must have the shape {jnp.shape(weight)} at {name!r}, got"
        f" {jnp.shape(delta)}. Give scale * (A @ B)."
      )
    active = weight != 0 if masks is None else mask
    moved = (weight + delta).astype(weight.dtype)
    if active is not None and not trees.is_masked_node(active):
      moved = jnp.where(active, moved, jnp.zeros_like(moved))
    merged.append(moved)
  return treedef.unflatten(merged)


def fake_quantize(
  weights: Float[Array, "*dims out"], *, bits: int = 8
) -> Float[Array, "*dims out"]:
  """Rounds weights to signed integers of some bits, times a scale per output.

  Symmetric: `s round(w / s)` with `s = max |w| / (2^(bits - 1) - 1)` over the
  weights of an output. There is no zero point, so 0 stays exactly 0. An active
  weight below half of a step becomes 0 as well. Gradients pass straight
  through, for training with quantized weights.

  Args:
    weights: a kernel, the outputs last.
    bits: in [2, 16].

  Raises:
    ValueError: if `bits` is out of range.
  """
  if not 2 <= bits <= 16:
    raise ValueError(f"`bits` must be in [2, 16], got {bits}.")
  most = 2 ** (bits - 1) - 1
  wide = weights.astype(jnp.float32)
  axes = tuple(range(weights.ndim - 1))
  scale = jnp.max(jnp.abs(wide), axis=axes, keepdims=True) / most
  scale = jnp.where(scale > 0, scale, 1.0)
  return _straight_through(
    (jnp.round(wide / scale) * scale).astype(weights.dtype), weights
  )


@jax.custom_jvp
def _straight_through(rounded: Array, weights: Array) -> Array:
  """Returns the rounded weights, with the gradient of the others."""
  del weights  # Only their gradient.
  return rounded


@_straight_through.defjvp
def _straight_through_jvp(
  primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
  return primals[0], tangents[1]
