"""Find and open folders in the format of TensorFlow Datasets (array_record).

No TensorFlow is needed. `dataset_info.json` is written last, so only complete
folders are found.

TensorFlow Datasets imports the module of each class that `features.json` names.
So we read the records ourselves: of a folder, only `dataset_info.json`, which
holds names and numbers, and the records are opened, and the features and their
types are those that the caller expects.
"""

import bisect
import concurrent.futures
import dataclasses
import errno
import itertools
import os
import pathlib
import re
import stat
from collections.abc import Mapping
from typing import Any

from sparsejax import command_line
from sparsejax.data.records import REMEDY

INFO = "dataset_info.json"
FORMAT = "array_record"
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_LISTS = {bytes: "bytes_list", int: "int64_list"}
# Opening a file waits for the disk, most of all for one behind a network.
_OPENING_THREADS = 64


@dataclasses.dataclass(frozen=True)
class Examples:
  """Random access to the examples of one split; picklable.

  Attributes:
    files: the record files, in order.
    readers: what reads them.
    ends: for each file, the number of records in it and those before.
    features: the type, `bytes` or `int`, of each feature to read.
  """

  files: tuple[pathlib.Path, ...]
  readers: tuple[Any, ...]
  ends: tuple[int, ...]
  features: Mapping[str, type]

  def __len__(self) -> int:
    """Returns the number of examples."""
    return self.ends[-1] if self.ends else 0

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns one example.

    Args:
      index: in [0, N).

    Returns:
      The features by name.

    Raises:
      IndexError: if the index is out of range.
      InputError: if the record is damaged or has other features.
    """
    file, record = self._position(index)
    try:
      data = self.readers[file][record]
    except RuntimeError as error:
      raise command_line.InputError(f"{_one_line(error)}.") from error
    return _parse(data, self.features)

  def where(self, index: int) -> str:
    """Returns the file of a record, and the number of the record in it."""
    file, record = self._position(index)
    return f"record {record} of {self.files[file]}"

  def _position(self, index: int) -> tuple[int, int]:
    """Returns which file, and which of its records."""
    if not 0 <= index < len(self):
      raise IndexError(f"`index` must be in [0, {len(self)}), got {index}.")
    file = bisect.bisect_right(self.ends, index)
    return file, index - (self.ends[file - 1] if file else 0)


def search_path(path: str) -> list[pathlib.Path]:
  """Returns the folders to search for data sets, in order.

  Args:
    path: a folder of data sets; "" stands for the defaults of TensorFlow
      Datasets, $TFDS_DATA_DIR and ~/tensorflow_datasets.

  Raises:
    InputError: if one is a URL.
  """
  configured = os.environ.get("TFDS_DATA_DIR")
  folders = [path] if path else [configured, "~/tensorflow_datasets"]
  for folder in folders:
    command_line.refuse_url("The folder of data sets", folder or "")
  # Unlike pathlib's, these accept a link to itself and an unknown user.
  return [
    pathlib.Path(os.path.abspath(os.path.expanduser(folder)))
    for folder in folders
    if folder
  ]


def find(name: str, path: str, *, hint: str) -> pathlib.Path:
  """Find the newest version of a data set.

  Args:
    name: name of the data set, such as "cifar10".
    path: as in `search_path`.
    hint: how to get the data set, for the error message.

  Returns:
    The folder PATH/NAME/VERSION.

  Raises:
    InputError: if there is none, none in array_record format, or a folder
      cannot be read.
  """
  searched = search_path(path)
  formats = {}
  for root in searched:
    for folder in _versions(root / name):
      formats[folder] = _read_info(folder).file_format or "no format"
    readable = [folder for folder in formats if formats[folder] == FORMAT]
    if readable:
      return max(readable, key=_version)
  if formats:
    others = ", ".join(f"{folder} ({kind})" for folder, kind in formats.items())
    raise command_line.InputError(
      f"{name} is on disk, but in another format than {FORMAT}: {others}."
      f" {hint}"
    )
  raise command_line.InputError(
    f"{name} is not on disk; searched for {name}/VERSION/{INFO} in "
    + " and ".join(str(root) for root in searched)
    + f". {hint}"
  )


def open_split(
  folder: pathlib.Path, split: str, features: Mapping[str, type]
) -> Examples:
  """Open one split of a data set.

  Args:
    folder: as returned by `find`.
    split: "train", "test", ...
    features: the type, `bytes` or `int`, of each feature to read; others are
      ignored.

  Returns:
    The examples, undecoded.

  Raises:
    InputError: if there is no such split, or one of its files is missing or
      damaged.
  """
  lengths = {
    info.name: list(info.shard_lengths) for info in _read_info(folder).splits
  }
  if not sum(lengths.get(split, [])):
    others = ", ".join(repr(name) for name in lengths if sum(lengths[name]))
    raise command_line.InputError(
      f"{folder / INFO} lists no examples of the split {split!r}, only of"
      f" {others or 'none'}. {REMEDY}"
    )
  files = [
    folder / shard_name(folder.parent.name, split, shard, len(lengths[split]))
    for shard in range(len(lengths[split]))
  ]
  with concurrent.futures.ThreadPoolExecutor(_OPENING_THREADS) as pool:
    readers = list(pool.map(_open_file, files, lengths[split]))
  ends = itertools.accumulate(lengths[split])
  return Examples(tuple(files), tuple(readers), tuple(ends), features)


def shard_name(name: str, split: str, shard: int, shards: int) -> str:
  """Returns the file name of one of the shards of a split."""
  return f"{name}-{split}.{FORMAT}-{shard:05d}-of-{shards:05d}"


def _open_file(file: pathlib.Path, length: int) -> Any:
  """Returns what reads a file; raises `InputError` unless it is complete."""
  # Imported here: it takes half a second, and digits do not need it.
  from array_record.python import array_record_data_source

  try:
    # A pipe would block for ever; array_record's message omits the reason.
    if not stat.S_ISREG(os.stat(file).st_mode):
      raise OSError(errno.EINVAL, "not a regular file", str(file))
    with open(file, "rb"):
      pass
    reader = array_record_data_source.ArrayRecordDataSource([str(file)])
  except (OSError, RuntimeError) as error:
    raise _unreadable(file, error) from error
  if len(reader) != length:
    raise command_line.InputError(
      f"{file} must contain {length} records according to {INFO}, and contains"
      f" {len(reader)}. {REMEDY}"
    )
  return reader


def _parse(data: bytes, features: Mapping[str, type]) -> dict[str, Any]:
  """Returns the features of a serialized `tf.train.Example`."""
  from google.protobuf import message
  from tensorflow_datasets.proto import tf_example_pb2

  proto: Any = tf_example_pb2
  try:
    found = proto.Example.FromString(data).features.feature
  except message.DecodeError as error:
    problem = f"it is not a `tf.train.Example`: {error}."
    raise command_line.InputError(problem) from error
  example = {}
  for name, kind in features.items():
    values = getattr(found[name], _LISTS[kind]).value
    if len(values) != 1:
      raise command_line.InputError(
        f"the feature {name!r} must be one {kind.__name__}, got {len(values)}."
      )
    example[name] = values[0]
  return example


def _versions(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the complete versions of a data set."""
  try:
    return [
      version
      for version in sorted(folder.iterdir())
      if _VERSION.fullmatch(version.name) and (version / INFO).is_file()
    ]
  except FileNotFoundError:
    return []
  except (OSError, ValueError) as error:
    raise _unreadable(folder, error) from error


def _read_info(folder: pathlib.Path) -> Any:
  """Returns the `DatasetInfo`, a message of names and numbers."""
  from google.protobuf import json_format
  from tensorflow_datasets.core.proto import dataset_info_pb2

  file, messages = folder / INFO, dataset_info_pb2
  try:
    return json_format.Parse(
      file.read_text(), messages.DatasetInfo(), ignore_unknown_fields=True
    )
  # A file that nests deeply ends in a RecursionError.
  except (OSError, ValueError, RecursionError, json_format.Error) as error:
    raise _unreadable(file, error) from error


def _unreadable(
  path: str | pathlib.Path, error: Exception
) -> command_line.InputError:
  if isinstance(error, OSError) and error.filename:
    path = error.filename  # More precise, as in a folder without rights.
  reason = getattr(error, "strerror", None) or _one_line(error)
  return command_line.InputError(f"{path} cannot be read: {reason}. {REMEDY}")


def _one_line(error: Exception) -> str:
  return " ".join(str(error).split()).rstrip(".")


def _version(folder: pathlib.Path) -> tuple[int, ...]:
  """Returns the version as numbers, since 10.0.0 is newer than 9.0.0."""
  return tuple(int(number) for number in folder.name.split("."))
