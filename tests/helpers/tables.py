"""The rows of all tables, grouped by the program that they compile to."""

import functools
import json
import pathlib
from typing import NamedTuple

from sparsejax.study import papers, reproduce, runs

ROOT = pathlib.Path(__file__).parents[2]
PATHS = sorted((ROOT / "configs" / "tables").glob("*.py"))
NAMES = [path.stem for path in PATHS]


class Kind(NamedTuple):
  """Rows whose programs differ only in numbers; the first of them."""

  table: str
  row: papers.Row
  key: str

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


@functools.cache
def kinds() -> tuple[Kind, ...]:
  """One row per program, over all tables."""
  found: dict[str, Kind] = {}
  for name in NAMES:
    for run in plan(name, table(name).rows, pathlib.Path("/runs")):
      key = json.dumps(_without_numbers(run.config), sort_keys=True)
      found.setdefault(key, Kind(name, run.row, key))
  return tuple(found.values())


# A number that is 0 may leave nothing to compute.
def _without_numbers(value):
  if isinstance(value, dict):
    return {
      key: _without_numbers(item)
      for key, item in value.items()
      if key not in ("init_from", "data")
    }
  if isinstance(value, list):
    return [_without_numbers(item) for item in value]
  if isinstance(value, bool) or not isinstance(value, int | float):
    return value.partition("=")[0] if isinstance(value, str) else value
  return "0" if value == 0 else "1"
