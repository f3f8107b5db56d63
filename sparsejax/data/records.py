"""Read one record of a data set; an error names the record.

Nothing that a data set holds is trusted: a damaged record ends in one line.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

from sparsejax import command_line

REMEDY = (
  "Replace the file, or delete the folder and prepare the data set again; then"
  " run the same command."
)
"""What to do about a damaged file."""

_T = TypeVar("_T")


@runtime_checkable
class Records(Protocol):
  """Random access to records, as a sequence has it."""

  def __len__(self) -> int:
    """Returns the number of records N."""
    ...

  def __getitem__(self, index: int, /) -> Any:
    """Returns one record; `index` is in [0, N)."""
    ...


@runtime_checkable
class Stored(Records, Protocol):
  """Records that are stored in files."""

  def where(self, index: int) -> str:
    """Returns the file of a record, and the number of the record in it."""
    ...


def read(records: Records, index: int, decode: Callable[[Any], _T]) -> _T:
  """Read and decode one record.

  Args:
    records: of a data set; an error names the file of those that are `Stored`.
    index: of the record, in [0, len(records)).
    decode: what to do with the record.

  Returns:
    What `decode` returns.

  Raises:
    InputError: if reading or `decode` raises it; the message names the record.
  """
  try:
    return decode(records[index])
  except command_line.InputError as error:
    where = f"record {index}"
    if isinstance(records, Stored):
      where = records.where(index)
    raise command_line.InputError(f"{where}: {error} {REMEDY}") from error


def check_label(label: int, classes: int) -> int:
  """Returns the label.

  Args:
    label: any integer.
    classes: number of classes K.

  Raises:
    InputError: if the label is not in [0, K).
  """
  if not 0 <= label < classes:
    raise command_line.InputError(
      f"labels must be in [0, {classes}), got {label}."
    )
  return label
