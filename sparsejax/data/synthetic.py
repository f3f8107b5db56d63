"""Synthetic images that a model can learn, for smoke tests without any data.

An image is the coarse random pattern of its class plus noise.
"""

import functools

import numpy as np

from sparsejax.data import augment
from sparsejax.data.dataset import Dataset, labeled_images
from sparsejax.data.imagenet import center_crop, random_crop
from sparsejax.data.splits import Split
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
  """Generate a data set; it is always the same one.

  Args:
    num_classes: number of classes K, at least 2.
    size: height and width of an image, a multiple of 4.
    train_examples: number of training images, at least K.
    test_examples: number of test images, at least K.
    validation_examples: number of validation images, in addition to the
      training images.
    streamed: whether to encode the images as JPEG, slightly larger than `size`,
      and stream them like ImageNet.

  Returns:
    The data set.

  Raises:
    ValueError: if an argument is out of range.
  """
  if (
    num_classes < 2
    or min(train_examples, test_examples) < num_classes
    or validation_examples < 0
  ):
    raise ValueError(
      "`num_classes` must be at least 2, `train_examples` and `test_examples`"
      " at least `num_classes`, and `validation_examples` at least 0, got"
      f" {num_classes}, {train_examples}, {test_examples} and"
      f" {validation_examples}."
    )
  if size < _PATCHES or size % _PATCHES:
    raise ValueError(
      f"`size` must be a positive multiple of {_PATCHES}, got {size}."
    )
  encoded_size = size + size // _PATCHES
  encoded_size += -encoded_size % _PATCHES
  random = np.random.RandomState(_SEED)  # Frozen, unlike default_rng.
  patterns = random.uniform(64, 192, (num_classes, _PATCHES, _PATCHES, 3))
  counts = {
    "train": train_examples,
    "test": test_examples,
    "validation": validation_examples,
  }
  generated = {
    name: _generate(random, patterns, count, encoded_size if streamed else size)
    for name, count in counts.items()
    if count
  }
  splits: dict[str, Split | Stream] = dict(generated)
  if streamed:
    splits = _streamed(generated, encoded_size, size, num_classes)
  return labeled_images(
    train=splits["train"],
    test=splits["test"],
    classes=num_classes,
    mean=128.0,
    std=64.0,
    augment=augment.identity if streamed else augment.crop_and_flip(),
    validation=splits.get("validation"),
  )


def _generate(
  random: np.random.RandomState, patterns: np.ndarray, count: int, size: int
) -> Split:
  """Returns noisy patterns; labels cycle through the classes."""
  labels = (np.arange(count) % len(patterns)).astype(np.int32)
  patch = np.ones((size // _PATCHES, size // _PATCHES, 1))
  clean = np.stack([np.kron(pattern, patch) for pattern in patterns])
  noise = random.normal(0, _NOISE, (count, size, size, 3))
  images = np.clip(clean[labels] + noise, 0, 255).astype(np.uint8)
  return Split(images, labels)


def _streamed(
  splits: dict[str, Split], resize: int, size: int, classes: int
) -> dict[str, Split | Stream]:
  """Returns the splits as streams of JPEG images, cropped like ImageNet's."""
  train = functools.partial(random_crop, size)
  test = functools.partial(center_crop, resize, size)
  return {
    name: Stream(
      _encode(split),
      train if name == "train" else test,
      (size, size, 3),
      classes,
    )
    for name, split in splits.items()
  }


def _encode(split: Split) -> list[dict[str, bytes | int]]:
  """Returns the examples as records with a JPEG image each."""
  from sparsejax.data import images

  return [
    {"image": images.encode(np.asarray(image), "jpeg"), "label": int(label)}
    for image, label in zip(split.images, split.labels, strict=True)
  ]
