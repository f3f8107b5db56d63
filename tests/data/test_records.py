"""Records: one line names the record of a file, and what is wrong with it."""

import os

import jax
import numpy as np
import pytest
from helpers import data_folders, streamed

from sparsejax import command_line, train
from sparsejax.data import (
  Split,
  Stream,
  augment,
  digits,
  imagenet,
  images,
  labeled_images,
  records,
  streams,
  synthetic,
)

BOTH = pytest.mark.parametrize("name", data_folders.NAMES)
# The labels of both data sets, and what is beyond the labels of both.
LABELS = [-1, 1000, 2**31, 2**32, -(2**63), 2**63 - 1]
CUT = images.encode(np.zeros((32, 32, 3), np.uint8), "jpeg")[:-60]
FAULTS = {
  **{f"label {label}": ({"label": label}, f"got {label}.") for label in LABELS},
  "a label that is text": ({"label": b"3"}, "'label' must be one int, got 0"),
  "an image that is a number": (
    {"image": 3},
    "'image' must be one bytes, got 0",
  ),
  "an empty image": ({"image": b""}, "its 0 bytes are neither a JPEG nor"),
  "a cut image": ({"image": CUT}, "cannot be decoded"),
}


def message_of(call):
  with pytest.raises(command_line.InputError) as caught:
    call()
  assert "\n" not in str(caught.value)
  return str(caught.value)


def changing(damaged, position, values):
  """Returns what changes one example of a split of a new folder."""

  def change(split, index, example):
    return (
      example | values if (split, index) == (damaged, position) else example
    )

  return change


@BOTH
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
  ("split", "position", "record"), [("train", 7, 1), ("test", 2, 2)]
)
def test_a_bad_record_is_named(tmp_path, name, fault, split, position, record):
  values, problem = FAULTS[fault]
  change = changing(split, position, values)
  folder = data_folders.write(tmp_path, name, change)
  message = message_of(lambda: data_folders.load(folder))
  shard = 1 if split == "train" else 0
  named = split if name == "cifar10" else split.replace("test", "validation")
  file = sorted(folder.glob(f"*-{named}.*"))[shard]
  assert message.startswith(f"record {record} of {file}: ")
  assert problem in message and records.REMEDY in message


@BOTH
@pytest.mark.parametrize("feature", ["image", "label"])
def test_a_record_without_a_feature_is_named(tmp_path, name, feature):
  def change(split, index, example):
    del split, index  # All of them.
    return {key: example[key] for key in example if key != feature}

  folder = data_folders.write(tmp_path, name, change)
  message = message_of(lambda: data_folders.load(folder))
  assert f"{feature!r} must be one" in message and "record 0 of " in message


@BOTH
def test_a_record_that_is_no_example_is_named(tmp_path, name):
  from array_record.python import array_record_module

  folder = data_folders.write(tmp_path, name)
  file = min(folder.glob("*-train.*"))
  writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1")
  for _ in range(6):
    writer.write(b"\xff not an example")
  writer.close()
  message = message_of(lambda: data_folders.load(folder))
  assert message.startswith(f"record 0 of {file}: it is not a `tf.train.Exam")


@pytest.mark.parametrize("damage", ["removed", "cut", "emptied"])
def test_a_file_that_changes_after_it_was_opened_is_named(tmp_path, damage):
  folder = data_folders.write(tmp_path, "imagenet2012")
  dataset = imagenet(path=str(tmp_path), image_size=8, resize=8)
  file = max(folder.glob("*-train.*"))
  if damage == "removed":
    file.unlink()
  else:
    os.truncate(file, file.stat().st_size // 2 if damage == "cut" else 0)
  message = message_of(lambda: data_folders.contents(dataset))
  assert f" of {file}: " in message and records.REMEDY in message


# Worker processes take seconds to start.
@pytest.mark.parametrize(
  ("batches", "workers"), [("train", 0), ("eval", 0), ("train", 1)]
)
def test_errors_leave_threads_and_worker_processes(tmp_path, batches, workers):
  change = changing("train", 7, {"label": 1000})
  folder = data_folders.write(tmp_path, "imagenet2012", change)
  dataset = imagenet(
    path=str(tmp_path), image_size=8, resize=8, workers=workers
  )
  read = {
    "train": lambda: streams.train_batches(
      dataset.train, seed=0, batch_size=4, first_batch=0
    ),
    "eval": lambda: streams.eval_batches(dataset.train, batch_size=4),
  }[batches]

  def three_batches():
    iterator = read()
    for _ in range(3):
      next(iterator)

  message = message_of(three_batches)
  assert "record 1 of " in message and str(folder) in message


@pytest.mark.parametrize("label", LABELS)
def test_a_stream_of_any_sequence_names_the_position(label):
  stream = Stream([3, label], read_label, (1, 1, 3), 10)
  batches = streams.eval_batches(stream, batch_size=1)
  assert next(batches).labels == [3]
  message = message_of(lambda: next(batches))
  assert message.startswith(f"record 1: labels must be in [0, 10), got {label}")


def read_label(record, random):
  del random  # Unused.
  return np.zeros((1, 1, 3), np.uint8), record


def message_of_splits(dataset, classes, **splits):
  """The error of a data set with other splits."""
  chosen = {
    name: splits.get(name, getattr(dataset, name))
    for name in ("train", "test", "validation")
  }
  return message_of(
    lambda: labeled_images(
      **chosen, classes=classes, mean=0.0, std=1.0, augment=augment.identity
    )
  )


@pytest.mark.parametrize("where", ["train", "validation", "test"])
@pytest.mark.parametrize("label", [-1, 10, 2**31 - 1])
def test_labels_in_memory_are_checked_before_training(where, label):
  dataset = digits(validation=30)
  split = getattr(dataset, where)
  labels = split.labels.copy()
  labels[17] = label
  changed = {where: Split(split.images, labels)}
  message = message_of_splits(dataset, 10, **changed)
  assert f"Example 17 of the split {where!r}" in message
  assert f"labels must be in [0, 10), got {label}" in message


def test_labels_on_a_device_are_checked_as_well():
  dataset = synthetic(num_classes=3, size=8, train_examples=9, test_examples=3)
  labels = jax.numpy.asarray(dataset.train.labels) + 1
  changed = Split(dataset.train.images, labels)
  assert "Example 2 of" in message_of_splits(dataset, 3, train=changed)


def test_a_stream_has_the_classes_of_the_data_set():
  dataset = synthetic(num_classes=3, size=8, train_examples=9, streamed=True)
  other = dataset.test._replace(classes=4)
  message = message_of_splits(dataset, 3, test=other)
  assert "`classes` of the stream 'test' must be 3" in message


@pytest.mark.parametrize(
  ("name", "method", "prefix"),
  [
    ("cifar10", "dense", "`config.data` of 'cifar10': "),
    ("imagenet2012", "dense", ""),
    ("imagenet2012", "snip", ""),  # It reads examples for the first masks.
  ],
)
def test_the_trainer_ends_with_one_line(tmp_path, capsys, name, method, prefix):
  change = changing("train", 7, {"label": 1000})
  folder = data_folders.write(tmp_path / "data", name, change)
  status = train.main(
    [
      f"--config={streamed.CONFIG}:{method}",
      f"--workdir={tmp_path / 'run'}",
      f"--config.data.name={name.removesuffix('2012')}",
      f"--config.data.path={tmp_path / 'data'}",
      "--config.batch_size=12",
      "--config.epochs=1",
      "--config.model.hidden=(4,)",
      *(["--config.method.batch_size=12"] if method == "snip" else []),
      *{
        "cifar10": ["--config.data.train_examples=12"],
        "imagenet2012": [
          "--config.data.image_size=8",
          "--config.data.resize=8",
        ],
      }[name],
    ]
  )
  error = capsys.readouterr().err
  assert status == command_line.BAD_INPUT
  assert error.startswith(f"error: {prefix}record 1 of {folder}")
  assert "got 1000" in error and error.count("\n") == 1
