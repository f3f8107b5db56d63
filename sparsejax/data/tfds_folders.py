"""Find and open folders in the format of TensorFlow Datasets (array_record).

No TensorFlow is needed. `dataset_info.json` is written last, so only complete
folders are found.
"""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

INFO = "dataset_info.json"
FORMAT = "array_record"


@runtime_checkable
class Source(Protocol):
  """Random access to examples; each is a dict of features."""

  def __len__(self) -> int:
    """Returns the number of examples."""
    ...

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns one example."""
    ...

  def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Returns several examples, faster than one by one."""
    ...


def search_path(path: str) -> list[pathlib.Path]:
  """Returns the folders to search for data sets, in order.

  Args:
    path: a folder of data sets; "" stands for the defaults of TensorFlow
      Datasets, $TFDS_DATA_DIR and ~/tensorflow_datasets.
  """
  if path:
    return [pathlib.Path(path).expanduser().resolve()]
  configured = os.environ.get("TFDS_DATA_DIR")
  default = ["~/tensorflow_datasets"]
  folders = [configured, *default] if configured else default
  return [pathlib.Path(folder).expanduser().resolve() for folder in folders]


def find(name: str, path: str, *, hint: str) -> pathlib.Path:
  """Find the newest readable version of a data set.

  Args:
    name: name of the data set, such as "cifar10".
    path: as in `search_path`.
    hint: how to get the data set, for the error message.

  Returns:
    The folder PATH/NAME/VERSION.

  Raises:
    ValueError: if there is none, or none in array_record format.
  """
  searched = search_path(path)
  formats = {}
  for root in searched:
    for info in (root / name).glob(f"*/{INFO}"):
      formats[info.parent] = _file_format(info)
    readable = [folder for folder in formats if formats[folder] == FORMAT]
    if readable:
      return max(readable, key=_version)
  if formats:
    others = ", ".join(f"{folder} ({kind})" for folder, kind in formats.items())
    raise ValueError(
      f"{name} is on disk, but in another format than {FORMAT}: {others}."
      f" {hint}"
    )
  raise ValueError(
    f"{name} is not on disk; searched for {name}/VERSION/{INFO} in "
    + " and ".join(str(root) for root in searched)
    + f". {hint}"
  )


def open_split(folder: pathlib.Path, split: str, raw: Sequence[str]) -> Source:
  """Open one split of a data set.

  Args:
    folder: as returned by `find`.
    split: "train", "test", ...
    raw: features to return undecoded, as bytes.

  Returns:
    The examples; picklable.

  Raises:
    ValueError: if there is no such split.
  """
  # Imported here: it takes half a second, and digits do not need it.
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


def _file_format(info: pathlib.Path) -> str:
  try:
    return json.loads(info.read_text())["fileFormat"]
  except (OSError, ValueError, KeyError):
    return "unreadable"


def _version(folder: pathlib.Path) -> tuple[int, ...]:
  """Returns the version as numbers, since 10.0.0 is newer than 9.0.0."""
  numbers = folder.name.split(".")
  return tuple(int(number) if number.isdigit() else -1 for number in numbers)
