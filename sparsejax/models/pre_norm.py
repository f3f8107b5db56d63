"""The blocks of a transformer, with a norm before each of their two layers."""

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


def apply_blocks(
  x: jax.Array,
  depth: int,
  *,
  norm: Make,
  attention: Make,
  feed_forward: Make,
  remat: bool,
) -> jax.Array:
  """Apply blocks and a last norm, in the call of a compact module.

  The parameters `blocks` of the module have a leading axis of `depth`, and one
  block is compiled for all; those of the last norm are `norm`.

  Args:
    x: float[B, T, D].
    depth: number of blocks.
    norm: makes each norm.
    attention: makes the attention of a block, given its name.
    feed_forward: makes its feed-forward layer, likewise.
    remat: whether the backward pass computes each block again.

  Returns:
    float[B, T, D].
  """
  stacked = nn.scan(
    nn.remat(Block, prevent_cse=False) if remat else Block,
    variable_axes={"params": 0},
    split_rngs={"params": True, "dropout": True},
    length=depth,
  )
  blocks = stacked(norm, attention, feed_forward, name="blocks")
  x, _ = blocks(x, None)
  return norm(name="norm")(x)
