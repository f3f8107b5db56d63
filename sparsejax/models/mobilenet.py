"""MobileNet-V1: depthwise separable convolutions for ImageNet."""

from typing import Any

import flax.linen as nn
import jax

from sparsejax.models import layers

# Output channels and stride of each of the 13 blocks.
_BLOCKS = (
  (64, 1),
  (128, 2),
  (128, 1),
  (256, 2),
  (256, 1),
  (512, 2),
  *((512, 1),) * 5,
  (1024, 2),
  (1024, 1),
)


class MobileNetV1(nn.Module):
  """Blocks of a 3x3 depthwise and a 1x1 convolution, each with norm and ReLU.

  Attributes:
    classes: number of logits K.
    stem: channels of the first convolution.
    channels: output channels of each block.
    dtype: of the computation.
  """

  classes: int
  stem: int
  channels: tuple[int, ...]
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns float32[B, K] logits of float[B, H, W, 3] images."""

    def layer(x: jax.Array, channels: int, size: int, name: str, **options):
      x = layers.convolution(
        channels,
        size,
        kernel_init=layers.torch_kernel,
        dtype=self.dtype,
        name=name,
        **options,
      )(x)
      norm = layers.batch_norm(
        name=f"{name}_norm", train=train, dtype=self.dtype
      )
      return nn.relu(norm(x))

    x = layer(x, self.stem, 3, "stem", stride=2)
    for index, (channels, (_, stride)) in enumerate(
      zip(self.channels, _BLOCKS, strict=True)
    ):
      # Two digits, so that the order of the names is that of the blocks.
      name, depth = f"block{index:02d}", x.shape[-1]
      x = layer(x, depth, 3, f"{name}_depthwise", stride=stride, groups=depth)
      x = layer(x, channels, 1, f"{name}_pointwise")
    classify = layers.pointwise(layers.kaiming_fan_in)
    logits = classify(x.mean(axis=(1, 2)), self.classes, self.dtype)
    return layers.at_least_float32(logits)


def mobilenet_v1(
  classes: int, *, width: float = 1.0, dtype: str = "float32"
) -> MobileNetV1:
  """MobileNet-V1 of width 1 with a 1x1 convolution without bias at the end.

  On 1000 classes it has 4,230,976 parameters, 4,209,088 of them in kernels,
  the depthwise ones included: OptG and STR prune those, RigL keeps them dense
  (`config.dense=("*_depthwise/kernel",)`). PyTorch's default initialisation;
  the classifier is drawn from N(0, 2 / fan_in).

  Args:
    classes: number of logits.
    width: factor of the width of every layer but the last, in (0, 1].
    dtype: of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if the width is out of range or the dtype not known.

  References:
    Howard et al., `MobileNets <https://arxiv.org/abs/1704.04861>`_, 2017, as in
    the code of STR and OptG.
  """
  stem, *channels = layers.narrowed((32, *(c for c, _ in _BLOCKS)), width)
  return MobileNetV1(
    classes=classes,
    stem=stem,
    channels=tuple(channels),
    dtype=layers.compute_dtype(dtype),
  )
