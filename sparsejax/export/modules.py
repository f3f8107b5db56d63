"""The built-in models with the widths of smaller parameters."""

from collections.abc import Callable, Mapping
from typing import Any

from sparsejax import models


def resized(model: Any, params: Mapping[str, Any]) -> Any | None:
  """Returns a module that runs smaller parameters, to train it further.

  Args:
    model: the module of the network before it was shrunk.
    params: its collection `params`, without dead channels.

  Returns:
    The same module with other widths; None for networks whose layers share one
    attribute (residual networks, transformers), which the traced program runs.
  """
  found = _WIDTHS.get(type(model))
  return None if found is None else model.clone(**found(model, params))


def widths(params: Mapping[str, Any]) -> dict[str, int]:
  """Returns the width of each layer with a kernel at the top level."""
  return {
    name: int(layer["kernel"].shape[-1])
    for name, layer in params.items()
    if "kernel" in layer
  }


def _mlp(model: models.MLP, params: Mapping[str, Any]) -> dict[str, Any]:
  return {"hidden": _numbered("Dense_{}", len(model.hidden), params)}


def _cnn(model: models.CNN, params: Mapping[str, Any]) -> dict[str, Any]:
  return {"channels": _numbered("Conv_{}", len(model.channels), params)}


def _set_mlp(model: models.SetMLP, params: Mapping[str, Any]) -> dict[str, Any]:
  return {"hidden": _numbered("hidden_{}", len(model.hidden), params)}


def _mobilenet(
  model: models.MobileNetV1, params: Mapping[str, Any]
) -> dict[str, Any]:
  blocks = _numbered("block{:02d}_pointwise", len(model.channels), params)
  return {"stem": widths(params)["stem"], "channels": blocks}


def _vgg(model: models.VGG, params: Mapping[str, Any]) -> dict[str, Any]:
  count = sum(map(len, model.plan))
  left = iter(_numbered("conv{}", count, params))
  return {
    "plan": tuple(
      tuple((next(left), size) for _, size in stage) for stage in model.plan
    ),
    "hidden": _numbered("hidden{}", len(model.hidden), params),
  }


def _numbered(
  name: str, count: int, params: Mapping[str, Any]
) -> tuple[int, ...]:
  found = widths(params)
  return tuple(found[name.format(i)] for i in range(count))


_WIDTHS: dict[type, Callable[[Any, Mapping[str, Any]], dict[str, Any]]] = {
  models.MLP: _mlp,
  models.CNN: _cnn,
  models.SetMLP: _set_mlp,
  models.MobileNetV1: _mobilenet,
  models.VGG: _vgg,
}
