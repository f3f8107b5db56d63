"""`Dataset`: splits of labeled uint8 images, and their normalization."""

from typing import NamedTuple

import jax
import numpy as np

from sparsejax import command_line
from sparsejax.data.augment import Augment
from sparsejax.data.streams import Stream

Array = jax.Array | np.ndarray


class Split(NamedTuple):
  """Labeled images in memory, small enough to live on a device.

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
  """The splits of a data set, its normalization and its augmentation.

  A `Split` is replicated on every device; a `Stream` is decoded on the fly.

  Attributes:
    train: the training split.
    test: the test split.
    classes: number of classes K.
    mean: mean training pixel in uint8 units; broadcasts against an image.
    std: standard deviation of the training pixels, likewise.
    augment: augments a training batch, inside jit.
    validation: held out of the training split, for performance-driven methods
      and for model selection; `None` without one.
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
    """A blank batch of one image, uint8[1, H, W, C], for shape inference."""
    return np.zeros((1, *self.train.image_shape), np.uint8)


def check_labels(dataset: Dataset) -> Dataset:
  """Check the labels in memory; a stream checks each label that it reads.

  Args:
    dataset: the splits to check.

  Returns:
    The data set.

  Raises:
    InputError: if a label is not in [0, K), of which the message names the
      example, or if a stream has another K.
  """
  for name in ("train", "validation", "test"):
    split = getattr(dataset, name)
    if isinstance(split, Stream) and split.classes != dataset.classes:
      raise command_line.InputError(
        f"`classes` of the stream {name!r} must be {dataset.classes}, as that"
        f" of the data set, got {split.classes}."
      )
    if isinstance(split, Split):
      labels = np.asarray(split.labels)
      valid = (labels >= 0) & (labels < dataset.classes)
      if not valid.all():
        first = valid.argmin()
        raise command_line.InputError(
          f"Example {first} of the split {name!r}: labels must be in [0,"
          f" {dataset.classes}), got {labels[first]}. Correct the label, or"
          " `classes`."
        )
  return dataset


def hold_out(split: Split, count: int) -> tuple[Split, Split | None]:
  """Split off the last examples.

  Args:
    split: N examples.
    count: number of examples to hold out, in [0, N).

  Returns:
    The remaining examples, and the held-out ones (`None` if `count` is 0).

  Raises:
    ValueError: if `count` is out of range.
  """
  remaining = split.examples - count
  if not 0 < remaining <= split.examples:
    raise ValueError(
      f"`validation` must be in [0, {split.examples}), got {count}."
    )
  if not count:
    return split, None
  return (
    Split(split.images[:remaining], split.labels[:remaining]),
    Split(split.images[remaining:], split.labels[remaining:]),
  )
