"""VGG with batch norm as the papers' code has it, for images of 32 pixels."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax.typing import Initializer

from sparsejax.models import layers

# Convolutions of each stage, as (channels, size of the kernel).
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
  """Stages of convolutions with batch norm and ReLU; each halves the image.

  A padding of one pixel stands around all kernels, those of 1x1 too.

  Attributes:
    classes: number of logits K.
    plan: channels and kernel sizes of the convolutions of each stage.
    last_pool: halves the image after the last stage; all others take maxima.
    hidden: widths of dense layers before the classifier, each followed by ReLU
      and then batch norm.
    kernel_init: of the convolutions and the hidden layers.
    bias_init: of their biases, from the number of inputs; without it the
      convolutions have none.
    classifier: the last layer.
    dtype: of the computation.
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
        x = self._convolution(x, channels, size, index)
        x = nn.relu(self._norm(f"norm{index}", train)(x))
        index += 1
      pool = self.last_pool if stage is self.plan[-1] else nn.max_pool
      x = pool(x, (2, 2), strides=(2, 2))
    x = x.reshape(x.shape[0], -1)
    for index, width in enumerate(self.hidden):
      x = nn.relu(self._hidden(x, width, index))
      x = self._norm(f"hidden{index}_norm", train)(x)
    return layers.at_least_float32(self.classifier(x, self.classes, self.dtype))

  def _convolution(
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
  """VGG-19 with batch norm: 16 convolutions without bias, one dense layer.

  The mean stands for the fifth max-pooling. On 10 classes it has 20,035,018
  parameters, 20,024,000 of them in kernels. Convolutions are drawn from
  N(0, 2 / fan_out), the classifier from N(0, 0.01^2) with a bias of 0.

  Args:
    classes: number of logits.
    width: factor of the width of every layer but the last, in (0, 1].
    dtype: of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if the width is out of range or the dtype not known.

  References:
    GraNet's code, which has it from GraSP.
  """
  return VGG(
    classes=classes,
    plan=_narrowed(_VGG19, width),
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
  """VGG-19 of OptG's code: five max-poolings, a 1x1 convolution at the end.

  As many parameters as `vgg19`; all kernels are drawn from N(0, 2 / fan_in).

  Args:
    classes: number of logits.
    width: factor of the width of every layer but the last, in (0, 1].
    dtype: of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if the width is out of range or the dtype not known.

  References:
    OptG's code, `models/vgg_cifar.py`.
  """
  return VGG(
    classes=classes,
    plan=_narrowed(_VGG19, width),
    last_pool=nn.max_pool,
    hidden=(),
    kernel_init=layers.kaiming_fan_in,
    bias_init=None,
    classifier=layers.pointwise(layers.kaiming_fan_in, layers.torch_bias),
    dtype=layers.compute_dtype(dtype),
  )


def vgg_d(classes: int, *, width: float = 1.0, dtype: str = "float32") -> VGG:
  """VGG-D: 13 convolutions with bias and three dense layers.

  On 10 classes it has 15,255,626 parameters. PyTorch's default
  initialisation.

  Args:
    classes: number of logits.
    width: factor of the width of every layer but the last, in (0, 1].
    dtype: of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if the width is out of range or the dtype not known.

  References:
    The code of ITOP and SNFS, after SNIP's.
  """
  return _vgg16(classes, _VGG_D, width, dtype)


def vgg_c(classes: int, *, width: float = 1.0, dtype: str = "float32") -> VGG:
  """VGG-C: as VGG-D, the last convolution of three stages 1x1.

  They are padded as the others, so that 2x2 pixels reach the dense layers. On
  10 classes it has 11,323,466 parameters. PyTorch's default initialisation.

  Args:
    classes: number of logits.
    width: factor of the width of every layer but the last, in (0, 1].
    dtype: of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if the width is out of range or the dtype not known.

  References:
    The code of ITOP and SNFS, after SNIP's.
  """
  return _vgg16(classes, _VGG_C, width, dtype)


def _narrowed(plan: Plan, width: float) -> Plan:
  return tuple(
    tuple(
      (layers.narrowed((channels,), width)[0], size) for channels, size in stage
    )
    for stage in plan
  )


def _vgg16(classes: int, plan: Plan, width: float, dtype: str) -> VGG:
  return VGG(
    classes=classes,
    plan=_narrowed(plan, width),
    last_pool=nn.max_pool,
    hidden=layers.narrowed((512, 512), width),
    kernel_init=layers.torch_kernel,
    bias_init=layers.torch_bias,
    classifier=layers.linear(layers.torch_kernel, layers.torch_bias),
    dtype=layers.compute_dtype(dtype),
  )
