"""The built-in models, in Flax Linen.

A factory takes the number of classes, or that of tokens; its keyword arguments
are the keys of `config.model`. A model maps the inputs of its task, images
float[B, H, W, C] or tokens int[B, T], to float32 logits, and takes `train=`
(bool, static). It may say what is a layer: `layer_axes` maps globs of stacked
parameters to the axis along which each slice is one, and `dense` has the globs
of those that are not sparse by default.
"""

from collections.abc import Callable

import flax.linen as nn

from sparsejax.models.cnn import CNN, cnn
from sparsejax.models.mlp import MLP, mlp
from sparsejax.models.mobilenet import MobileNetV1, mobilenet_v1
from sparsejax.models.resnet import (
  ResNet,
  resnet20,
  resnet50,
  resnet50_6n2,
  resnet50_cifar,
)
from sparsejax.models.set_mlp import SetMLP, set_mlp
from sparsejax.models.sparse_dense import SparseDense
from sparsejax.models.transformer import Transformer, transformer
from sparsejax.models.vgg import VGG, vgg19, vgg19_optg, vgg_c, vgg_d
from sparsejax.models.vit import ViT, vit

MODELS: dict[str, Callable[..., nn.Module]] = {
  "mlp": mlp,
  "cnn": cnn,
  "resnet20": resnet20,
  "resnet50": resnet50,
  "resnet50_cifar": resnet50_cifar,
  "resnet50_6n2": resnet50_6n2,
  "vgg19": vgg19,
  "vgg19_optg": vgg19_optg,
  "vgg_c": vgg_c,
  "vgg_d": vgg_d,
  "mobilenet_v1": mobilenet_v1,
  "set_mlp": set_mlp,
  "vit": vit,
  "transformer": transformer,
}

__all__ = [
  "CNN",
  "MLP",
  "MODELS",
  "MobileNetV1",
  "ResNet",
  "VGG",
  "SetMLP",
  "SparseDense",
  "Transformer",
  "ViT",
  "cnn",
  "mlp",
  "mobilenet_v1",
  "resnet20",
  "resnet50",
  "resnet50_6n2",
  "resnet50_cifar",
  "set_mlp",
  "transformer",
  "vgg19",
  "vgg19_optg",
  "vgg_c",
  "vgg_d",
  "vit",
]
