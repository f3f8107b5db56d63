"""VGG with batch norm for 32x32 images, as in the papers' code."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax.typing import Initializer

from sparsejax.models import layers

# The convolutions of each stage as (output channels, kernel size).
Plan = tuple[tuple[tuple[int, int], ...], ...]

_VGG19: Plan = (
  ((64, 3),) * 2,
  ((128, 3),) * 2,
  ((256, 3),) * 4,
  ((512, 3),) * 4,
  ((512, 3),) * 4,
)
_VGG_D: Plan = (
  ((64, 3),) * 2,
  ((128, 3),) * 2,
  ((256, 3),) * 3,
  ((512, 3),) * 3,
  ((512, 3),) * 3,
)
_VGG_C: Plan = (
  ((64, 3),) * 2,
  ((128, 3),) * 2,
  ((256, 3), (256, 3), (256, 1)),
  ((512, 3), (512, 3), (512, 1)),
  ((512, 3), (512, 3), (512, 1)),
)


class VGG(nn.Module):
  """Stages of convolutions with batch norm and ReLU, then 2x2 pooling.

  All convolutions pad by one pixel, 1x1 ones too.

  Attributes:
    classes: number of logits K.
    plan: output channels and kernel sizes of the convolutions of each stage.
    last_pool: pooling after the last stage; all others are max-pooling.
    hidden: widths of the dense layers before the classifier, each followed by
      ReLU and batch norm.
    kernel_init: initializer of the convolutions and the hidden layers.
    bias_init: fan-in -> initializer of the convolutions' biases; without one
      they have no bias.
    classifier: the last layer.
    dtype: dtype of the computation.
  """

  classes: int
  plan: Plan
  last_pool: Callable[..., jax.Array]
  hidden: tuple[int, ...]
  kernel_init: Initializer
  bias_init: Callable[[int], Initializer] | None
  classifier: layers.Classifier
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns float32[B, K] logits of float[B, 32, 32, 3] images."""
    index = 0
    for stage in self.plan:
      for channels, size in stage:
        x = self._conv(x, channels, size, index)
        x = nn.relu(self._norm(f"norm{index}", train)(x))
        index += 1
      pool = self.last_pool if stage is self.plan[-1] else nn.max_pool
      x = pool(x, (2, 2), strides=(2, 2))
    x = x.reshape(x.shape[0], -1)
    for index, width in enumerate(self.hidden):
      x = nn.relu(self._hidden(x, width, index))
      x = self._norm(f"hidden{index}_norm", train)(x)
    return layers.promote_logits(self.classifier(x, self.classes, self.dtype))

  def _conv(
    self, x: jax.Array, channels: int, size: int, index: int
  ) -> jax.Array:
    fan_in = x.shape[-1] * size**2
    return layers.convolution(
      channels,
      size,
      padding=1,
      kernel_init=self.kernel_init,
      bias_init=self.bias_init and self.bias_init(fan_in),
      dtype=self.dtype,
      name=f"conv{index}",
    )(x)

  def _hidden(self, x: jax.Array, width: int, index: int) -> jax.Array:
    return nn.Dense(
      width,
      dtype=self.dtype,
      kernel_init=self.kernel_init,
      bias_init=layers.torch_bias(x.shape[-1]),
      name=f"hidden{index}",
    )(x)

  def _norm(self, name: str, train: bool) -> nn.BatchNorm:
    return layers.batch_norm(name=name, train=train, dtype=self.dtype)


def vgg19(classes: int, *, width: float = 1.0, dtype: str = "float32") -> VGG:
  """Build VGG-19: 16 convolutions without bias and one dense layer.

  The fifth pooling takes the mean. With 10 classes it has 20,035,018
  parameters, 20,024,000 of them in kernels. Convolutions are initialized from
  N(0, 2 / fan_out), the classifier from N(0, 0.01^2) with zero bias.

  Args:
    classes: number of logits.
    width: width multiplier of every layer but the last, in (0, 1].
    dtype: dtype of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if `width` is out of range or `dtype` unknown.

  References:
    GraNet's code, after GraSP's.
  """
  return VGG(
    classes=classes,
    plan=_scale_plan(_VGG19, width),
    last_pool=nn.avg_pool,
    hidden=(),
    kernel_init=layers.kaiming_fan_out,
    bias_init=None,
    classifier=layers.linear(
      nn.initializers.normal(0.01), lambda _: nn.initializers.zeros
    ),
    dtype=layers.compute_dtype(dtype),
  )


def vgg19_optg(
  classes: int, *, width: float = 1.0, dtype: str = "float32"
) -> VGG:
  """Build OptG's VGG-19: five max-poolings and a 1x1 convolution as classifier.

  Same parameter counts as `vgg19`. Kernels are initialized from
  N(0, 2 / fan_in).

  Args:
    classes: number of logits.
    width: width multiplier of every layer but the last, in (0, 1].
    dtype: dtype of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if `width` is out of range or `dtype` unknown.

  References:
    OptG's code, `models/vgg_cifar.py`.
  """
  return VGG(
    classes=classes,
    plan=_scale_plan(_VGG19, width),
    last_pool=nn.max_pool,
    hidden=(),
    kernel_init=layers.kaiming_fan_in,
    bias_init=None,
    classifier=layers.pointwise(layers.kaiming_fan_in, layers.torch_bias),
    dtype=layers.compute_dtype(dtype),
  )


def vgg_d(classes: int, *, width: float = 1.0, dtype: str = "float32") -> VGG:
  """Build VGG-D: 13 convolutions with bias and three dense layers.

  With 10 classes it has 15,255,626 parameters. PyTorch's default
  initialization.

  Args:
    classes: number of logits.
    width: width multiplier of every layer but the last, in (0, 1].
    dtype: dtype of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if `width` is out of range or `dtype` unknown.

  References:
    ITOP's and SNFS's code, after SNIP's.
  """
  return _vgg16(classes, _VGG_D, width, dtype)


def vgg_c(classes: int, *, width: float = 1.0, dtype: str = "float32") -> VGG:
  """Build VGG-C: VGG-D with 1x1 kernels at the end of the last three stages.

  They are padded like the others, so 2x2 pixels reach the dense layers. With 10
  classes it has 11,323,466 parameters. PyTorch's default initialization.

  Args:
    classes: number of logits.
    width: width multiplier of every layer but the last, in (0, 1].
    dtype: dtype of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if `width` is out of range or `dtype` unknown.

  References:
    ITOP's and SNFS's code, after SNIP's.
  """
  return _vgg16(classes, _VGG_C, width, dtype)


def _scale_plan(plan: Plan, width: float) -> Plan:
  return tuple(
    tuple(
      (layers.scale_widths((channels,), width)[0], size)
      for channels, size in stage
    )
    for stage in plan
  )


def _vgg16(classes: int, plan: Plan, width: float, dtype: str) -> VGG:
  return VGG(
    classes=classes,
    plan=_scale_plan(plan, width),
    last_pool=nn.max_pool,
    hidden=layers.scale_widths((512, 512), width),
    kernel_init=layers.torch_kernel,
    bias_init=layers.torch_bias,
    classifier=layers.linear(layers.torch_kernel, layers.torch_bias),
    dtype=layers.compute_dtype(dtype),
  )
