"""Read the records of a run from its workdir."""

import json
import pathlib
from typing import Any, NamedTuple


class Run(NamedTuple):
  """The records of one run.

  Attributes:
    config: contents of `config.json`.
    rows: lines of `metrics.jsonl`, by ascending step.
    summary: contents of `summary.json`; empty for an unfinished run.
  """

  config: dict[str, Any]
  rows: list[dict[str, Any]]
  summary: dict[str, Any]


def read_run(workdir: pathlib.Path) -> Run:
  """Read the records of a run, which may still be training.

  Args:
    workdir: the run's workdir.

  Returns:
    Its records.

  Raises:
    FileNotFoundError: if it is not the workdir of a run.
  """
  summary = workdir / "summary.json"
  lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
  return Run(
    config=json.loads((workdir / "config.json").read_text(encoding="utf-8")),
    # A last line without a newline is still being written.
    rows=[json.loads(line) for line in lines[:-1]],
    summary=json.loads(summary.read_text(encoding="utf-8"))
    if summary.exists()
    else {},
  )
