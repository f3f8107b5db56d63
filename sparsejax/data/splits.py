"""Splits in memory, small enough to live on a device."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

Array = jax.Array | np.ndarray


@runtime_checkable
class Resident(Protocol):
  """A split in memory: a tree of arrays that knows its examples."""

  @property
  def examples(self) -> int:
    """Number of examples N."""
    ...

  @property
  def example(self) -> Any:
    """A blank batch of one example, for shape inference."""
    ...

  def take(self, index: Any, /) -> Any:
    """Returns the examples at int[B] positions in [0, N), for `Task.draw`."""
    ...


class Split(NamedTuple):
  """Labeled images.

  Attributes:
    images: uint8[N, H, W, C], numpy or jax.
    labels: int32[N] in [0, K).
  """

  images: Array
  labels: Array

  @property
  def examples(self) -> int:
    """Number of examples N."""
    return self.labels.shape[0]

  @property
  def example(self) -> "Split":
    """One blank image of label 0."""
    return blank(self)

  @property
  def image_shape(self) -> tuple[int, ...]:
    """Height, width and channels."""
    return self.images.shape[1:]

  def take(self, index: Array) -> "Split":
    """Returns the images and labels at some positions."""
    return Split(_take(self.images, index), _take(self.labels, index))


class Rows(NamedTuple):
  """Examples of any kind, for a task of one's own.

  Attributes:
    arrays: tree of arrays with a leading axis of N examples.
  """

  arrays: PyTree

  @property
  def examples(self) -> int:
    """Number of examples N."""
    return jax.tree.leaves(self.arrays)[0].shape[0]

  @property
  def example(self) -> Any:
    """The arrays of one example, of zeros."""
    return blank(self.arrays)

  def take(self, index: Array) -> Any:
    """Returns the arrays at some positions, without `Rows` around them."""
    return jax.tree.map(lambda x: _take(x, index), self.arrays)


def blank(examples: PyTree) -> Any:
  """Returns zeros like one example of a tree of arrays [N, ...]."""
  return jax.tree.map(lambda x: np.zeros((1, *x.shape[1:]), x.dtype), examples)


def _take(array: Array, index: Array) -> Array:
  if isinstance(array, np.ndarray) and isinstance(index, np.ndarray):
    return array[index]  # On the host.
  return jnp.asarray(array)[index]
