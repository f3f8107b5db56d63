"""Write folders in the format of TensorFlow Datasets, without TensorFlow.

A folder gets its name only once it is complete, so an interrupted write leaves
nothing that could be mistaken for a data set.
"""

import importlib
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sparsejax.data.tfds_folders import FORMAT, shard_name


class Feature(NamedTuple):
  """One feature of every example.

  Attributes:
    kind: "text", "png", "jpeg" or "label".
    names: class names of a label.
    shape: shape of an image; `None` for a size that varies.
  """

  kind: str
  names: Sequence[str] = ()
  shape: tuple[int | None, ...] = ()


def write(
  folder: pathlib.Path,
  features: Mapping[str, Feature],
  splits: Mapping[str, Iterable[Mapping[str, bytes | int]]],
  *,
  description: str,
  shards: int = 1,
) -> None:
  """Write a data set, in the given order.

  Args:
    folder: PATH/NAME/VERSION; must not exist. It appears once complete.
    features: features by name; "id" is text by convention.
    splits: examples by split, with images already encoded.
    description: one line for humans.
    shards: files per split; consecutive examples share a shard.

  Raises:
    OSError: if the folder cannot be written; then nothing is left behind.
  """
  partial = folder.with_name(f".{folder.name}.incomplete-{os.getpid()}")
  partial.mkdir(parents=True)
  try:
    infos = {
      split: _write_split(partial, folder.parent.name, split, examples, shards)
      for split, examples in splits.items()
    }
    _write_metadata(partial, folder, features, infos, description)
    for file in partial.iterdir():
      _fsync(file)
    os.rename(partial, folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _write_split(
  partial: pathlib.Path,
  name: str,
  split: str,
  examples: Iterable[Mapping[str, bytes | int]],
  shards: int,
) -> tuple[list[int], int]:
  """Returns the number of examples per shard, and the total bytes."""
  # A compiled module, which type checkers cannot see.
  writers = importlib.import_module("array_record.python.array_record_module")
  serialized = [_serialize(example) for example in examples]
  edges = [len(serialized) * i // shards for i in range(shards + 1)]
  for shard in range(shards):
    file = partial / shard_name(name, split, shard, shards)
    # Groups of one allow random access; TensorFlow Datasets writes them too.
    writer = writers.ArrayRecordWriter(str(file), "group_size:1")
    for record in serialized[edges[shard] : edges[shard + 1]]:
      writer.write(record)
    writer.close()
  lengths = [edges[i + 1] - edges[i] for i in range(shards)]
  return lengths, sum(len(record) for record in serialized)


def _serialize(example: Mapping[str, bytes | int]) -> bytes:
  """Returns an example as a serialized `tf.train.Example`."""
  from tensorflow_datasets.proto import tf_example_pb2

  message: Any = tf_example_pb2
  proto = message.Example()
  for name, value in example.items():
    feature = proto.features.feature[name]
    if isinstance(value, bytes):
      feature.bytes_list.value.append(value)
    else:
      feature.int64_list.value.append(value)
  return proto.SerializeToString()


def _write_metadata(
  partial: pathlib.Path,
  folder: pathlib.Path,
  features: Mapping[str, Feature],
  infos: Mapping[str, tuple[list[int], int]],
  description: str,
) -> None:
  import tensorflow_datasets as tfds

  template = tfds.core.ShardedFileTemplate(
    data_dir=tfds.core.Path(partial),
    dataset_name=folder.parent.name,
    filetype_suffix=FORMAT,
  )
  tfds.folder_dataset.write_metadata(
    data_dir=partial,
    features={name: _connector(feature) for name, feature in features.items()},
    split_infos=[
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=lengths,
        num_bytes=size,
        filename_template=template.replace(split=split),
      )
      for split, (lengths, size) in infos.items()
    ],
    version=folder.name,
    check_data=False,  # The check needs TensorFlow.
    description=description,
    supervised_keys=("image", "label"),
  )


def _connector(feature: Feature) -> Any:
  """Returns the feature connector of TensorFlow Datasets."""
  import tensorflow_datasets as tfds

  if feature.kind == "text":
    return tfds.features.Text()
  if feature.kind == "label":
    return tfds.features.ClassLabel(names=list(feature.names))
  return tfds.features.Image(shape=feature.shape, encoding_format=feature.kind)


def _fsync(file: pathlib.Path) -> None:
  """Waits until a file is on disk: the rename could reach it first."""
  with open(file, "rb") as opened:
    os.fsync(opened.fileno())
