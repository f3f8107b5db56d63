"""Prepare CIFAR: `python -m sparsejax.data.prepare cifar10 --download`.

  NAME              cifar10 or cifar100
  --download        download the archive; or
  --archive=FILE    read it from the disk
  --path=DIR        folder of data sets (default: $TFDS_DATA_DIR, or
                    ~/tensorflow_datasets)
  --url=URL         download from a mirror
  --sha256=HEX      checksum of an archive that was repacked

Converts the original archive (the binary version) to a folder in the format of
TensorFlow Datasets, without TensorFlow, in the order of the archive. Leaves an
existing folder unchanged.

Exit status: 0 done, 2 bad input.
"""

import argparse
import contextlib
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence

from sparsejax import command_line
from sparsejax.data import cifar_archive, tfds_folders


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line.

  Args:
    argv: arguments without the program's name; `sys.argv` by default.

  Returns:
    The exit status.
  """
  return command_line.run(
    _prepare, argv, name="sparsejax.data.prepare", doc=__doc__
  )


def _prepare(argv: list[str]) -> int:
  parsed = _parse(argv)
  archive = cifar_archive.ARCHIVES[parsed.name]
  root = tfds_folders.search_path(parsed.path)[0]
  folder = root / parsed.name / cifar_archive.VERSION
  if folder.exists():
    print(f"{folder} is there already; nothing was changed.")
    return command_line.DONE
  try:
    with _archive_file(parsed, archive, folder.parent) as file:
      sha256 = parsed.sha256 or archive.sha256
      cifar_archive.convert(file, folder, archive, sha256=sha256)
  except cifar_archive.ArchiveError as error:
    raise command_line.InputError(str(error)) from error
  print(f"Prepared {folder}")
  return command_line.DONE


def _parse(argv: list[str]) -> argparse.Namespace:
  parser = command_line.Parser()
  parser.add_argument("name", metavar="NAME")
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument("--archive", type=command_line.path)
  source.add_argument("--download", action="store_true")
  parser.add_argument("--path", default="")
  parser.add_argument("--url")
  parser.add_argument("--sha256")
  parsed = parser.parse_args(argv)
  if parsed.name not in cifar_archive.ARCHIVES:
    raise command_line.unknown("NAME", parsed.name, cifar_archive.ARCHIVES)
  return parsed


@contextlib.contextmanager
def _archive_file(
  parsed: argparse.Namespace,
  archive: cifar_archive.Archive,
  parent: pathlib.Path,
) -> Iterator[pathlib.Path]:
  """Yields the archive's path; a downloaded one is deleted afterwards."""
  if not parsed.download:
    yield parsed.archive
    return
  parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=".download-", dir=parent) as folder:
    file = pathlib.Path(folder) / "archive.tar.gz"
    print(f"Downloading {parsed.url or archive.url}")
    cifar_archive.download(parsed.url or archive.url, file)
    yield file


if __name__ == "__main__":
  sys.exit(main())
