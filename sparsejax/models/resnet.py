"""ResNets for CIFAR and ImageNet, as in the papers' code."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax.typing import Initializer

from sparsejax.models import layers
from sparsejax.models.residual_blocks import (
  BasicBlock,
  Bottleneck,
  Shortcut,
  conv_and_norm,
  projection,
  zero_padding,
)


class ResNet(nn.Module):
  """A stem, stages of residual blocks, global average pooling, a classifier.

  Every stage but the first starts with stride 2.

  Attributes:
    classes: number of logits K.
    block: `BasicBlock` or `Bottleneck`.
    blocks: number of blocks per stage.
    widths: width of each stage; the stem has the first one.
    large_stem: whether the stem is a 7x7 convolution and a max-pooling, both of
      stride 2, for ImageNet; otherwise it is a 3x3 convolution.
    shortcut: used in blocks whose input and output differ in shape.
    kernel_init: initializer of the convolutions.
    classifier: the last layer.
    dtype: dtype of the computation.
  """

  classes: int
  block: Callable[..., nn.Module]
  blocks: tuple[int, ...]
  widths: tuple[int, ...]
  large_stem: bool
  shortcut: Shortcut
  kernel_init: Initializer
  classifier: layers.Classifier
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns float32[B, K] logits of float[B, H, W, 3] images."""
    conv, norm = conv_and_norm(self.kernel_init, self.dtype, train)
    if self.large_stem:
      x = conv(self.widths[0], 7, stride=2, name="stem")(x)
    else:
      x = conv(self.widths[0], 3, name="stem")(x)
    x = nn.relu(norm(name="stem_norm")(x))
    if self.large_stem:
      x = layers.max_pool(x, 3, stride=2, padding=1)
    for stage, (count, width) in enumerate(
      zip(self.blocks, self.widths, strict=True)
    ):
      for index in range(count):
        x = self.block(
          width=width,
          stride=2 if stage and not index else 1,
          shortcut=self.shortcut,
          kernel_init=self.kernel_init,
          dtype=self.dtype,
          name=f"stage{stage + 1}_block{index}",
        )(x, train=train)
    x = self.classifier(x.mean(axis=(1, 2)), self.classes, self.dtype)
    return layers.promote_logits(x)


def resnet20(
  classes: int, *, width: float = 1.0, dtype: str = "float32"
) -> ResNet:
  """Build ResNet-20 for CIFAR: three stages of three basic blocks, projections.

  With 10 classes it has 272,474 parameters, 270,896 of them in kernels. All
  kernels, including the classifier's, are initialized from N(0, 2 / fan_in).

  Args:
    classes: number of logits.
    width: width multiplier of every layer but the last, in (0, 1].
    dtype: dtype of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if `width` is out of range or `dtype` unknown.

  References:
    GraNet's code, after open_lth's.
  """
  return ResNet(
    classes=classes,
    block=BasicBlock,
    blocks=(3, 3, 3),
    widths=layers.scale_widths((16, 32, 64), width),
    large_stem=False,
    shortcut=projection,
    kernel_init=layers.kaiming_fan_in,
    classifier=layers.linear(layers.kaiming_fan_in, layers.torch_bias),
    dtype=layers.compute_dtype(dtype),
  )


def resnet50_cifar(
  classes: int, *, width: float = 1.0, dtype: str = "float32"
) -> ResNet:
  """Build ResNet-50 for CIFAR: a 3x3 stem and a classifier without bias.

  With 10 classes it has 23,520,832 parameters, 23,467,712 of them in kernels.
  PyTorch's default initialization.

  Args:
    classes: number of logits.
    width: width multiplier of every layer but the last, in (0, 1].
    dtype: dtype of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if `width` is out of range or `dtype` unknown.

  References:
    GraNet's code.
  """
  return ResNet(
    classes=classes,
    block=Bottleneck,
    blocks=(3, 4, 6, 3),
    widths=layers.scale_widths((64, 128, 256, 512), width),
    large_stem=False,
    shortcut=projection,
    kernel_init=layers.torch_kernel,
    classifier=layers.linear(layers.torch_kernel, None),
    dtype=layers.compute_dtype(dtype),
  )


def resnet50(
  classes: int, *, width: float = 1.0, dtype: str = "float32"
) -> ResNet:
  """Build ResNet-50 for ImageNet, with strided 3x3 convolutions ("v1.5").

  With 1000 classes it has 25,557,032 parameters, 25,502,912 of them in kernels.
  Convolutions are initialized from N(0, 2 / fan_in), the classifier by
  PyTorch's default.

  Args:
    classes: number of logits.
    width: width multiplier of every layer but the last, in (0, 1].
    dtype: dtype of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if `width` is out of range or `dtype` unknown.

  References:
    He et al., `Deep Residual Learning <https://arxiv.org/abs/1512.03385>`_,
    2015, with the option `-c fanin` of GraNet's code.
  """
  return ResNet(
    classes=classes,
    block=Bottleneck,
    blocks=(3, 4, 6, 3),
    widths=layers.scale_widths((64, 128, 256, 512), width),
    large_stem=True,
    shortcut=projection,
    kernel_init=layers.kaiming_fan_in,
    classifier=layers.linear(layers.torch_kernel, layers.torch_bias),
    dtype=layers.compute_dtype(dtype),
  )


def resnet50_6n2(
  classes: int, *, width: float = 1.0, dtype: str = "float32"
) -> ResNet:
  """Build what OptG's code calls ResNet-50 on CIFAR: 6 n + 2 layers, n = 8.

  Eight basic blocks per stage, widths 32, 64 and 128, shortcuts without
  parameters, a 1x1 convolution as classifier. With 10 classes it has 3,013,792
  parameters, 3,006,560 of them in kernels; the paper's table compares it with
  networks of 23.5 million.

  Args:
    classes: number of logits.
    width: width multiplier of every layer but the last, in (0, 1].
    dtype: dtype of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if `width` is out of range or `dtype` unknown.

  References:
    OptG's code, `models/resnet_cifar.py`.
  """
  return ResNet(
    classes=classes,
    block=BasicBlock,
    blocks=(8, 8, 8),
    widths=layers.scale_widths((32, 64, 128), width),
    large_stem=False,
    shortcut=zero_padding,
    kernel_init=layers.kaiming_fan_in,
    classifier=layers.pointwise(layers.kaiming_fan_in),
    dtype=layers.compute_dtype(dtype),
  )
