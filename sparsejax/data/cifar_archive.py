"""The original archives of CIFAR: download, checksum, conversion.

The binary version becomes a folder in the format of TensorFlow Datasets,
without TensorFlow, in the order of the archive.
"""

import hashlib
import http.client
import lzma
import os
import pathlib
import tarfile
import urllib.request
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sparsejax import command_line
from sparsejax.data import records, tfds_writer

# The version number that TensorFlow Datasets gives the same data.
VERSION = "3.0.2"
_TIMEOUT_SECONDS = 60
_BLOCK_BYTES = 1 << 20
_SHAPE = (3, 32, 32)
# What decompressors raise.
_DAMAGED = (EOFError, OSError, lzma.LZMAError, zlib.error)


class Archive(NamedTuple):
  """An original archive and its members.

  Attributes:
    url: download address of the authors.
    sha256: checksum of the whole file.
    files: members with examples, by split.
    labels: for each label byte before an image, in order: the feature, and the
      member that lists its class names.
  """

  url: str
  sha256: str
  files: dict[str, tuple[str, ...]]
  labels: dict[str, str]


# The checksums are those of TensorFlow Datasets.
ARCHIVES = {
  "cifar10": Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    files={
      "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
      "test": ("test_batch.bin",),
    },
    labels={"label": "batches.meta.txt"},
  ),
  "cifar100": Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    files={"train": ("train.bin",), "test": ("test.bin",)},
    labels={
      "coarse_label": "coarse_label_names.txt",
      "label": "fine_label_names.txt",
    },
  ),
}


class ArchiveError(Exception):
  """The archive is missing, damaged or a different file."""


def download(url: str, file: pathlib.Path) -> None:
  """Download an archive, and say how long that still takes.

  Args:
    url: where to download from.
    file: where to write.

  Raises:
    ArchiveError: if the download fails.
    OSError: if the file cannot be written.
  """
  try:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as source:
      total = int(source.headers.get("Content-Length") or 0)
      progress = command_line.Progress("Downloading", total)
      with open(file, "wb") as target:
        while block := source.read(_BLOCK_BYTES):
          target.write(block)
          progress.show(target.tell())
      progress.end()
  # Connection errors are OSErrors too; those of the disk have an `errno`.
  except (OSError, ValueError, http.client.HTTPException) as error:
    if getattr(error, "errno", None) is not None:
      raise
    raise ArchiveError(
      f"{url} could not be downloaded: {error}. Download it by other means and"
      " pass it as `--archive=FILE`."
    ) from error


def convert(
  file: pathlib.Path, folder: pathlib.Path, archive: Archive, *, sha256: str
) -> None:
  """Convert an archive to a folder in the format of TensorFlow Datasets.

  Args:
    file: the archive.
    folder: PATH/NAME/VERSION; must not exist. It appears once complete.
    archive: the expected members.
    sha256: the expected checksum, in hexadecimal.

  Raises:
    ArchiveError: if the file is missing or not this archive.
    OSError: if the folder cannot be written.
  """
  _verify(file, archive, sha256)
  try:
    members = _read_members(file, archive)
    classes = {
      label: members[member].decode().split()
      for label, member in archive.labels.items()
    }
    splits = {
      split: list(_examples(split, [members[m] for m in names], classes))
      for split, names in archive.files.items()
    }
  except (tarfile.TarError, *_DAMAGED, ValueError, KeyError) as error:
    reason = " ".join(str(error).split())
    raise ArchiveError(f"{file} has unexpected contents: {reason}") from error
  features = {
    "id": tfds_writer.Feature("text"),
    "image": tfds_writer.Feature("png", shape=(32, 32, 3)),
  } | {
    label: tfds_writer.Feature("label", names=names)
    for label, names in classes.items()
  }
  tfds_writer.write(
    folder,
    features,
    splits,
    description=f"{folder.parent.name}, the original pixels in their order.",
  )


def _verify(file: pathlib.Path, archive: Archive, sha256: str) -> None:
  """Raises `ArchiveError` unless the file has the expected checksum."""
  if file.exists() and not file.is_file():  # A pipe would block for ever.
    raise ArchiveError(f"`--archive` {file}: it is not a regular file.")
  try:
    with open(file, "rb") as opened:
      actual = hashlib.file_digest(opened, "sha256").hexdigest()
  except OSError as error:
    raise ArchiveError(f"`--archive` {file}: {error.strerror}.") from error
  if actual != sha256:
    raise ArchiveError(
      f"{file} is damaged or a different archive: its SHA-256 is {actual} and"
      f" should be {sha256}. Download it again from {archive.url}."
    )


def _read_members(file: pathlib.Path, archive: Archive) -> dict[str, bytes]:
  """Returns the contents of the members in use, by base name."""
  needed = {name for names in archive.files.values() for name in names}
  needed |= set(archive.labels.values())
  contents: dict[str, bytes] = {}
  with tarfile.open(file, "r:*") as opened:
    for member in opened:
      content = opened.extractfile(member)
      name = os.path.basename(member.name)
      if content is not None and name in needed:
        contents[name] = content.read()
  missing = sorted(needed - contents.keys())
  if missing:
    raise KeyError(f"it has no {', '.join(missing)}")
  return contents


def _examples(
  split: str, contents: Sequence[bytes], classes: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, bytes | int]]:
  """Yields the examples of a split: label bytes, then the image by channel."""
  from sparsejax.data import images

  size = len(classes) + int(np.prod(_SHAPE))
  index, total = 0, sum(map(len, contents)) // size
  progress = command_line.Progress(f"Converting {split}", total)
  for content in contents:
    if len(content) % size:
      raise ValueError(
        f"{len(content)} bytes are not a multiple of {size}-byte examples"
      )
    for row in np.frombuffer(content, np.uint8).reshape(-1, size):
      pixels = row[len(classes) :].reshape(_SHAPE).transpose(1, 2, 0)
      yield {
        # The id that TensorFlow Datasets gives it.
        "id": f"{split}_{index:05d}".encode(),
        "image": images.encode(np.ascontiguousarray(pixels)),
        **{
          name: records.check_label(int(label), len(classes[name]))
          for name, label in zip(classes, row, strict=False)
        },
      }
      index += 1
      progress.show(index)
  progress.end()
