"""A vision transformer for CIFAR and ImageNet.

As in Beyer et al., `Better plain ViT baselines for ImageNet-1k
<https://arxiv.org/abs/2205.01580>`_, 2022: fixed sine and cosine positions, and
the mean of all tokens in place of a class token. Patches are cut by a reshape,
so all kernels are matrices.
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sparsejax.models import layers
from sparsejax.models.attention import Attention
from sparsejax.models.pre_norm import Make, apply_blocks

# As in big_vision and DeiT; PyTorch's default is 1e-5.
_EPSILON = 1e-6


class Size(NamedTuple):
  """A size of the vision transformer: width, depth, heads, hidden width."""

  width: int
  depth: int
  heads: int
  hidden: int


SIZES = {
  "tiny": Size(32, 2, 2, 64),
  "ti": Size(192, 12, 3, 768),
  "s": Size(384, 12, 6, 1536),
  "b": Size(768, 12, 12, 3072),
  "l": Size(1024, 24, 16, 4096),
}


class MLP(nn.Module):
  """down(gelu(up(x))).

  Attributes:
    hidden: width of the hidden layer.
    dtype: dtype of the computation; `None` for that of inputs and parameters.
  """

  hidden: int
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns float[..., D] of float[..., D]."""
    dense = functools.partial(
      nn.Dense, kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype
    )
    hidden = nn.gelu(dense(self.hidden, name="up")(x))
    return dense(x.shape[-1], name="down")(hidden)


class ViT(nn.Module):
  """Classifies images.

  Attributes:
    classes: number of logits K.
    size: widths and depth.
    patch: height and width of a patch; divides those of the images.
    remat: whether the backward pass computes each block again.
    dtype: dtype of the computation; `None` for that of inputs and parameters.
    layer_axes: globs of stacked parameters, and the axis of the layers.
    dense: globs of parameters that are not sparse by default.
  """

  classes: int
  size: Size
  patch: int
  remat: bool = False
  dtype: Any = None

  layer_axes: ClassVar[Mapping[str, int]] = {"blocks/*": 0}
  dense: ClassVar[tuple[str, ...]] = ("patches/*", "classifier/*")

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns float32[B, K] logits of float[B, H, W, C] images."""
    del train  # Unused: training and evaluation are the same.
    if self.dtype is not None:
      x = x.astype(self.dtype)
    x = cut(x, self.patch)
    _, rows, columns, _ = x.shape
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    x = nn.Dense(self.size.width, dtype=self.dtype, name="patches")(x)
    x = x + sine_positions(rows, columns, self.size.width).astype(x.dtype)
    x = apply_blocks(
      x,
      self.size.depth,
      norm=functools.partial(nn.LayerNorm, epsilon=_EPSILON, dtype=self.dtype),
      attention=_attention(self.size, self.dtype),
      feed_forward=functools.partial(MLP, self.size.hidden, self.dtype),
      remat=self.remat,
    )
    x = x.mean(1)
    classifier = nn.Dense(
      self.classes,
      kernel_init=nn.initializers.zeros,
      dtype=self.dtype,
      name="classifier",
    )
    return layers.promote_logits(classifier(x))


def _attention(size: Size, dtype: Any) -> Make:
  return functools.partial(
    Attention,
    heads=size.heads,
    kv_heads=size.heads,
    head_size=size.width // size.heads,
    causal=False,
    rotary_base=None,
    use_bias=True,
    output_init=nn.initializers.xavier_uniform(),
    dtype=dtype,
  )


def cut(images: jax.Array, patch: int) -> jax.Array:
  """Cut images into patches.

  Args:
    images: float[B, H, W, C].
    patch: height and width of a patch.

  Returns:
    float[B, H / patch, W / patch, patch x patch x C].

  Raises:
    ValueError: if `patch` does not divide the size of the images.
  """
  count, height, width, channels = images.shape
  if height % patch or width % patch:
    raise ValueError(
      f"`patch` must divide the size of the images, {height} x {width}, got"
      f" {patch}."
    )
  rows, columns = height // patch, width // patch
  x = images.reshape(count, rows, patch, columns, patch, channels)
  return x.swapaxes(2, 3).reshape(count, rows, columns, -1)


def sine_positions(rows: int, columns: int, width: int) -> jax.Array:
  """Compute fixed positions of the patches of a grid.

  Args:
    rows: of the grid.
    columns: of the grid.
    width: of a token, a multiple of 4.

  Returns:
    float32[rows x columns, width]: sines and cosines of the column and of the
    row, at frequencies from 1 to 1 / 10,000.
  """
  y, x = jnp.mgrid[:rows, :columns]
  frequencies = 10_000.0 ** -jnp.linspace(0.0, 1.0, width // 4)
  parts = [
    wave(each.reshape(-1, 1) * frequencies)
    for each in (x, y)
    for wave in (jnp.sin, jnp.cos)
  ]
  return jnp.concatenate(parts, axis=1)


def vit(
  classes: int,
  *,
  size: str = "ti",
  patch: int = 4,
  remat: bool = False,
  dtype: str = "float32",
) -> ViT:
  """Build a `ViT`.

  Args:
    classes: number of logits.
    size: one of `SIZES`.
    patch: height and width of a patch: 4 for CIFAR, 16 for ImageNet.
    remat: whether the backward pass computes each block again, to save memory.
    dtype: dtype of the computation, "float32" or "bfloat16"; parameters are
      float32.

  Returns:
    The module.

  Raises:
    ValueError: if an argument is unknown or out of range.
  """
  if size not in SIZES:
    raise ValueError(f"`size` must be one of {', '.join(SIZES)}, got {size!r}.")
  if patch < 1:
    raise ValueError(f"`patch` must be at least 1, got {patch}.")
  return ViT(
    classes, SIZES[size], patch, remat, dtype=layers.compute_dtype(dtype)
  )
