"""Modules that run smaller parameters than they declare."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from sparsejax.models.sparse_dense import SparseDense

_LAYERS = (nn.Conv, nn.Dense, SparseDense)


def apply(model: nn.Module, variables: Any, *args: Any, **kwargs: Any) -> Any:
  """As `model.apply`, but each layer has as many outputs as its kernel.

  Norms take their width from their inputs anyway. Compare the outputs with
  those of the larger network: code that places channels by the declared widths,
  such as shortcuts of zeros, runs, but adds up other channels.

  Args:
    model: a module of convolutions and dense layers.
    variables: its collections, without some channels.
    *args: inputs.
    **kwargs: as there.

  Raises:
    flax.errors.FlaxError: if other parameters have other shapes than the module
      declares, such as the heads of an attention.
  """
  with nn.intercept_methods(_with_the_kernels_width):
    return model.apply(variables, *args, **kwargs)


def _with_the_kernels_width(
  call: Callable[..., Any],
  args: tuple[Any, ...],
  kwargs: dict[str, Any],
  context: nn.module.InterceptorContext,
) -> Any:
  layer = context.module
  if isinstance(layer, _LAYERS) and layer.has_variable("params", "kernel"):
    kernel = layer.get_variable("params", "kernel")
    # A layer is made for each call, so nothing else sees its new width.
    object.__setattr__(layer, "features", kernel.shape[-1])
    if getattr(layer, "feature_group_count", 1) > 1:
      groups = args[0].shape[-1] // kernel.shape[-2]
      object.__setattr__(layer, "feature_group_count", groups)
  return call(*args, **kwargs)
