"""Networks that tests of exports share."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st


class Block(nn.Module):
  """A block of a transformer, with rotary positions and split gates."""

  @nn.compact
  def __call__(self, x):
    x += nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=32)(
      nn.RMSNorm()(x)
    )
    q, k, v = (nn.DenseGeneral((4, 8))(nn.LayerNorm()(x)) for _ in range(3))
    angle = np.arange(x.shape[1])[:, None] * np.arange(1, 5) / 4
    q, k = (rotate(each, angle[:, None]) for each in (q, k))
    scores = nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(8))
    mixed = jnp.einsum("bhts,bshd->bthd", scores, v)
    x += nn.Dense(12)(mixed.reshape(*x.shape[:2], 32))
    gate, up = jnp.split(nn.Dense(40)(nn.RMSNorm()(x)), 2, axis=-1)
    return x + nn.Dense(12)(nn.silu(gate) * up)


def rotate(x, angle):
  a, b = jnp.split(x, 2, axis=-1)
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


@st.composite
def random_layers(draw):
  """Draws layers of `Random`, and a seed."""
  widths = draw(st.lists(st.integers(2, 9), min_size=2, max_size=4))
  kinds = draw(
    st.lists(
      st.sampled_from(["conv", "strided", "skip", "concat", "depthwise"]),
      min_size=len(widths),
      max_size=len(widths),
    )
  )
  return tuple(zip(kinds, widths, strict=True)), draw(st.integers(0, 2**16))


class Random(nn.Module):
  """Operations on small images, each of another kind."""

  layers: tuple

  @nn.compact
  def __call__(self, x):
    for kind, width in self.layers:
      same = nn.Conv(x.shape[-1], (3, 3))(x)
      if kind == "conv":
        x = nn.relu(nn.Conv(width, (3, 3))(x))
      elif kind == "strided":
        x = jnp.tanh(nn.Conv(width, (2, 2), strides=2)(x))
      elif kind == "skip":
        x = nn.BatchNorm(use_running_average=True)(x + same)
      elif kind == "concat":
        x = jnp.concatenate([nn.Conv(width, (1, 1))(x), nn.gelu(x)], axis=-1)
      else:
        depth = x.shape[-1]
        x = nn.Conv(2 * depth, (3, 3), feature_group_count=depth)(x)
    x = nn.max_pool(x, (2, 2), padding="SAME")
    return nn.Dense(3)(x.reshape(x.shape[0], -1))
