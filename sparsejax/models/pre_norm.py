"""The block of a transformer, with a norm before each of its two layers."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

Make = Callable[..., Any]
"""name -> a layer that maps float[B, T, D] to float[B, T, D]."""


class Block(nn.Module):
  """x + attention(norm(x)), and then the same with a feed-forward layer.

  Attributes:
    norm: makes each norm.
    attention: makes the layer of this name.
    feed_forward: likewise.
  """

  norm: Make
  attention: Make
  feed_forward: Make

  @nn.compact
  def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
    """Returns float[B, T, D] of float[B, T, D], as `nn.scan` needs it."""
    attention = self.attention(name="attention")
    x = x + attention(self.norm(name="attention_norm")(x))
    feed_forward = self.feed_forward(name="feed_forward")
    return x + feed_forward(self.norm(name="feed_forward_norm")(x)), None
