"""A decoder-only transformer: RMSNorm, rotary positions, SwiGLU.

The blocks are stacked along the first axis of their parameters and run under
`nn.scan`, so 4 and 48 of them compile alike. `docs/transformers.md` maps the
parameters to those of Llama's checkpoints on Hugging Face.
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
from flax.typing import Initializer

from sparsejax.models import layers
from sparsejax.models.attention import Attention
from sparsejax.models.pre_norm import Make, apply_blocks

# As in Llama: Zhang and Sennrich (2019) leave epsilon open.
_EPSILON = 1e-5


class Size(NamedTuple):
  """A size of the transformer.

  Attributes:
    width: of the residual stream, D.
    depth: number of blocks.
    heads: query heads.
    kv_heads: heads of keys and values.
    hidden: width of the feed-forward layers.
    rotary_base: base of the rotary frequencies.
  """

  width: int
  depth: int
  heads: int
  kv_heads: int
  hidden: int
  rotary_base: float = 10_000.0


SIZES = {
  "tiny": Size(32, 2, 2, 2, 64),
  "1m": Size(128, 4, 4, 4, 384),
  "10m": Size(320, 8, 5, 5, 864),
  "30m": Size(512, 10, 8, 8, 1376),
  "85m": Size(768, 12, 12, 12, 2048),
  "300m": Size(1024, 24, 16, 16, 2816),
  # The sizes of Llama 3.2 and 3, whose vocabulary of 128,256 tokens adds 0.26
  # to 1.1 billion parameters.
  "1b": Size(2048, 16, 32, 8, 8192, 500_000.0),
  "3b": Size(3072, 28, 24, 8, 8192, 500_000.0),
  "8b": Size(4096, 32, 32, 8, 14336, 500_000.0),
}
"""Sizes by name, the number of parameters of the blocks."""


class SwiGLU(nn.Module):
  """down(silu(gate(x)) * up(x)).

  Attributes:
    hidden: width of the gate.
    output_init: initializer of the output projection.
    dtype: dtype of the computation; `None` for that of inputs and parameters.

  References:
    Shazeer, `GLU Variants Improve Transformer
    <https://arxiv.org/abs/2002.05202>`_, 2020, eq. 6.
  """

  hidden: int
  output_init: Any
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns float[..., D] of float[..., D]."""
    gate, up = (
      nn.Dense(self.hidden, use_bias=False, dtype=self.dtype, name=name)(x)
      for name in ("gate", "up")
    )
    return nn.Dense(
      x.shape[-1],
      use_bias=False,
      kernel_init=self.output_init,
      dtype=self.dtype,
      name="down",
    )(nn.silu(gate) * up)


class Transformer(nn.Module):
  """Predicts each next token.

  Attributes:
    vocabulary: number of tokens K.
    size: widths and depth.
    tied: whether the output head is the transposed embedding.
    remat: whether the backward pass computes each block again, which stores one
      activation per block.
    dtype: dtype of the computation; `None` for that of inputs and parameters.
    layer_axes: globs of stacked parameters, and the axis of the layers.
    dense: globs of parameters that are not sparse by default.
  """

  vocabulary: int
  size: Size
  tied: bool = False
  remat: bool = False
  dtype: Any = None

  layer_axes: ClassVar[Mapping[str, int]] = {"blocks/*": 0}
  dense: ClassVar[tuple[str, ...]] = ("head/*",)

  @nn.compact
  def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
    """Returns float32[B, T, K] logits of int[B, T] tokens."""
    del train  # Unused: training and evaluation are the same.
    size, dtype = self.size, self.dtype
    embed = nn.Embed(
      self.vocabulary,
      size.width,
      embedding_init=nn.initializers.normal(size.width**-0.5),
      dtype=dtype,
      name="embed",
    )
    x = apply_blocks(
      embed(tokens),
      size.depth,
      norm=functools.partial(nn.RMSNorm, epsilon=_EPSILON, dtype=dtype),
      attention=_attention(size, dtype),
      feed_forward=_feed_forward(size, dtype),
      remat=self.remat,
    )
    if self.tied:
      return layers.promote_logits(embed.attend(x))
    head = nn.Dense(self.vocabulary, use_bias=False, dtype=dtype, name="head")
    return layers.promote_logits(head(x))


def _attention(size: Size, dtype: Any) -> Make:
  return functools.partial(
    Attention,
    heads=size.heads,
    kv_heads=size.kv_heads,
    head_size=size.width // size.heads,
    causal=True,
    rotary_base=size.rotary_base,
    use_bias=False,
    output_init=_output_init(size),
    dtype=dtype,
  )


def _feed_forward(size: Size, dtype: Any) -> Make:
  return functools.partial(SwiGLU, size.hidden, _output_init(size), dtype)


def _output_init(size: Size) -> Initializer:
  """Returns what starts the projections back into the residual stream.

  There are two per block, and the variances of all of them sum to that of one
  projection.
  """
  return nn.initializers.variance_scaling(
    0.5 / size.depth, "fan_in", "truncated_normal"
  )


def transformer(
  vocabulary: int,
  *,
  size: str = "1m",
  kv_heads: int | None = None,
  tied: bool = False,
  remat: bool = False,
  dtype: str = "float32",
) -> Transformer:
  """Build a `Transformer`.

  Args:
    vocabulary: number of tokens.
    size: one of `SIZES`.
    kv_heads: heads of keys and values, a divisor of the query heads; that of
      the size by default.
    tied: whether the output head is the transposed embedding.
    remat: whether the backward pass computes each block again, to save memory.
    dtype: dtype of the computation, "float32" or "bfloat16"; parameters are
      float32.

  Returns:
    The module.

  Raises:
    ValueError: if an argument is unknown or does not fit.
  """
  if size not in SIZES:
    raise ValueError(f"`size` must be one of {', '.join(SIZES)}, got {size!r}.")
  chosen = SIZES[size]
  if kv_heads is not None:
    chosen = chosen._replace(kv_heads=kv_heads)
  if chosen.kv_heads < 1 or chosen.heads % chosen.kv_heads:
    raise ValueError(
      f"`kv_heads` must be a divisor of {chosen.heads}, the query heads, got"
      f" {kv_heads}."
    )
  return Transformer(
    vocabulary, chosen, tied, remat, dtype=layers.compute_dtype(dtype)
  )
