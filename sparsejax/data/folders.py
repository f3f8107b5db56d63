"""Data in the format of TensorFlow Datasets (array_record), without TensorFlow.

Found and written here; only what is whole is found: `dataset_info.json` is
written last, into a folder that gets its name when it is complete.
"""

import importlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

_INFO = "dataset_info.json"
_FORMAT = "array_record"


class Feature(NamedTuple):
  """A part of every example.

  Attributes:
    kind: "text", "png", "jpeg" or "label".
    names: of the classes, for a label.
    shape: of an image; `None` stands for a size that differs.
  """

  kind: str
  names: Sequence[str] = ()
  shape: tuple[int | None, ...] = ()


@runtime_checkable
class Source(Protocol):
  """Examples by index, read at random; each is a dict of its features."""

  def __len__(self) -> int:
    """Returns the number of examples."""
    ...

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns one example."""
    ...

  def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Returns several, which is faster than one after another."""
    ...


def places(path: str) -> list[pathlib.Path]:
  """Returns where data sets are looked for.

  Args:
    path: a folder of data sets; "" stands for the places that TensorFlow
      Datasets uses, $TFDS_DATA_DIR and ~/tensorflow_datasets.
  """
  if path:
    return [pathlib.Path(path).expanduser().resolve()]
  given = os.environ.get("TFDS_DATA_DIR")
  usual = ["~/tensorflow_datasets"]
  found = [given, *usual] if given else usual
  return [pathlib.Path(place).expanduser().resolve() for place in found]


def find(name: str, path: str, *, remedy: str) -> pathlib.Path:
  """Find the newest version of a data set that can be read.

  Args:
    name: of the data set, such as "cifar10".
    path: as `places` takes it.
    remedy: what to do where there is none, for the error.

  Returns:
    Its folder, PLACE/NAME/VERSION.

  Raises:
    ValueError: if there is none, or none in the format array_record.
  """
  looked = places(path)
  formats = {}
  for place in looked:
    for info in (place / name).glob(f"*/{_INFO}"):
      formats[info.parent] = _file_format(info)
    whole = [folder for folder in formats if formats[folder] == _FORMAT]
    if whole:
      return max(whole, key=_version)
  if formats:
    others = ", ".join(f"{folder} ({kind})" for folder, kind in formats.items())
    raise ValueError(
      f"{name} is there in another format than {_FORMAT}: {others}. {remedy}"
    )
  raise ValueError(
    f"{name} is not on the disk; looked for {name}/VERSION/{_INFO} in "
    + " and ".join(str(place) for place in looked)
    + f". {remedy}"
  )


def records(folder: pathlib.Path, split: str, raw: Sequence[str]) -> Source:
  """Open a split of a data set.

  Args:
    folder: as `find` gives it.
    split: "train", "test", ...
    raw: features that are given as the bytes in the file.

  Returns:
    The examples; they can be pickled.

  Raises:
    ValueError: if there is no such split.
  """
  # Here and not above: it takes half a second, and the digits need none of it.
  import tensorflow_datasets as tfds

  builder: Any = tfds.builder_from_directory(folder)
  if split not in builder.info.splits:
    raise ValueError(
      f"{folder} has no split {split!r}, only {', '.join(builder.info.splits)}."
    )
  skip = tfds.decode.SkipDecoding()
  return builder.as_data_source(
    split=split, decoders={name: skip for name in raw}
  )


def write(
  folder: pathlib.Path,
  features: Mapping[str, Feature],
  splits: Mapping[str, Iterable[Mapping[str, bytes | int]]],
  *,
  description: str,
  shards: int = 1,
) -> None:
  """Write a data set, in the order that it is given in.

  Args:
    folder: PLACE/NAME/VERSION; it must not exist. It appears when all of it
      is written.
    features: by name; "id" is text by custom.
    splits: the examples of each; images are encoded already.
    description: one line, for those who find the folder.
    shards: files for each split; example i goes to the shard that keeps the
      order.

  Raises:
    OSError: if it cannot be written; nothing is left behind then.
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
      _flush(file)
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
  """Returns the number of examples in each shard, and all their bytes."""
  # Compiled, so that a type checker cannot see into it.
  writers = importlib.import_module("array_record.python.array_record_module")
  serialized = [_serialize(example) for example in examples]
  edges = [len(serialized) * i // shards for i in range(shards + 1)]
  for shard in range(shards):
    file = partial / f"{name}-{split}.{_FORMAT}-{shard:05d}-of-{shards:05d}"
    # Groups of one can be read at random, as TensorFlow Datasets writes them.
    writer = writers.ArrayRecordWriter(str(file), "group_size:1")
    for record in serialized[edges[shard] : edges[shard + 1]]:
      writer.write(record)
    writer.close()
  lengths = [edges[i + 1] - edges[i] for i in range(shards)]
  return lengths, sum(len(record) for record in serialized)


def _serialize(example: Mapping[str, bytes | int]) -> bytes:
  """Returns an example as the bytes of a `tf.train.Example`."""
  from tensorflow_datasets.proto import tf_example_pb2

  message: Any = tf_example_pb2
  made = message.Example()
  for name, value in example.items():
    feature = made.features.feature[name]
    if isinstance(value, bytes):
      feature.bytes_list.value.append(value)
    else:
      feature.int64_list.value.append(value)
  return made.SerializeToString()


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
    filetype_suffix=_FORMAT,
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
  """Returns a feature as TensorFlow Datasets describes it."""
  import tensorflow_datasets as tfds

  if feature.kind == "text":
    return tfds.features.Text()
  if feature.kind == "label":
    return tfds.features.ClassLabel(names=list(feature.names))
  return tfds.features.Image(shape=feature.shape, encoding_format=feature.kind)


def _flush(file: pathlib.Path) -> None:
  """Waits until a file is on the disk: a rename may come there before it."""
  with open(file, "rb") as opened:
    os.fsync(opened.fileno())


def _file_format(info: pathlib.Path) -> str:
  try:
    return json.loads(info.read_text())["fileFormat"]
  except (OSError, ValueError, KeyError):
    return "unreadable"


def _version(folder: pathlib.Path) -> tuple[int, ...]:
  """Returns a version's numbers; 10.0.0 is newer than 9.0.0."""
  numbers = folder.name.split(".")
  return tuple(int(number) if number.isdigit() else -1 for number in numbers)
