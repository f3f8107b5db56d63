"""Made-up images that can be learned: nothing has to be on the disk.

For runs that only show that all works. The class is a coarse random pattern,
drawn once for each class, under noise.
"""

import functools

import numpy as np

from sparsejax.data import augment
from sparsejax.data.dataset import Dataset, Split
from sparsejax.data.imagenet import read_test, read_train
from sparsejax.data.streams import Stream

_SEED = 0
_NOISE = 40.0
_PATCHES = 4


def synthetic(
  *,
  num_classes: int = 10,
  size: int = 32,
  train_examples: int = 2_560,
  test_examples: int = 512,
  validation_examples: int = 0,
  streamed: bool = False,
) -> Dataset:
  """Make a data set; it is the same every time.

  Args:
    num_classes: K, at least 2.
    size: height and width of an image, a multiple of 4.
    train_examples: images to train on, at least K.
    test_examples: images to test on, at least K.
    validation_examples: images that are held out beside those to train on.
    streamed: whether images are kept as JPEG files in memory, slightly larger
      than `size`, and stream like those of ImageNet.

  Returns:
    The data set.

  Raises:
    ValueError: if a number is out of range.
  """
  if (
    num_classes < 2
    or min(train_examples, test_examples) < num_classes
    or validation_examples < 0
  ):
    raise ValueError(
      "`num_classes` must be at least 2, `train_examples` and `test_examples`"
      " not below it, and `validation_examples` not below 0, got"
      f" {num_classes}, {train_examples}, {test_examples} and"
      f" {validation_examples}."
    )
  if size < _PATCHES or size % _PATCHES:
    raise ValueError(
      f"`size` must be a positive multiple of {_PATCHES}, got {size}."
    )
  random = np.random.RandomState(_SEED)  # Its streams are frozen.
  patterns = random.uniform(64, 192, (num_classes, _PATCHES, _PATCHES, 3))
  larger = size + size // _PATCHES
  larger += -larger % _PATCHES
  drawn = {
    name: _draw(random, patterns, count, larger if streamed else size)
    for name, count in {
      "train": train_examples,
      "test": test_examples,
      "validation": validation_examples,
    }.items()
    if count
  }
  parts: dict[str, Split | Stream] = dict(drawn)
  if streamed:
    reads = {"train": functools.partial(read_train, size)}
    judged = functools.partial(read_test, larger, size)
    parts = {
      name: Stream(_encoded(part), reads.get(name, judged), (size, size, 3))
      for name, part in drawn.items()
    }
  return Dataset(
    train=parts["train"],
    test=parts["test"],
    classes=num_classes,
    mean=128.0,
    std=64.0,
    augment=augment.nothing if streamed else augment.crop_and_flip(),
    validation=parts.get("validation"),
  )


def _draw(
  random: np.random.RandomState, patterns: np.ndarray, count: int, size: int
) -> Split:
  """Returns images of all classes in turn."""
  labels = (np.arange(count) % len(patterns)).astype(np.int32)
  patch = np.ones((size // _PATCHES, size // _PATCHES, 1))
  clean = np.stack([np.kron(pattern, patch) for pattern in patterns])
  noise = random.normal(0, _NOISE, (count, size, size, 3))
  images = np.clip(clean[labels] + noise, 0, 255).astype(np.uint8)
  return Split(images, labels)


def _encoded(split: Split) -> list[dict[str, bytes | int]]:
  """Returns the examples as records of JPEG files."""
  from sparsejax.data import images

  return [
    {"image": images.encode(np.asarray(image), "jpeg"), "label": int(label)}
    for image, label in zip(split.images, split.labels, strict=True)
  ]
