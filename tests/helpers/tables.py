"""The rows of all tables, grouped by the program that they compile to."""

import functools
import pathlib
import re
from typing import NamedTuple

from sparsejax.study import papers, reproduce, runs

ROOT = pathlib.Path(__file__).parents[2]
PATHS = sorted((ROOT / "configs" / "tables").glob("*.py"))
NAMES = [path.stem for path in PATHS]
_NUMBER = re.compile(r"(?<==)-?[\d.]+(e-?\d+)?(?=,|$)")


class Kind(NamedTuple):
  """Rows whose arguments differ only in numbers and classes; their first."""

  table: str
  row: papers.Row

  @property
  def name(self) -> str:
    return f"{self.table}:{self.row.name}"


@functools.cache
def table(name: str) -> papers.Table:
  return reproduce.load(name)[0]


def plan(name, rows, workdir, *changes, runlocal=False) -> list[runs.Run]:
  return runs.plan(
    table(name), rows, workdir=workdir, changes=changes, runlocal=runlocal
  )


def kinds() -> list[Kind]:
  """One row for all that compile to the same program, over all tables.

  By their arguments, because to parse the configs of all rows takes seconds.
  """
  found: dict[tuple[str, ...], Kind] = {}
  for name in NAMES:
    for row in table(name).rows:
      if row.config is not None:
        arguments = map(_without_numbers, (row.config, *row.changes))
        key = (*arguments, str(row.after is None))
        found.setdefault(key, Kind(name, row))
  return list(found.values())


def _without_numbers(argument: str) -> str:
  """A number that is 0 may leave nothing to compute."""
  return _NUMBER.sub(
    lambda found: "0" if float(found[0]) == 0 else "1",
    argument.replace("cifar100", "cifar10"),
  )
