"""CIFAR-10 and CIFAR-100: 60,000 color images of 32x32 pixels.

Read from a folder in the format of TensorFlow Datasets, which `python -m
sparsejax.data.prepare` writes.
"""

import concurrent.futures
import functools
import os
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from sparsejax.data import augment as augments, records, tfds_folders
from sparsejax.data.dataset import Dataset, hold_out, labeled_images
from sparsejax.data.splits import Array, Split

_SIZE = (32, 32)
_FEATURES = {"id": bytes, "image": bytes, "label": int}
# The ids of TensorFlow Datasets, which shuffles the examples when it writes.
_OFFICIAL_ID = re.compile(rb"(?:train|test)_(\d+)")
_CHUNK = 1000


class _Variant(NamedTuple):
  """What sets CIFAR-10 and CIFAR-100 apart.

  Attributes:
    name: name in TensorFlow Datasets.
    classes: number of classes K.
    mean: channel means of pixels in [0, 1].
    std: channel standard deviations of the same.
  """

  name: str
  classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]


# Channel statistics of GraNet's data loaders. The deviations for CIFAR-10 are
# not those of its pixels (.2470 .2435 .2616), but the published results were
# obtained with them.
_CIFAR10 = _Variant(
  "cifar10", 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
)
_CIFAR100 = _Variant(
  "cifar100",
  100,
  (0.507076, 0.486549, 0.440918),
  (0.267334, 0.256438, 0.276150),
)


def cifar10(
  *,
  path: str = "",
  train_examples: int = 45_000,
  augment: str = "crop",
  padding: str = "reflect",
  per_pixel: bool = False,
) -> Dataset:
  """Load CIFAR-10.

  Args:
    path: folder that contains `cifar10/VERSION`; "" looks in $TFDS_DATA_DIR and
      ~/tensorflow_datasets.
    train_examples: size of the training split: the first examples of the
      50,000, in the order of the original archive if the ids give it. The rest
      is the validation split. GraNet's code trains on 45,000.
    augment: "crop" (pad by 4, crop and flip), "affine" (rotate by up to 10
      degrees, shift by up to a tenth and flip, as for SET's MLP) or "none".
    padding: "reflect" or "zero", for "crop".
    per_pixel: whether to standardize every pixel of every channel by its own
      mean and std over the training split, as for SET's MLP, instead of each
      channel by the constants of the papers' code.

  Returns:
    The data set, with 10,000 test images.

  Raises:
    ValueError: if it is not on disk, is damaged, or an argument is out of
      range.
  """
  return _cifar(
    _CIFAR10,
    path=path,
    train_examples=train_examples,
    augment=augment,
    padding=padding,
    per_pixel=per_pixel,
  )


def cifar100(
  *,
  path: str = "",
  train_examples: int = 50_000,
  augment: str = "crop",
  padding: str = "zero",
  per_pixel: bool = False,
) -> Dataset:
  """Load CIFAR-100, with its 100 fine labels.

  Args:
    path: as in `cifar10`; the folder contains `cifar100/VERSION`.
    train_examples: as in `cifar10`; GraNet's code trains on all 50,000.
    augment: as in `cifar10`.
    padding: as in `cifar10`.
    per_pixel: as in `cifar10`.

  Returns:
    The data set, with 10,000 test images.

  Raises:
    ValueError: as in `cifar10`.
  """
  return _cifar(
    _CIFAR100,
    path=path,
    train_examples=train_examples,
    augment=augment,
    padding=padding,
    per_pixel=per_pixel,
  )


def _cifar(
  variant: _Variant,
  *,
  path: str,
  train_examples: int,
  augment: str,
  padding: str,
  per_pixel: bool,
) -> Dataset:
  augmentation = _augmentation(augment, padding)
  hint = (
    f"Prepare it with `python -m sparsejax.data.prepare {variant.name}"
    " --download` (or --archive=FILE), or set `path` to the folder that"
    " contains it."
  )
  folder = tfds_folders.find(variant.name, path, hint=hint)
  original = read(folder, "train", variant.classes)
  examples = original.examples
  if not 0 < train_examples <= examples:
    raise ValueError(
      f"`train_examples` must be in [1, {examples}], got {train_examples}."
    )
  train, validation = hold_out(original, examples - train_examples)
  mean, std = (
    _pixel_statistics(train) if per_pixel else _channel_statistics(variant)
  )
  return labeled_images(
    train=train,
    test=read(folder, "test", variant.classes),
    classes=variant.classes,
    mean=mean,
    std=std,
    augment=augmentation,
    validation=validation,
  )


def _augmentation(name: str, padding: str) -> augments.Augment:
  known = {
    "crop": augments.crop_and_flip(padding=padding),
    "affine": augments.rotate_shift_flip(),
    "none": augments.identity,
  }
  if name not in known:
    raise ValueError(
      f"`augment` must be one of {', '.join(known)}, got {name!r}."
    )
  return known[name]


# A sweep over seeds or table rows builds many experiments in one process.
@functools.lru_cache(maxsize=4)
def read(folder: pathlib.Path, split: str, classes: int) -> Split:
  """Read and decode one split.

  Args:
    folder: as returned by `tfds_folders.find`.
    split: "train" or "test".
    classes: number of classes; labels must be smaller.

  Returns:
    The images in the order of the original archive if the ids give it, else of
    the folder. The arrays are cached and read-only.

  Raises:
    InputError: if a file is missing or damaged, or contains something else.
  """
  examples = tfds_folders.open_split(folder, split, _FEATURES)
  images, labels, ids = _decode(examples, classes)
  order = _original_order(ids)
  images, labels = images[order], labels[order]
  images.flags.writeable = labels.flags.writeable = False
  return Split(images, labels)


def _decode(
  examples: tfds_folders.Examples, classes: int
) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
  """Returns images, labels and ids; Pillow decodes on all cores."""
  from sparsejax.data import images  # Needs Pillow, which digits do not.

  def decode(example: dict[str, Any]) -> tuple[np.ndarray, int, bytes]:
    label = records.check_label(example["label"], classes)
    return images.decode(example["image"], _SIZE), label, example["id"]

  def decode_chunk(start: int) -> list[tuple[np.ndarray, int, bytes]]:
    stop = min(start + _CHUNK, len(examples))
    return [records.read(examples, i, decode) for i in range(start, stop)]

  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    chunks = list(pool.map(decode_chunk, range(0, len(examples), _CHUNK)))
  pixels, labels, ids = zip(
    *(example for chunk in chunks for example in chunk), strict=True
  )
  return np.stack(pixels), np.array(labels, np.int32), list(ids)


def _original_order(ids: list[bytes]) -> np.ndarray:
  """Returns int[N], the permutation to the order of the original archive."""
  matches = [_OFFICIAL_ID.fullmatch(name) for name in ids]
  if not all(matches):
    return np.arange(len(ids))
  numbers = [int(match[1]) for match in matches if match]
  return np.argsort(numbers, kind="stable")


def _channel_statistics(variant: _Variant) -> tuple[Array, Array]:
  """Returns float32[C] means and deviations, in uint8 units."""
  mean, std = np.array(variant.mean), np.array(variant.std)
  return (255 * mean).astype(np.float32), (255 * std).astype(np.float32)


def _pixel_statistics(train: Split) -> tuple[Array, Array]:
  """Returns float32[H, W, C] means and deviations; a zero deviation is 1."""
  mean = train.images.mean(0, dtype=np.float64)
  std = train.images.std(0, dtype=np.float64)
  return mean.astype(np.float32), np.where(std == 0, 1, std).astype(np.float32)
