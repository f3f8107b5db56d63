"""Tokens of any tokenizer, memory-mapped from files of numpy."""

import pathlib

import numpy as np

from sparsejax import command_line
from sparsejax.data import windows
from sparsejax.data.dataset import Dataset

_DTYPES = ("uint8", "uint16", "int32")


def tokens(
  *,
  path: str,
  vocabulary_size: int,
  bytes_per_token: float,
  context: int = 1024,
) -> Dataset:
  """Read a folder with `train.npy`, `test.npy` and maybe `validation.npy`.

  Each is a one-dimensional array of token numbers, as `numpy.save` writes it:
  uint8, uint16 or int32. It is mapped, and copied to the devices as it is.

  Args:
    path: the folder.
    vocabulary_size: number of tokens; all token numbers are below it.
    bytes_per_token: mean bytes of a token, for bits per byte; above 0.
    context: tokens T that the model reads at once, at least 1.

  Returns:
    The data set.

  Raises:
    ValueError: if an argument is out of range.
    InputError: if a file is missing, damaged or of another kind, or has a token
      that is not in the vocabulary.
  """
  if min(vocabulary_size, context) < 1 or not bytes_per_token > 0:
    raise ValueError(
      "`vocabulary_size` and `context` must be at least 1, `bytes_per_token`"
      f" above 0, got {vocabulary_size}, {context} and {bytes_per_token}."
    )
  command_line.refuse_url("`config.data.path`", path)
  folder = pathlib.Path(path).expanduser()
  paths = {
    name: folder / f"{name}.npy" for name in ("train", "test", "validation")
  }
  if not paths["validation"].exists():
    paths.pop("validation")
  return windows.token_dataset(
    {name: _map(found, vocabulary_size) for name, found in paths.items()},
    vocabulary=vocabulary_size,
    context=context,
    bytes_per_token=bytes_per_token,
  )


def _map(path: pathlib.Path, vocabulary: int) -> np.ndarray:
  """Maps a file of tokens, and checks their kind and range."""
  try:
    found = np.load(path, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or str(error)
    raise command_line.InputError(
      f"{path} cannot be read: {reason}. Write it with `numpy.save`, or correct"
      " `config.data.path`."
    ) from error
  if found.ndim != 1 or found.dtype.name not in _DTYPES:
    raise command_line.InputError(
      f"{path} must be a one-dimensional array of {', '.join(_DTYPES)}, got"
      f" {found.dtype.name} of the shape {found.shape}."
    )
  if found.size and not 0 <= found.min() <= found.max() < vocabulary:
    raise command_line.InputError(
      f"{path} must hold tokens in [0, {vocabulary}), got {found.min()} to"
      f" {found.max()}. Correct `config.data.vocabulary_size`."
    )
  return found
