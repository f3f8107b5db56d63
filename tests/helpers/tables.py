"""The rows of all tables, and what of them is one program."""

import functools
import json
import pathlib
from typing import NamedTuple

from sparsejax.study import papers, reproduce

ROOT = pathlib.Path(__file__).parents[2]
PATHS = sorted((ROOT / "configs" / "tables").glob("*.py"))
NAMES = [path.stem for path in PATHS]


class Kind(NamedTuple):
  """Rows whose programs differ in numbers alone; the first one of them."""

  table: str
  row: papers.Row
  key: str

  @property
  def name(self) -> str:
    return f"{self.table}:{self.row.name}"


@functools.cache
def table(name: str) -> papers.Table:
  return reproduce.load(str(ROOT / "configs" / "tables" / f"{name}.py"))[0]


def plan(name, rows, workdir, *changes, runlocal=False) -> list[reproduce.Run]:
  return reproduce.plan(
    table(name),
    rows,
    root=ROOT,
    workdir=workdir,
    changes=changes,
    runlocal=runlocal,
  )


@functools.cache
def kinds() -> tuple[Kind, ...]:
  """One row for each program, over all tables."""
  found: dict[str, Kind] = {}
  for name in NAMES:
    for run in plan(name, table(name).rows, pathlib.Path("/runs")):
      key = json.dumps(_without_numbers(run.config), sort_keys=True)
      found.setdefault(key, Kind(name, run.row, key))
  return tuple(found.values())


# Where a number is 0, there may be nothing to compute.
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
