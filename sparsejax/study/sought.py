"""Rows of a table that have to reach a sparsity which is no argument."""

import json
import pathlib
from collections.abc import Mapping, Sequence

from sparsejax.study import papers, runs as row_runs, seek
from sparsejax.training.config import command, keys
from sparsejax.training.reporting import workdirs

_TOLERANCE = 0.005
_MOST_RUNS = 16
_SHORTER = 8  # Searches begin with runs of this part of the length.


def arguments(
  rows: Sequence[papers.Row],
  *,
  workdir: pathlib.Path,
  changes: Sequence[str],
  trains: bool,
) -> dict[str, tuple[str, ...]]:
  """Find the arguments of rows that have to reach a sparsity.

  A row is searched once, with seed 0; its other seeds take the same argument.
  The last run of a search is the row's own run.

  Args:
    rows: rows of a table.
    workdir: folder of the runs, absolute.
    changes: more arguments of the trainer, for all runs.
    trains: whether to search where nothing was found before.

  Returns:
    By row name, arguments of the trainer; rows without a search, and those of
    which nothing is known, are missing.

  Raises:
    seek.Failed: if a run of a search ends with another status than 0.
  """
  found = {}
  for row in rows:
    if row.seek is None or row.config is None:
      continue
    path = workdir / "sought" / f"{row.name.replace('/', '-')}.json"
    known = _read(path, row, changes)
    if known is None and trains:
      known = _search(row, workdir, changes)
      path.parent.mkdir(parents=True, exist_ok=True)
      workdirs.write_json(path, known)
    if known is not None:
      found[row.name] = (f"--config.{known['key']}={known['value']!r}",)
  return found


def _argv(row: papers.Row, changes: Sequence[str]) -> list[str]:
  return [f"--config={row.config}", *row.changes, "--config.seed=0", *changes]


def _read(
  path: pathlib.Path, row: papers.Row, changes: Sequence[str]
) -> Mapping[str, object] | None:
  """Returns what an earlier search with the same arguments found."""
  if not path.is_file():
    return None
  known = json.loads(path.read_text())
  same = known["arguments"] == _argv(row, changes) and known["seek"] == row.seek
  return known if same else None


def _search(
  row: papers.Row, workdir: pathlib.Path, changes: Sequence[str]
) -> dict[str, object]:
  assert row.seek is not None
  argv = _argv(row, changes)
  search = seek.Search(row.seek, _TOLERANCE, _MOST_RUNS)

  def folder(value: float, epochs: float | None) -> pathlib.Path:
    return row_runs.folder(row, runs.arguments(value, epochs), workdir)

  runs = seek.Runs(folder, argv)
  epochs = keys.resolved(command.parse(argv).config)["epochs"]
  print(f"\n{row.name}: searching for a sparsity of {row.seek:.2%}")
  tried = seek.run(search, runs, short_epochs=epochs / _SHORTER)
  best = search.closest(tried)
  if not search.found(best):
    print(f"note: {row.name} ends at {best.sparsity:.2%}, the closest found")
  return {
    "arguments": argv,
    "seek": row.seek,
    "key": runs.key,
    "value": best.value,
    "sparsity": best.sparsity,
  }
