"""Text as bytes, for next-token prediction.

A token is a byte, so there are 256 of them; a 0 ends each file.
"""

import functools
import pathlib
import sysconfig

import numpy as np

from sparsejax import command_line
from sparsejax.data import text_files, tfds_folders, windows
from sparsejax.data.dataset import Dataset
from sparsejax.data.records import read

VOCABULARY = 256
# Not on every machine, or not the same: tests are packages of their own, and
# the others are written when Python is built.
_NOT_STDLIB = frozenset({"site-packages", "dist-packages", "test", "tests"})
_NOT_STDLIB_PREFIXES = ("_sysconfigdata", "config-", "idle_test", "__pycache__")
_SHAKESPEARE = "tiny_shakespeare"


def stdlib(
  *,
  context: int = 128,
  train_bytes: int = 0,
  test_bytes: int = 0,
  validation: float = 0.0,
  digest: str | None = None,
) -> Dataset:
  """The source code of Python's own standard library, without its tests.

  It is on every machine, so no download is needed; but each version of Python
  has another, so `digest` says which one is meant.

  Args:
    context: bytes T that the model reads at once, at least 1.
    train_bytes: bytes to train with; 0 for all of them.
    test_bytes: bytes of each split that is evaluated; 0 for all of them.
    validation: fraction of the files to hold out for validation, in [0, 1);
      another 5 % of them are for testing.
    digest: `stdlib_digest()` of the Python that a run began with; `None` for
      any.

  Returns:
    The data set.

  Raises:
    ValueError: if an argument is out of range.
    InputError: if the library is another one than `digest` says, or has no
      source files.
  """
  corpus = _stdlib()
  _check_digest(corpus, digest, "The standard library of this Python")
  return _by_file(
    corpus,
    context=context,
    train_bytes=train_bytes,
    test_bytes=test_bytes,
    test=0.05,
    validation=validation,
  )


def stdlib_digest() -> str:
  """Returns what identifies the standard library of this Python."""
  return _stdlib().digest


def text_folder(
  *,
  path: str,
  patterns: tuple[str, ...] = ("*.txt",),
  context: int = 128,
  train_bytes: int = 0,
  test_bytes: int = 0,
  test: float = 0.05,
  validation: float = 0.0,
  digest: str | None = None,
) -> Dataset:
  """Any folder of text files, with some of the files held out.

  Args:
    path: the folder; the folders in it are read, too.
    patterns: globs of file names, such as `*.md`.
    context: bytes T that the model reads at once, at least 1.
    train_bytes: bytes to train with; 0 for all of them.
    test_bytes: bytes of each split that is evaluated; 0 for all of them.
    test: fraction of the files to test with, in (0, 1).
    validation: fraction of the files to hold out for validation, in [0, 1).
    digest: of the text that a run began with, as an error message names it;
      `None` for any.

  Returns:
    The data set.

  Raises:
    ValueError: if an argument is out of range, or there are too few files.
    InputError: if the folder or a file cannot be read, or the text is another
      one than `digest` says.
  """
  command_line.refuse_url("`config.data.path`", path)
  folder = pathlib.Path(path).expanduser()
  corpus = text_files.read(folder, text_files.list_files(folder, patterns))
  _check_digest(corpus, digest, f"The text in {folder}")
  return _by_file(
    corpus,
    context=context,
    train_bytes=train_bytes,
    test_bytes=test_bytes,
    test=test,
    validation=validation,
  )


def tiny_shakespeare(
  *,
  path: str = "",
  context: int = 128,
  train_bytes: int = 0,
  test_bytes: int = 0,
) -> Dataset:
  """A megabyte of Shakespeare, in the format of TensorFlow Datasets.

  Args:
    path: folder of data sets; by default those of TensorFlow Datasets.
    context: bytes T that the model reads at once, at least 1.
    train_bytes: bytes to train with; 0 for all of them.
    test_bytes: bytes of each split that is evaluated; 0 for all of them.

  Returns:
    The data set, with its own splits: 90, 5 and 5 %.

  Raises:
    ValueError: if an argument is out of range.
    InputError: if the data set is not on the disk, or damaged.
  """
  hint = (
    "Prepare it with TensorFlow Datasets:"
    " tfds.builder('tiny_shakespeare', file_format='array_record')"
    ".download_and_prepare(); or set `config.data.path` to the folder that"
    " contains it."
  )
  folder = tfds_folders.find(_SHAKESPEARE, path, hint=hint)
  return _dataset(
    _read_shakespeare(folder, "train"),
    _read_shakespeare(folder, "test"),
    _read_shakespeare(folder, "validation"),
    context=context,
    train_bytes=train_bytes,
    test_bytes=test_bytes,
  )


@functools.cache
def _stdlib() -> text_files.Corpus:
  folder = pathlib.Path(sysconfig.get_paths()["stdlib"])
  names = [
    name
    for name in text_files.list_files(folder, ["*.py"])
    if not any(
      part in _NOT_STDLIB or part.startswith(_NOT_STDLIB_PREFIXES)
      for part in name.split("/")
    )
  ]
  return text_files.read(folder, names)


def _check_digest(
  corpus: text_files.Corpus, digest: str | None, what: str
) -> None:
  if digest and digest != corpus.digest:
    raise command_line.InputError(
      f"{what} has the digest {corpus.digest}, but `config.data.digest` is"
      f" {digest}: it is another text. Use the text that the run began with, or"
      " start another run."
    )


def _read_shakespeare(folder: pathlib.Path, split: str) -> np.ndarray:
  examples = tfds_folders.open_split(folder, split, {"text": bytes})
  parts = [
    read(examples, index, lambda example: example["text"])
    for index in range(len(examples))
  ]
  return np.frombuffer(b"".join(part + b"\0" for part in parts), np.uint8)


def _by_file(
  corpus: text_files.Corpus,
  *,
  context: int,
  train_bytes: int,
  test_bytes: int,
  test: float,
  validation: float,
) -> Dataset:
  """Returns a data set of which whole files are held out."""
  train, validated, tested = text_files.hold_out(
    corpus.names, test=test, validation=validation
  )
  return _dataset(
    corpus.part(train, train_bytes),
    corpus.part(tested, test_bytes),
    corpus.part(validated, test_bytes) if validated else None,
    context=context,
    train_bytes=train_bytes,
    test_bytes=test_bytes,
  )


def _dataset(
  train: np.ndarray,
  test: np.ndarray,
  validation: np.ndarray | None,
  *,
  context: int,
  train_bytes: int,
  test_bytes: int,
) -> Dataset:
  """Returns splits of at most so many bytes; 0 takes all."""
  if context < 1 or min(train_bytes, test_bytes) < 0:
    raise ValueError(
      "`context` must be at least 1, `train_bytes` and `test_bytes` at least 0,"
      f" got {context}, {train_bytes} and {test_bytes}."
    )
  splits = {
    "train": train[: train_bytes or None],
    "test": test[: test_bytes or None],
  }
  if validation is not None:
    splits["validation"] = validation[: test_bytes or None]
  return windows.token_dataset(splits, vocabulary=VOCABULARY, context=context)
