"""Small data sets on disk, whole or damaged."""

import contextlib
import os
import pathlib

import numpy as np

from sparsejax.data import cifar10, imagenet, images, streams, tfds_writer

EXAMPLES, SHARDS = {"train": 12, "test": 6}, 2
NAMES = ("cifar10", "imagenet2012")
_CLASSES = {"cifar10": 10, "imagenet2012": 1000}
_KINDS = {"cifar10": "png", "imagenet2012": "jpeg"}
_VALIDATION = {"cifar10": "test", "imagenet2012": "validation"}


def write(root, name, change=lambda split, index, example: example):
  """Writes a data set and returns its folder.

  Args:
    root: folder of data sets.
    name: "cifar10" or "imagenet2012".
    change: (split, index, example) -> example; damages it.
  """
  classes = [f"class{i}" for i in range(_CLASSES[name])]
  features = {
    "id": tfds_writer.Feature("text"),
    "image": tfds_writer.Feature(_KINDS[name], shape=(32, 32, 3)),
    "label": tfds_writer.Feature("label", names=classes),
  }
  random = np.random.default_rng(3)
  splits = {
    split if split == "train" else _VALIDATION[name]: [
      change(split, index, example(random, split, index, _KINDS[name]))
      for index in range(count)
    ]
    for split, count in EXAMPLES.items()
  }
  folder = pathlib.Path(root) / name / "3.0.2"
  tfds_writer.write(folder, features, splits, description="", shards=SHARDS)
  return folder


def example(random, split, index, kind):
  pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
  return {
    "id": f"{split}_{index:05d}".encode(),
    "image": images.encode(pixels, kind),
    "label": index % 10,
  }


def load(folder, **kwargs):
  """Returns all pixels and labels of a data set."""
  path = str(folder.parent.parent)
  if folder.parent.name == "cifar10":
    return contents(cifar10(path=path, train_examples=EXAMPLES["train"]))
  return contents(imagenet(path=path, image_size=32, resize=32, **kwargs))


def contents(dataset):
  """Returns the bytes of the splits of a data set."""
  found = []
  for split in (dataset.train, dataset.test):
    if isinstance(split, streams.Stream):
      batches = streams.eval_batches(split, batch_size=6)
      found += [(b.images.tobytes(), b.labels.tobytes()) for b in batches]
    else:
      found.append((split.images.tobytes(), split.labels.tobytes()))
  return found


@contextlib.contextmanager
def ordinary_user():
  """Takes away the rights of the superuser, whom no mode of a file stops."""
  user = os.geteuid()
  if user == 0:
    os.seteuid(65_534)
  try:
    yield
  finally:
    os.seteuid(user)


def write_text(root, name, **splits):
  """Writes splits of one text each."""
  tfds_writer.write(
    pathlib.Path(root) / name / "1.0.0",
    {"text": tfds_writer.Feature("text")},
    {split: [{"text": text.encode()}] for split, text in splits.items()},
    description="",
    shards=1,
  )
