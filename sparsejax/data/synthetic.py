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
  streamed: bool = False,
) -> Dataset:
  """Make a data set; it is the same every time.

  Args:
    num_classes: K, at least 2.
    size: height and width of an image, a multiple of 4.
    train_examples: images to train on, at least K.
    test_examples: images to test on, at least K.
    streamed: whether images are kept as JPEG files in memory, slightly larger
      than `size`, and stream like those of ImageNet.

  Returns:
    The data set.

  Raises:
    ValueError: if a number is out of range.
  """
  if num_classes < 2 or min(train_examples, test_examples) < num_classes:
    raise ValueError(
      "`num_classes` must be at least 2 and `train_examples` and"
      f" `test_examples` not below it, got {num_classes}, {train_examples} and"
      f" {test_examples}."
    )
  if size < _PATCHES or size % _PATCHES:
    raise ValueError(
      f"`size` must be a positive multiple of {_PATCHES}, got {size}."
    )
  random = np.random.RandomState(_SEED)  # Its streams are frozen.
  patterns = random.uniform(64, 192, (num_classes, _PATCHES, _PATCHES, 3))
  make = functools.partial(_draw, random, patterns)
  if not streamed:
    return Dataset(
      train=make(train_examples, size),
      test=make(test_examples, size),
      classes=num_classes,
      mean=128.0,
      std=64.0,
      augment=augment.crop_and_flip(),
    )
  larger = size + size // _PATCHES
  larger += -larger % _PATCHES
  shape = (size, size, 3)
  return Dataset(
    train=Stream(
      _encoded(make(train_examples, larger)),
      functools.partial(read_train, size),
      shape,
    ),
    test=Stream(
      _encoded(make(test_examples, larger)),
      functools.partial(read_test, larger, size),
      shape,
    ),
    classes=num_classes,
    mean=128.0,
    std=64.0,
    augment=augment.nothing,
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
