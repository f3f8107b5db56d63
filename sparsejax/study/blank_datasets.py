"""Data sets of the right shape without data, to build an experiment with."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsejax.data import Dataset, Stream, augment, labeled_images


def blank(section: Mapping[str, Any]) -> Dataset | None:
  """Make a data set of the right size that holds no images.

  Args:
    section: `data` of a resolved config.

  Returns:
    The data set; `None` if the real one needs no files.
  """
  make = _BLANK.get(section["name"])
  return None if make is None else make(section)


def _cifar(classes: int, section: Mapping[str, Any]) -> Dataset:
  train = section["train_examples"]
  return _dataset(train, 10_000, 50_000 - train, classes, 32)


def _imagenet(section: Mapping[str, Any]) -> Dataset:
  return _dataset(1_281_167, 50_000, 0, 1000, section["image_size"])


_BLANK = {
  "cifar10": functools.partial(_cifar, 10),
  "cifar100": functools.partial(_cifar, 100),
  "imagenet": _imagenet,
}


def _dataset(
  train: int, test: int, validation: int, classes: int, size: int
) -> Dataset:
  def part(examples: int) -> Stream:
    return Stream(range(examples), _refuse_to_read, (size, size, 3), classes)

  return labeled_images(
    train=part(train),
    test=part(test),
    classes=classes,
    mean=0.0,
    std=1.0,
    augment=augment.identity,
    validation=part(validation) if validation else None,
  )


def _refuse_to_read(record: Any, random: np.random.Generator) -> Any:
  raise AssertionError("A blank data set holds no images.")
