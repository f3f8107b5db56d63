"""The forward pass and the loss, shared by training, evaluation and scoring."""

import types
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import optax


def apply_model(
  model: nn.Module,
  params: Any,
  model_state: Any,
  inputs: jax.Array,
  *,
  dropout_key: jax.Array | None = None,
  constants: Mapping[str, Any] = types.MappingProxyType({}),
) -> tuple[jax.Array, Any]:
  """Apply a model to normalized inputs.

  Args:
    model: Flax module.
    params: its parameters.
    model_state: its other collections.
    inputs: float[B, H, W, C].
    dropout_key: typed key; selects training mode. `None` selects evaluation
      mode, in which no collection changes.
    constants: collections that never change in a forward pass.

  Returns:
    float[B, K] logits, and the updated model state.
  """
  train = dropout_key is not None
  variables: dict[str, Any] = {"params": params, **model_state, **constants}
  result: Any = model.apply(
    variables,
    inputs,
    train=train,
    mutable=list(model_state) if train else [],
    rngs={"dropout": dropout_key} if train else None,
  )
  logits, changed = result
  return logits, model_state | dict(changed)


def cross_entropy(
  logits: jax.Array, labels: jax.Array, *, smoothing: float = 0.0
) -> jax.Array:
  """Returns float32[B] losses, with PyTorch's label smoothing."""
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  if not smoothing:
    return losses
  uniform = -jax.nn.log_softmax(logits).mean(-1)
  return (1 - smoothing) * losses + smoothing * uniform
