"""`Dataset`: splits, and the task that they are for."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from sparsejax import command_line
from sparsejax.data.augment import Augment
from sparsejax.data.splits import Array, Resident, Split
from sparsejax.data.streams import Stream
from sparsejax.tasks import Task, image_classification


class Dataset(NamedTuple):
  """The splits of a data set, and what is trained with them.

  A `Resident` split is replicated on every device; a `Stream` is decoded on the
  fly.

  Attributes:
    train: the training split.
    test: the test split.
    task: what is trained.
    provided: sizes that models and methods take from the data: `classes`, the
      number of classes K, or `vocabulary`, the number of tokens.
    validation: held out of the training split, for performance-driven methods
      and for model selection; `None` without one.
    train_sample: what stands for a long training split when a run ends and
      evaluates it; `None` for the whole split.
  """

  train: Resident | Stream
  test: Resident | Stream
  task: Task
  provided: Mapping[str, int]
  validation: Resident | Stream | None = None
  train_sample: Resident | None = None

  @property
  def example(self) -> Any:
    """A blank batch of one example, for shape inference."""
    return self.train.example


def labeled_images(
  train: Split | Stream,
  test: Split | Stream,
  *,
  classes: int,
  mean: Array | float,
  std: Array | float,
  augment: Augment,
  validation: Split | Stream | None = None,
) -> Dataset:
  """Make a data set for image classification.

  Args:
    train: the training split.
    test: the test split.
    classes: number of classes K, at least 1.
    mean: mean training pixel in uint8 units; broadcasts against an image.
    std: standard deviation of the training pixels, likewise.
    augment: augments a training batch, inside jit.
    validation: the validation split, or `None`.

  Returns:
    The data set. Labels in memory are checked; a stream checks each label that
    it reads.

  Raises:
    InputError: if a label is not in [0, K), of which the message names the
      example, or if a stream has another K.
  """
  splits = {"train": train, "validation": validation, "test": test}
  for name, split in splits.items():
    _check_labels(name, split, classes)
  return Dataset(
    train=train,
    test=test,
    task=image_classification(mean=mean, std=std, augment=augment),
    provided={"classes": classes},
    validation=validation,
  )


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
    jax.tree.map(lambda x: x[:remaining], split),
    jax.tree.map(lambda x: x[remaining:], split),
  )


def _check_labels(
  name: str, split: Split | Stream | None, classes: int
) -> None:
  """Raises `InputError` if a label, or K of a stream, does not fit."""
  if isinstance(split, Stream) and split.classes != classes:
    raise command_line.InputError(
      f"`classes` of the stream {name!r} must be {classes}, as that of the data"
      f" set, got {split.classes}."
    )
  if isinstance(split, Split):
    labels = split.labels
    valid = (labels >= 0) & (labels < classes)
    if not valid.all():
      first = valid.argmin()
      raise command_line.InputError(
        f"Example {first} of the split {name!r}: labels must be in [0,"
        f" {classes}), got {labels[first]}. Correct the label, or `classes`."
      )
