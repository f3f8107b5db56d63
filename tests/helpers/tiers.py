"""Which cases of a test always run, and which belong to the slow tier."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

SLOW = pytest.mark.slow


def some(cases: Iterable[Any], always: Callable[[Any], bool]) -> list[Any]:
  """Returns all cases; those that `always` does not choose are slow."""
  return [case if always(case) else _slow(case) for case in cases]


def every(step: int, cases: Sequence[Any]) -> list[Any]:
  """Returns all cases; of every `step` of them, all but the first are slow."""
  return [_slow(case) if i % step else case for i, case in enumerate(cases)]


def pairs(rows: Iterable[Any], columns: Iterable[Any]) -> list[Any]:
  """Returns all pairs; as few as show every row and column always run."""
  rows, columns = list(rows), list(columns)
  always = {
    (rows[i % len(rows)], columns[i % len(columns)])
    for i in range(max(len(rows), len(columns)))
  }
  return [
    pytest.param(row, column, marks=() if (row, column) in always else SLOW)
    for row in rows
    for column in columns
  ]


def _slow(case: Any) -> Any:
  """Returns a case, or a tuple of the values of one, marked slow."""
  values = case if type(case) is tuple else (case,)
  return pytest.param(*values, marks=SLOW)
