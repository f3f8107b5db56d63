"""Windows of successive tokens, as examples."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax import command_line
from sparsejax.data.dataset import Dataset
from sparsejax.data.splits import Array
from sparsejax.tasks import next_token

# Positions are int32 on the device.
_MAX_TOKENS = 2**31 - 1


class Windows(NamedTuple):
  """Tokens, of which example i is the window that begins at i T.

  A window of a training split has 2 T tokens, of which the task draws T + 1
  successive ones at random; one of other splits has T + 1.

  Attributes:
    tokens: integers[n], numpy (also memory-mapped) or jax.
    begins: int32[T], an array whose length is the distance of two windows, so
      that it is static.
    offsets: int32[W], the positions in a window of W tokens.
  """

  tokens: Array
  begins: Array
  offsets: Array

  @property
  def examples(self) -> int:
    """Number of windows N."""
    width, stride = self.offsets.shape[0], self.begins.shape[0]
    return max(0, (self.tokens.shape[0] - width) // stride + 1)

  @property
  def example(self) -> np.ndarray:
    """One window of zeros, [1, W]."""
    return np.zeros((1, self.offsets.shape[0]), self.tokens.dtype)

  def take(self, index: Any) -> Array:
    """Returns the windows at some positions, [B, W]."""
    positions = index[:, None] * self.begins.shape[0] + self.offsets
    if isinstance(self.tokens, np.ndarray) and isinstance(index, np.ndarray):
      return self.tokens[positions]
    return jnp.asarray(self.tokens)[positions]


def token_dataset(
  tokens: Mapping[str, np.ndarray],
  *,
  vocabulary: int,
  context: int,
  bytes_per_token: float = 1.0,
) -> Dataset:
  """Make a data set for next-token prediction.

  Args:
    tokens: integers[n] of the splits "train", "test" and maybe "validation".
    vocabulary: number of tokens; all token numbers are below it.
    context: tokens T that the model reads at once, at least 1.
    bytes_per_token: mean bytes of a token, above 0.

  Returns:
    The data set. At the end of a run the training split is evaluated on as many
    of its windows as the test split has.

  Raises:
    InputError: if a split has too few tokens for one window, or too many.
  """
  splits = {
    name: windows(found, name=name, context=context, train=name == "train")
    for name, found in tokens.items()
  }
  return Dataset(
    **splits,
    task=next_token(context=context, bytes_per_token=bytes_per_token),
    provided={"vocabulary": vocabulary},
    train_sample=sample(splits["train"], splits["test"].examples),
  )


def windows(
  tokens: np.ndarray, *, name: str, context: int, train: bool
) -> Windows:
  """Make a split of tokens.

  Args:
    tokens: integers[n].
    name: of the split, for messages.
    context: tokens T that a model reads at once, at least 1.
    train: whether it is for training.

  Returns:
    The split.

  Raises:
    InputError: if there are too few tokens for one window, or too many.
  """
  width = 2 * context if train else context + 1
  if not width <= len(tokens) <= _MAX_TOKENS:
    raise command_line.InputError(
      f"The split {name!r} must have {width} to {_MAX_TOKENS} tokens for a"
      f" context of {context}, got {len(tokens)}. Give more text, or set"
      " `config.data.context`."
    )
  return _windows(tokens, stride=context, width=width)


def sample(split: Windows, count: int) -> Windows:
  """Copy windows at equal distances, to evaluate a long split by a part of it.

  Args:
    split: N windows at distances of T tokens, in numpy.
    count: number of windows to copy, at least 1.

  Returns:
    min(count, N) windows of T + 1 tokens; window i of n is that at i N // n.
  """
  context, count = split.begins.shape[0], min(count, split.examples)
  chosen = np.arange(count) * split.examples // count
  positions = chosen[:, None] * context + np.arange(context + 1)
  copied = np.asarray(split.tokens)[positions].reshape(-1)
  return _windows(copied, stride=context + 1, width=context + 1)


def _windows(tokens: np.ndarray, *, stride: int, width: int) -> Windows:
  return Windows(
    tokens, np.zeros(stride, np.int32), np.arange(width, dtype=np.int32)
  )
