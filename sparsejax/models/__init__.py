"""The built-in models, in Flax Linen, by name.

A factory takes the number of classes; its keyword arguments are the keys of
`config.model`. A model maps float[B, H, W, C] to float32[B, K] logits and
takes `train=` (bool, static).
"""

from collections.abc import Callable

import flax.linen as nn

from sparsejax.models.cnn import CNN, cnn
from sparsejax.models.mlp import MLP, mlp
from sparsejax.models.resnet import (
  ResNet,
  resnet20,
  resnet50,
  resnet50_6n2,
  resnet50_cifar,
)
from sparsejax.models.set_mlp import SetMLP, set_mlp

MODELS: dict[str, Callable[..., nn.Module]] = {
  "mlp": mlp,
  "cnn": cnn,
  "resnet20": resnet20,
  "resnet50": resnet50,
  "resnet50_cifar": resnet50_cifar,
  "resnet50_6n2": resnet50_6n2,
  "set_mlp": set_mlp,
}

__all__ = [
  "CNN",
  "MLP",
  "MODELS",
  "ResNet",
  "SetMLP",
  "cnn",
  "mlp",
  "resnet20",
  "resnet50",
  "resnet50_6n2",
  "resnet50_cifar",
  "set_mlp",
]
