"""MobileNet-V1: depthwise separable convolutions for ImageNet."""

from typing import Any

import flax.linen as nn
import jax

from sparsejax.models import layers

# Output channels and stride of the 13 blocks.
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
  """3x3 depthwise and 1x1 convolutions, each with batch norm and ReLU.

  Attributes:
    classes: number of logits K.
    stem: output channels of the first convolution.
    channels: output channels of each block.
    dtype: dtype of the computation.
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
      # Two digits, so that names sort in the order of the blocks.
      name, depth = f"block{index:02d}", x.shape[-1]
      x = layer(
        x,
        depth,
        3,
        f"{name}_depthwise",
        stride=stride,
        feature_group_count=depth,
      )
      x = layer(x, channels, 1, f"{name}_pointwise")
    classify = layers.pointwise(layers.kaiming_fan_in)
    logits = classify(x.mean(axis=(1, 2)), self.classes, self.dtype)
    return layers.promote_logits(logits)


def mobilenet_v1(
  classes: int, *, width: float = 1.0, dtype: str = "float32"
) -> MobileNetV1:
  """Build MobileNet-V1 with a 1x1 convolution without bias as classifier.

  With 1000 classes it has 4,230,976 parameters, 4,209,088 of them in kernels
  including the depthwise ones: OptG and STR prune those, RigL keeps them dense
  (`config.dense=("*_depthwise/kernel",)`). Kernels have PyTorch's default
  initialization, the classifier N(0, 2 / fan_in).

  Args:
    classes: number of logits.
    width: width multiplier of every layer but the last, in (0, 1].
    dtype: dtype of the computation, "float32" or "bfloat16".

  Returns:
    The module.

  Raises:
    ValueError: if `width` is out of range or `dtype` unknown.

  References:
    Howard et al., `MobileNets <https://arxiv.org/abs/1704.04861>`_, 2017, as in
    STR's and OptG's code.
  """
  stem, *channels = layers.scale_widths((32, *(c for c, _ in _BLOCKS)), width)
  return MobileNetV1(
    classes=classes,
    stem=stem,
    channels=tuple(channels),
    dtype=layers.compute_dtype(dtype),
  )
