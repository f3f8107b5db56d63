"""What a data set is: parts of labelled uint8 images, and how to read them."""

from typing import NamedTuple

import jax
import numpy as np

from sparsejax.data.augment import Augment
from sparsejax.data.streams import Stream

Array = jax.Array | np.ndarray


class Split(NamedTuple):
  """Images with their labels, small enough for a device.

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
  def image_shape(self) -> tuple[int, ...]:
    """Height, width and channels."""
    return self.images.shape[1:]


class Dataset(NamedTuple):
  """What is trained on and judged by, and how to read its pixels.

  A `Split` lies on every device as a whole, a `Stream` is decoded while it is
  used.

  Attributes:
    train: what the parameters are trained on.
    test: what they are judged on; never trained on.
    classes: number of classes K.
    mean: of the train pixels, in uint8 units; broadcasts against an image.
    std: standard deviation of the train pixels, likewise.
    augment: changes the images of a training batch, inside jit.
    validation: held out of `train`, for methods that follow an accuracy and
      for choices; `None` where nothing is held out.
  """

  train: Split | Stream
  test: Split | Stream
  classes: int
  mean: Array | float
  std: Array | float
  augment: Augment
  validation: Split | Stream | None = None

  @property
  def example(self) -> np.ndarray:
    """A blank batch of one, uint8[1, H, W, C], for shapes."""
    return np.zeros((1, *self.train.image_shape), np.uint8)


def hold_out(split: Split, count: int) -> tuple[Split, Split | None]:
  """Cut the last examples off a split.

  Args:
    split: N examples.
    count: how many to cut off, in [0, N).

  Returns:
    What is left, and what was cut off or `None` where that is nothing.

  Raises:
    ValueError: if `count` is out of range.
  """
  left = split.examples - count
  if not 0 < left <= split.examples:
    raise ValueError(
      f"`validation` must be in [0, {split.examples}), got {count}."
    )
  if not count:
    return split, None
  return (
    Split(split.images[:left], split.labels[:left]),
    Split(split.images[left:], split.labels[left:]),
  )
