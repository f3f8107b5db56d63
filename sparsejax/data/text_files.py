"""Text files as one array of bytes, memory-mapped from a cache on the disk.

Files are sorted by name and joined with a zero byte after each. What is cached
is found by the names, sizes and times of the files, so a changed file is read
again; the digest is of the bytes alone.
"""

import hashlib
import json
import os
import pathlib
import tempfile
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sparsejax import command_line

_FOLDER = "SPARSEJAX_CACHE_DIR"


class Corpus(NamedTuple):
  """The bytes of some files.

  Attributes:
    names: of the files, relative to their folder.
    tokens: uint8[n], the files one after another, each followed by a 0.
    ends: for each file, the position after its last byte.
    digest: of names and bytes, 16 hexadecimal digits.
  """

  names: tuple[str, ...]
  tokens: np.ndarray
  ends: tuple[int, ...]
  digest: str

  def part(self, files: Sequence[int], limit: int = 0) -> np.ndarray:
    """Returns uint8[m], the bytes of some files; at most `limit` unless 0."""
    starts = (0, *self.ends)
    parts, size = [], 0
    for file in files:
      parts.append(self.tokens[starts[file] : self.ends[file]])
      size += len(parts[-1])
      if limit and size >= limit:
        break
    joined = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    return joined[:limit] if limit else joined


def list_files(folder: pathlib.Path, patterns: Sequence[str]) -> list[str]:
  """List files, in the same order on every machine.

  Args:
    folder: searched with the folders in it.
    patterns: globs of file names, such as `*.txt`.

  Returns:
    The sorted names of the files that match one of the globs, relative to the
    folder, with slashes.

  Raises:
    InputError: if the folder cannot be read, or no file in it matches.
  """
  try:
    if not folder.is_dir():
      raise command_line.InputError(
        f"`config.data.path` must be a folder of text files, got {folder},"
        " which is none. Correct the path."
      )
    names = {
      path.relative_to(folder).as_posix()
      for pattern in patterns
      for path in folder.rglob(pattern)
      if path.is_file()
    }
  except (OSError, ValueError, NotImplementedError) as error:
    raise _unreadable(folder, error) from error
  if not names:
    raise command_line.InputError(
      f"{folder} contains no file that matches {' or '.join(patterns)}. Set"
      " `config.data.path` or `config.data.patterns`."
    )
  return sorted(names)


def read(folder: pathlib.Path, names: Sequence[str]) -> Corpus:
  """Read files, or map what was read before.

  Args:
    folder: of the files.
    names: of the files in it.

  Returns:
    Their bytes.

  Raises:
    InputError: if a file cannot be read.
  """
  try:
    found = [(folder / name).stat() for name in names]
  except OSError as error:
    raise _unreadable(folder, error) from error
  identity = [
    [name, file.st_size, file.st_mtime_ns]
    for name, file in zip(names, found, strict=True)
  ]
  key = hashlib.sha256(json.dumps([str(folder), identity]).encode()).hexdigest()
  base = cache_folder() / f"text-{key[:32]}"
  cached = _open_cached(base, names)
  if cached is None:
    cached = _read_files(folder, names)
    _write_cache(base, cached)
    cached = _open_cached(base, names) or cached
  return cached


def cache_folder() -> pathlib.Path:
  """Returns the folder of cached files; `$SPARSEJAX_CACHE_DIR` sets it."""
  given = os.environ.get(_FOLDER)
  if given:
    return pathlib.Path(given)
  base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  return pathlib.Path(base) / "sparsejax"


def hold_out(
  names: Sequence[str], *, test: float, validation: float
) -> tuple[list[int], list[int], list[int]]:
  """Split files at random, but always in the same way.

  Args:
    names: of the files.
    test: fraction of the files for testing, in (0, 1).
    validation: fraction for validation, in [0, 1).

  Returns:
    The positions of the files for training, validation and testing, in an order
    that depends on their names alone.

  Raises:
    ValueError: if a fraction is out of range, or leaves no file to train with.
  """
  if not (0 < test < 1 and 0 <= validation < 1):
    raise ValueError(
      "`test` must be in (0, 1) and `validation` in [0, 1), got"
      f" {test} and {validation}."
    )
  order = sorted(
    range(len(names)), key=lambda i: (zlib.crc32(names[i].encode()), names[i])
  )
  tested = max(1, round(test * len(names)))
  validated = max(1, round(validation * len(names))) if validation else 0
  if tested + validated >= len(names):
    raise ValueError(
      f"whole files are held out, {tested} for testing and {validated} for"
      f" validation, but there are only {len(names)}. Give more files: split"
      " long ones."
    )
  held_out = tested + validated
  return order[held_out:], order[tested:held_out], order[:tested]


def _read_files(folder: pathlib.Path, names: Sequence[str]) -> Corpus:
  parts, ends, size = [], [], 0
  digest = hashlib.sha256()
  for name in names:
    try:
      data = (folder / name).read_bytes() + b"\0"
    except OSError as error:
      raise _unreadable(folder / name, error) from error
    digest.update(name.encode() + b"\0" + data)
    size += len(data)
    parts.append(data)
    ends.append(size)
  tokens = np.frombuffer(b"".join(parts), np.uint8)
  return Corpus(tuple(names), tokens, tuple(ends), digest.hexdigest()[:16])


def _open_cached(base: pathlib.Path, names: Sequence[str]) -> Corpus | None:
  """Maps a cached corpus; `None` if there is none, or it is damaged."""
  try:
    index = json.loads(base.with_suffix(".json").read_text())
    tokens = np.memmap(base.with_suffix(".bin"), np.uint8, "r")
    ends, digest = tuple(index["ends"]), str(index["digest"])
    intact = len(ends) == len(names) and ends[-1] == len(tokens)
  except (OSError, ValueError, KeyError, TypeError):
    return None
  return Corpus(tuple(names), tokens, ends, digest) if intact else None


def _write_cache(base: pathlib.Path, corpus: Corpus) -> None:
  """Writes a corpus; without a folder to write to, it stays in memory."""
  index = json.dumps({"ends": corpus.ends, "digest": corpus.digest})
  try:
    base.parent.mkdir(parents=True, exist_ok=True)
    _replace(base.with_suffix(".bin"), corpus.tokens.tobytes())
    _replace(base.with_suffix(".json"), index.encode())
  except OSError:
    pass


def _replace(path: pathlib.Path, data: bytes) -> None:
  """Writes a file as a whole, whoever else writes it."""
  with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
    try:
      file.write(data)
      file.close()
      os.replace(file.name, path)
    except OSError:
      os.unlink(file.name)
      raise


def _unreadable(
  path: pathlib.Path, error: Exception
) -> command_line.InputError:
  if isinstance(error, OSError) and error.filename:
    path = pathlib.Path(error.filename)
  reason = getattr(error, "strerror", None) or str(error)
  return command_line.InputError(
    f"{path} cannot be read: {reason}. Correct `config.data.path`."
  )
