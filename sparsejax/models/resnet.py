"""Residual networks as the papers' code has them, for CIFAR and ImageNet."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer

from sparsejax.models import layers


@runtime_checkable
class Shortcut(Protocol):
  """Brings the input of a block to the shape of its output."""

  def __call__(
    self,
    x: jax.Array,
    features: int,
    stride: int,
    *,
    train: bool,
    kernel_init: Initializer,
    dtype: Any,
  ) -> jax.Array:
    """Returns [B, H / stride, W / stride, features]."""
    ...


def projection(
  x: jax.Array,
  features: int,
  stride: int,
  *,
  train: bool,
  kernel_init: Initializer,
  dtype: Any,
) -> jax.Array:
  """A 1x1 convolution with batch norm, called `shortcut`."""
  x = layers.convolution(
    features,
    1,
    stride=stride,
    kernel_init=kernel_init,
    dtype=dtype,
    name="shortcut",
  )(x)
  return layers.batch_norm(name="shortcut_norm", train=train, dtype=dtype)(x)


def zero_padding(
  x: jax.Array,
  features: int,
  stride: int,
  *,
  train: bool,
  kernel_init: Initializer,
  dtype: Any,
) -> jax.Array:
  """Every other pixel, and channels of zeros on both sides: no parameters."""
  del train, kernel_init, dtype  # There is nothing to learn.
  missing = features - x.shape[-1]
  sides = (missing // 2, missing - missing // 2)
  return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), sides))


class BasicBlock(nn.Module):
  """Two 3x3 convolutions beside a shortcut; the first has the stride.

  Attributes:
    width: channels of both convolutions and of the output.
    stride: of the block.
    shortcut: used where the input is not of the output's shape.
    kernel_init: of the kernels.
    dtype: of the computation.
  """

  width: int
  stride: int
  shortcut: Shortcut
  kernel_init: Initializer
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [B, H / stride, W / stride, width]."""
    conv, norm = _parts(self.kernel_init, self.dtype, train)
    y = conv(self.width, 3, stride=self.stride, name="conv1")(x)
    y = nn.relu(norm(name="norm1")(y))
    y = norm(name="norm2")(conv(self.width, 3, name="conv2")(y))
    return _joined(self, x, y, train)


class Bottleneck(nn.Module):
  """Convolutions 1x1, 3x3 and 1x1; the 3x3 has the stride ("v1.5").

  Attributes:
    width: channels of the first two convolutions; the output has four times
      as many.
    stride: of the block.
    shortcut: used where the input is not of the output's shape.
    kernel_init: of the kernels.
    dtype: of the computation.
  """

  width: int
  stride: int
  shortcut: Shortcut
  kernel_init: Initializer
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [B, H / stride, W / stride, 4 * width]."""
    conv, norm = _parts(self.kernel_init, self.dtype, train)
    y = nn.relu(norm(name="norm1")(conv(self.width, 1, name="conv1")(x)))
    y = conv(self.width, 3, stride=self.stride, name="conv2")(y)
    y = nn.relu(norm(name="norm2")(y))
    y = norm(name="norm3")(conv(4 * self.width, 1, name="conv3")(y))
    return _joined(self, x, y, train)


def _joined(
  block: BasicBlock | Bottleneck, x: jax.Array, y: jax.Array, train: bool
) -> jax.Array:
  """Adds a block's input to its output, by its shortcut where shapes differ."""
  if x.shape != y.shape:
    x = block.shortcut(
      x,
      y.shape[-1],
      block.stride,
      train=train,
      kernel_init=block.kernel_init,
      dtype=block.dtype,
    )
  return nn.relu(x + y)


class ResNet(nn.Module):
  """A stem, stages of blocks, the mean over all pixels and a classifier.

  Every stage but the first starts with a stride of 2.

  Attributes:
    classes: number of logits K.
    block: makes one block from its attributes.
    blocks: number of blocks of each stage.
    widths: width of each stage; the first is the stem's as well.
    large_stem: a 7x7 convolution and a max-pooling, both of stride 2, for
      images of some hundred pixels; otherwise a 3x3 convolution.
    shortcut: where shapes change.
    kernel_init: of the convolutions.
    classifier: the last layer.
    dtype: of the computation.
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
    conv, norm = _parts(self.kernel_init, self.dtype, train)
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
    return layers.at_least_float32(x)


def resnet20(
  classes: int, *, width: float = 1.0, dtype: str = "float32"
) -> ResNet:
  """ResNet-20 for CIFAR: basic blocks 3 x 3, widths 16, 32, 64, projections.

  On 10 classes it has 272,474 parameters, 270,896 of them in kernels. All
  kernels are drawn from N(0, 2 / fan_in), the classifier's too.

  Args:
    classes: number of logits.
    width: factor of the width of every layer but the last, in (0, 1].
    dtype: of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if the width is out of range or the dtype not known.

  References:
    GraNet's code, which has it from open_lth.
  """
  return ResNet(
    classes=classes,
    block=BasicBlock,
    blocks=(3, 3, 3),
    widths=layers.narrowed((16, 32, 64), width),
    large_stem=False,
    shortcut=projection,
    kernel_init=layers.kaiming_fan_in,
    classifier=layers.linear(layers.kaiming_fan_in, layers.torch_bias),
    dtype=layers.compute_dtype(dtype),
  )


def resnet50_cifar(
  classes: int, *, width: float = 1.0, dtype: str = "float32"
) -> ResNet:
  """ResNet-50 for CIFAR: a 3x3 stem, no max-pooling, no bias at the end.

  On 10 classes it has 23,520,832 parameters, 23,467,712 of them in kernels.
  PyTorch's default initialisation.

  Args:
    classes: number of logits.
    width: factor of the width of every layer but the last, in (0, 1].
    dtype: of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if the width is out of range or the dtype not known.

  References:
    GraNet's code.
  """
  return ResNet(
    classes=classes,
    block=Bottleneck,
    blocks=(3, 4, 6, 3),
    widths=layers.narrowed((64, 128, 256, 512), width),
    large_stem=False,
    shortcut=projection,
    kernel_init=layers.torch_kernel,
    classifier=layers.linear(layers.torch_kernel, None),
    dtype=layers.compute_dtype(dtype),
  )


def resnet50(
  classes: int, *, width: float = 1.0, dtype: str = "float32"
) -> ResNet:
  """ResNet-50 for ImageNet, the stride on the 3x3 convolutions.

  On 1000 classes it has 25,557,032 parameters, 25,502,912 of them in kernels.
  Convolutions are drawn from N(0, 2 / fan_in); the classifier has PyTorch's
  default.

  Args:
    classes: number of logits.
    width: factor of the width of every layer but the last, in (0, 1].
    dtype: of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if the width is out of range or the dtype not known.

  References:
    He et al., `Deep Residual Learning <https://arxiv.org/abs/1512.03385>`_,
    2015, with GraNet's changes: `-c fanin`.
  """
  return ResNet(
    classes=classes,
    block=Bottleneck,
    blocks=(3, 4, 6, 3),
    widths=layers.narrowed((64, 128, 256, 512), width),
    large_stem=True,
    shortcut=projection,
    kernel_init=layers.kaiming_fan_in,
    classifier=layers.linear(layers.torch_kernel, layers.torch_bias),
    dtype=layers.compute_dtype(dtype),
  )


def resnet50_6n2(
  classes: int, *, width: float = 1.0, dtype: str = "float32"
) -> ResNet:
  """What OptG's code calls ResNet-50 on CIFAR: depth 6 n + 2, no bottleneck.

  Eight basic blocks a stage of widths 32, 64 and 128, shortcuts without
  parameters, a 1x1 convolution as classifier. On 10 classes it has 3,013,792
  parameters, 3,006,560 of them in kernels, where the paper's table stands
  beside networks of 23.5 million.

  Args:
    classes: number of logits.
    width: factor of the width of every layer but the last, in (0, 1].
    dtype: of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if the width is out of range or the dtype not known.

  References:
    OptG's code, `models/resnet_cifar.py`.
  """
  return ResNet(
    classes=classes,
    block=BasicBlock,
    blocks=(8, 8, 8),
    widths=layers.narrowed((32, 64, 128), width),
    large_stem=False,
    shortcut=zero_padding,
    kernel_init=layers.kaiming_fan_in,
    classifier=layers.pointwise(layers.kaiming_fan_in),
    dtype=layers.compute_dtype(dtype),
  )


def _parts(kernel_init: Initializer, dtype: Any, train: bool):
  """Returns the convolution and the norm of a network, its choices bound."""

  def conv(features: int, size: int, **options: Any) -> nn.Conv:
    return layers.convolution(
      features, size, kernel_init=kernel_init, dtype=dtype, **options
    )

  def norm(name: str) -> nn.BatchNorm:
    return layers.batch_norm(name=name, train=train, dtype=dtype)

  return conv, norm
