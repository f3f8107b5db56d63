"""Multi-head attention with grouped queries and rotary positions."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Attention(nn.Module):
  """Attention between the tokens of a sequence.

  All kernels are matrices, [inputs, heads x head size] and back.

  Attributes:
    heads: number of query heads N.
    kv_heads: number of heads of keys and values; divides `heads`. Each serves
      as many query heads.
    head_size: width of a head; even with rotary positions.
    causal: whether a token sees only those before it, and itself.
    rotary_base: base of the rotary frequencies; `None` for no positions.
    use_bias: whether projections have biases.
    output_init: initializer of the output projection.
    dtype: dtype of the computation; `None` for that of inputs and parameters.
  """

  heads: int
  kv_heads: int
  head_size: int
  causal: bool
  rotary_base: float | None
  use_bias: bool
  output_init: Any
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns float[B, T, D] of float[B, T, D]."""

    def project(name: str, heads: int) -> jax.Array:
      y = nn.Dense(
        heads * self.head_size,
        use_bias=self.use_bias,
        dtype=self.dtype,
        name=name,
      )(x)
      return y.reshape(*y.shape[:-1], heads, self.head_size)

    query = project("query", self.heads)
    key = project("key", self.kv_heads)
    value = project("value", self.kv_heads)
    if self.rotary_base is not None:
      query, key = (rotate(each, self.rotary_base) for each in (query, key))
    y = jax.nn.dot_product_attention(query, key, value, is_causal=self.causal)
    return nn.Dense(
      x.shape[-1],
      use_bias=self.use_bias,
      kernel_init=self.output_init,
      dtype=self.dtype,
      name="output",
    )(y.reshape(*y.shape[:-2], -1))


def rotate(x: jax.Array, base: float) -> jax.Array:
  """Rotate queries or keys by their positions.

  Dimension i of the first half of a head and dimension i of the second half are
  a pair, as in the checkpoints of Llama on Hugging Face; the paper pairs
  neighbors. The angle of pair i at position t is t base^(-2 i / H).

  Args:
    x: float[B, T, N, H], H even.
    base: above 0; 10,000 in the paper, 500,000 in Llama 3.

  Returns:
    The same shape and dtype; angles are computed in float32.

  References:
    Su et al., `RoFormer <https://arxiv.org/abs/2104.09864>`_, 2021, eq. 34.
  """
  half = x.shape[-1] // 2
  frequencies = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angles = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] * frequencies
  cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return turned.astype(x.dtype)
