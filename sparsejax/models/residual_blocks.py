"""The residual blocks of `ResNet`, and their shortcuts."""

from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer

from sparsejax.models import layers


def conv_and_norm(kernel_init: Initializer, dtype: Any, train: bool):
  """Returns a network's convolution and batch norm, with its options bound."""

  def conv(features: int, size: int, **options: Any) -> nn.Conv:
    return layers.convolution(
      features, size, kernel_init=kernel_init, dtype=dtype, **options
    )

  def norm(name: str) -> nn.BatchNorm:
    return layers.batch_norm(name=name, train=train, dtype=dtype)

  return conv, norm


@runtime_checkable
class Shortcut(Protocol):
  """Maps a block's input to the shape of its output."""

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
  """A 1x1 convolution with batch norm, named `shortcut`."""
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
  """Strided slicing and zero channels on both sides: no parameters."""
  del train, kernel_init, dtype  # Unused: there are no parameters.
  added = features - x.shape[-1]
  channels = (added // 2, added - added // 2)
  return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), channels))


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut; the first one is strided.

  Attributes:
    width: output channels of both convolutions and of the block.
    stride: stride of the block.
    shortcut: used if input and output differ in shape.
    kernel_init: initializer of the kernels.
    dtype: dtype of the computation.
  """

  width: int
  stride: int
  shortcut: Shortcut
  kernel_init: Initializer
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [B, H / stride, W / stride, width]."""
    conv, norm = conv_and_norm(self.kernel_init, self.dtype, train)
    y = conv(self.width, 3, stride=self.stride, name="conv1")(x)
    y = nn.relu(norm(name="norm1")(y))
    y = norm(name="norm2")(conv(self.width, 3, name="conv2")(y))
    return _add_shortcut(self, x, y, train)


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions; the 3x3 one is strided ("v1.5").

  Attributes:
    width: output channels of the first two convolutions; a quarter of those of
      the block.
    stride: stride of the block.
    shortcut: used if input and output differ in shape.
    kernel_init: initializer of the kernels.
    dtype: dtype of the computation.
  """

  width: int
  stride: int
  shortcut: Shortcut
  kernel_init: Initializer
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [B, H / stride, W / stride, 4 * width]."""
    conv, norm = conv_and_norm(self.kernel_init, self.dtype, train)
    y = nn.relu(norm(name="norm1")(conv(self.width, 1, name="conv1")(x)))
    y = conv(self.width, 3, stride=self.stride, name="conv2")(y)
    y = nn.relu(norm(name="norm2")(y))
    y = norm(name="norm3")(conv(4 * self.width, 1, name="conv3")(y))
    return _add_shortcut(self, x, y, train)


def _add_shortcut(
  block: BasicBlock | Bottleneck, x: jax.Array, y: jax.Array, train: bool
) -> jax.Array:
  """Adds the input to the output, through the shortcut if shapes differ."""
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
