"""Prepare CIFAR: `python -m sparsejax.data.prepare cifar10 --download`.

Turns the original archive (the binary version) into a folder in the format of
TensorFlow Datasets, without TensorFlow, in the order of the archive. What is
prepared already is left as it is.

Exit status: 0 done, 2 bad input.
"""

import argparse
import contextlib
import hashlib
import os
import pathlib
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sparsejax.data import folders

_TIMEOUT_SECONDS = 60
_BLOCK_BYTES = 1 << 20
_SHAPE = (3, 32, 32)
# The version that TensorFlow Datasets gives the same data.
_VERSION = "3.0.2"


class Archive(NamedTuple):
  """An original archive and what is in it.

  Attributes:
    url: where its authors offer it.
    sha256: of the whole file.
    files: names of the members with the examples, by split.
    labels: for each byte before an image, the feature and the member that
      holds the names of its classes.
  """

  url: str
  sha256: str
  files: dict[str, tuple[str, ...]]
  labels: dict[str, str]


# Checksums: those that TensorFlow Datasets verifies.
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


class PrepareError(Exception):
  """The archive or the place to write to cannot be used."""


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line.

  Args:
    argv: the arguments without the program's name; `sys.argv` by default.

  Returns:
    The exit status.
  """
  requested = _parser().parse_args(argv)
  archive = ARCHIVES[requested.name]
  folder = folders.places(requested.path)[0] / requested.name / _VERSION
  if folder.exists():
    print(f"{folder} is there already; nothing was changed.")
    return 0
  try:
    with _archive(requested, archive, folder.parent) as file:
      prepare(file, folder, archive, sha256=requested.sha256 or archive.sha256)
  except PrepareError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except OSError as error:  # A full disk or a place that is not ours.
    where = f" {error.filename}" if error.filename else ""
    print(f"error: {error.strerror or error}{where}", file=sys.stderr)
    return 2
  print(f"Prepared {folder}")
  return 0


def prepare(
  file: pathlib.Path, folder: pathlib.Path, archive: Archive, *, sha256: str
) -> None:
  """Turn an archive into a folder.

  Args:
    file: the archive.
    folder: PLACE/NAME/VERSION, which does not exist; it appears when it is
      complete.
    archive: what is in the file.
    sha256: the checksum that the file must have, in hexadecimal.

  Raises:
    PrepareError: if the file is missing or not the archive.
    OSError: if the folder cannot be written.
  """
  try:
    found = _sha256(file)
  except OSError as error:
    raise PrepareError(f"`--archive` {file}: {error.strerror}.") from error
  if found != sha256:
    raise PrepareError(
      f"{file} is not the archive that was requested, or is damaged: its"
      f" SHA-256 is {found} and should be {sha256}. Download it again from"
      f" {archive.url}."
    )
  try:
    members = _members(file, archive)
    names = {
      label: members[member].decode().split()
      for label, member in archive.labels.items()
    }
    splits = {
      split: list(_examples(split, [members[m] for m in found], list(names)))
      for split, found in archive.files.items()
    }
  except (tarfile.TarError, EOFError, ValueError, KeyError) as error:
    raise PrepareError(
      f"{file} does not hold what it should: {error}"
    ) from error
  image = folders.Feature("png", shape=(32, 32, 3))
  labels = {
    label: folders.Feature("label", names=classes)
    for label, classes in names.items()
  }
  folders.write(
    folder,
    {"id": folders.Feature("text"), "image": image, **labels},
    splits,
    description=f"{folder.parent.name}, the original pixels in their order.",
  )


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m sparsejax.data.prepare", description=__doc__
  )
  parser.add_argument("name", choices=sorted(ARCHIVES), help="which data set")
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument(
    "--archive", type=pathlib.Path, help="the archive, on the disk"
  )
  source.add_argument(
    "--download", action="store_true", help="fetch the archive first"
  )
  parser.add_argument(
    "--path",
    default="",
    help="folder of data sets; $TFDS_DATA_DIR or ~/tensorflow_datasets",
  )
  parser.add_argument("--url", help="fetch it from here: a mirror")
  parser.add_argument(
    "--sha256", help="checksum of an archive that was packed anew"
  )
  return parser


@contextlib.contextmanager
def _archive(
  requested: argparse.Namespace, archive: Archive, place: pathlib.Path
) -> Iterator[pathlib.Path]:
  """Gives the archive's file; one that was downloaded is removed at the end."""
  if not requested.download:
    yield requested.archive
    return
  place.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=".download-", dir=place) as folder:
    file = pathlib.Path(folder) / "archive.tar.gz"
    _download(requested.url or archive.url, file)
    yield file


def _download(url: str, file: pathlib.Path) -> None:
  print(f"Downloading {url}")
  try:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as source:
      with open(file, "wb") as target:
        while block := source.read(_BLOCK_BYTES):
          target.write(block)
  # What a connection raises is an OSError too; a full disk has an `errno`.
  except (OSError, ValueError) as error:
    if getattr(error, "errno", None) is not None:
      raise
    raise PrepareError(
      f"{url} could not be downloaded: {error}. Fetch it by other means and"
      " give it as `--archive=FILE`."
    ) from error


def _sha256(file: pathlib.Path) -> str:
  with open(file, "rb") as opened:
    return hashlib.file_digest(opened, "sha256").hexdigest()


def _members(file: pathlib.Path, archive: Archive) -> dict[str, bytes]:
  """Returns the content of the members that are needed, by base name."""
  needed = {name for names in archive.files.values() for name in names}
  needed |= set(archive.labels.values())
  found: dict[str, bytes] = {}
  with tarfile.open(file, "r:*") as opened:
    for member in opened:
      content = opened.extractfile(member)
      name = os.path.basename(member.name)
      if content is not None and name in needed:
        found[name] = content.read()
  missing = sorted(needed - found.keys())
  if missing:
    raise KeyError(f"it has no {', '.join(missing)}")
  return found


def _examples(
  split: str, contents: Sequence[bytes], labels: Sequence[str]
) -> Iterator[dict[str, bytes | int]]:
  """Yields the examples of a split: label bytes, then the image by channel."""
  from sparsejax.data import images

  size = len(labels) + int(np.prod(_SHAPE))
  index = 0
  for content in contents:
    if len(content) % size:
      raise ValueError(
        f"a file of {len(content)} bytes does not hold examples of {size}"
      )
    for row in np.frombuffer(content, np.uint8).reshape(-1, size):
      pixels = row[len(labels) :].reshape(_SHAPE).transpose(1, 2, 0)
      yield {
        # As TensorFlow Datasets names them.
        "id": f"{split}_{index:05d}".encode(),
        "image": images.encode(np.ascontiguousarray(pixels)),
        **dict(zip(labels, row[: len(labels)].tolist(), strict=True)),
      }
      index += 1


if __name__ == "__main__":
  sys.exit(main())
