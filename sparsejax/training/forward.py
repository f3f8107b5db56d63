"""The forward pass, shared by training, evaluation and scoring."""

import types
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax


def apply_model(
  model: nn.Module,
  params: Any,
  model_state: Any,
  inputs: Any,
  *,
  dropout_key: jax.Array | None = None,
  constants: Mapping[str, Any] = types.MappingProxyType({}),
) -> tuple[Any, Any]:
  """Apply a model.

  Args:
    model: Flax module.
    params: its parameters.
    model_state: its other collections.
    inputs: of a `tasks.Batch`.
    dropout_key: typed key; selects training mode. `None` selects evaluation
      mode, in which no collection changes.
    constants: collections that never change in a forward pass.

  Returns:
    Its outputs, and the updated model state.
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
  outputs, changed = result
  return outputs, model_state | dict(changed)
