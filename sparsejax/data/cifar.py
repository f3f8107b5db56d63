"""CIFAR-10 and CIFAR-100: 60,000 color images of 32 by 32 pixels.

Read from a folder in the format of TensorFlow Datasets, as `python -m
sparsejax.data.prepare` writes it.
"""

import concurrent.futures
import functools
import os
import pathlib
import re

import numpy as np

from sparsejax.data import augment as augments
from sparsejax.data import folders
from sparsejax.data.dataset import Array, Dataset, Split, hold_out

# Channel means and deviations as the papers' code has them (GraNet's loaders
# for CIFAR-10 and CIFAR-100); the deviations for CIFAR-10 are not those of its
# pixels (.2470 .2435 .2616), but what the published results were made with.
_MEAN_10, _STD_10 = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_MEAN_100 = (0.507076, 0.486549, 0.440918)
_STD_100 = (0.267334, 0.256438, 0.276150)
_SHAPE = (32, 32, 3)
# How TensorFlow Datasets names the examples that it shuffles when it writes.
_OFFICIAL_ID = re.compile(rb"(?:train|test)_(\d+)")
_CHUNK = 1000


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
    path: folder that holds `cifar10/VERSION`; "" looks in $TFDS_DATA_DIR and
      ~/tensorflow_datasets.
    train_examples: the first so many of the 50,000 are trained on and the
      others held out, in the order of the original archive where the folder
      tells it. GraNet's code trains on 45,000.
    augment: "crop" (padded by 4, and flipped), "affine" (rotated by up to 10
      degrees, shifted by up to a tenth, and flipped, as for SET's MLP) or
      "none".
    padding: "reflect" or "zero", for "crop".
    per_pixel: whether each pixel of each channel is standardized by its own
      statistics over the images that are trained on, as for SET's MLP,
      instead of the channels by the papers' constants.

  Returns:
    The data set: 10,000 images to test on.

  Raises:
    ValueError: if it is not on the disk, is damaged, or an argument is wrong.
  """
  return _cifar(
    "cifar10",
    10,
    (_MEAN_10, _STD_10),
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
    path: as of `cifar10`; the folder holds `cifar100/VERSION`.
    train_examples: as of `cifar10`; GraNet's code trains on all 50,000.
    augment: as of `cifar10`.
    padding: as of `cifar10`.
    per_pixel: as of `cifar10`.

  Returns:
    The data set: 10,000 images to test on.

  Raises:
    ValueError: as `cifar10` raises it.
  """
  return _cifar(
    "cifar100",
    100,
    (_MEAN_100, _STD_100),
    path=path,
    train_examples=train_examples,
    augment=augment,
    padding=padding,
    per_pixel=per_pixel,
  )


def _cifar(
  name: str,
  classes: int,
  statistics: tuple[tuple[float, ...], tuple[float, ...]],
  *,
  path: str,
  train_examples: int,
  augment: str,
  padding: str,
  per_pixel: bool,
) -> Dataset:
  augmentation = _augmentation(augment, padding)
  remedy = (
    f"Prepare it with `python -m sparsejax.data.prepare {name} --download`"
    " (or --archive=FILE), or give the folder that holds it as `path`."
  )
  folder = folders.find(name, path, remedy=remedy)
  everything = read(folder, "train", classes)
  examples = everything.examples
  if not 0 < train_examples <= examples:
    raise ValueError(
      f"`train_examples` must be in [1, {examples}], got {train_examples}."
    )
  train, validation = hold_out(everything, examples - train_examples)
  mean, std = _pixel_statistics(train) if per_pixel else _in_uint8(*statistics)
  return Dataset(
    train=train,
    test=read(folder, "test", classes),
    classes=classes,
    mean=mean,
    std=std,
    augment=augmentation,
    validation=validation,
  )


def _augmentation(name: str, padding: str) -> augments.Augment:
  known = {
    "crop": augments.crop_and_flip(padding=padding),
    "affine": augments.rotate_shift_flip(),
    "none": augments.nothing,
  }
  if name not in known:
    raise ValueError(
      f"`augment` must be one of {', '.join(known)}, got {name!r}."
    )
  return known[name]


# A search over seeds or rows builds many experiments in one process.
@functools.lru_cache(maxsize=4)
def read(folder: pathlib.Path, split: str, classes: int) -> Split:
  """Read and decode one split.

  Args:
    folder: as `folders.find` gives it.
    split: "train" or "test".
    classes: labels must be below it.

  Returns:
    The images in the order of the original archive where ids tell it, and of
    the folder otherwise. The arrays are shared: they cannot be written.

  Raises:
    ValueError: if the folder is damaged or holds something else.
  """
  source = folders.records(folder, split, raw=["image"])
  if not len(source):
    raise ValueError(f"The split {split!r} in {folder} is empty.")
  try:
    images, labels, ids = _decoded(source)
  except (OSError, RuntimeError, IndexError) as error:
    raise ValueError(
      f"{folder} cannot be read: {error}. Remove it and prepare it again."
    ) from error
  if images.shape[1:] != _SHAPE or not 0 <= labels.min() <= labels.max() < (
    classes
  ):
    raise ValueError(
      f"{folder} must hold images of {_SHAPE} and labels below {classes}, got"
      f" images of {images.shape[1:]} and labels in [{labels.min()},"
      f" {labels.max()}]."
    )
  order = _original_order(ids)
  images, labels = images[order], labels[order]
  images.flags.writeable = labels.flags.writeable = False
  return Split(images, labels)


def _decoded(
  source: folders.Source,
) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
  """Returns images, labels and ids; Pillow decodes in all cores at once."""
  from sparsejax.data import images  # It needs Pillow; digits need none of it.

  def part(start: int) -> list[tuple[np.ndarray, int, bytes]]:
    stop = min(start + _CHUNK, len(source))
    return [
      (images.decode(example["image"]), example["label"], example["id"])
      for example in source.__getitems__(list(range(start, stop)))
    ]

  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    parts = list(pool.map(part, range(0, len(source), _CHUNK)))
  pixels, labels, ids = zip(
    *(row for rows in parts for row in rows), strict=True
  )
  return np.stack(pixels), np.array(labels, np.int32), list(ids)


def _original_order(ids: list[bytes]) -> np.ndarray:
  """Returns int[N], the order in which the archive held the examples."""
  found = [_OFFICIAL_ID.fullmatch(name) for name in ids]
  if not all(found):
    return np.arange(len(ids))
  return np.argsort([int(match[1]) for match in found if match], kind="stable")


def _in_uint8(
  mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
  return (
    (255 * np.array(mean)).astype(np.float32),
    (255 * np.array(std)).astype(np.float32),
  )


def _pixel_statistics(train: Split) -> tuple[Array, Array]:
  """Returns float32[H, W, C] means and deviations; no deviation is 0."""
  mean = train.images.mean(0, dtype=np.float64)
  std = train.images.std(0, dtype=np.float64)
  return mean.astype(np.float32), np.where(std == 0, 1, std).astype(np.float32)
