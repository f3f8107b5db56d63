"""Compare runs by method and sparsity, over seeds.

  python -m sparsejax.study.compare RUN... [--report FILE] [--csv FILE]
      [--plot FILE]

  RUN           a run's workdir, a folder of workdirs, or a glob ("runs/*")
  --report FILE write an HTML page: results, curves, layers, times, configs
  --csv FILE    write one line per run
  --plot FILE   plot the results over sparsity (needs matplotlib)

Prints test accuracies in %, or what else the task measures: mean ± standard
deviation (number of runs). Reads only the records of the runs.

Exit status: 0 done, 2 bad input.
"""

import glob
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from sparsejax import command_line, plots
from sparsejax.plots import records
from sparsejax.study import tables


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line.

  Args:
    argv: arguments without the program's name; `sys.argv` by default.

  Returns:
    The exit status.
  """
  return command_line.run(
    _compare, argv, name="sparsejax.study.compare", doc=__doc__
  )


def _compare(argv: list[str]) -> int:
  parser = command_line.Parser()
  parser.add_argument("runs", nargs="*")
  parser.add_argument("--report", type=command_line.path)
  parser.add_argument("--csv", type=command_line.path)
  parser.add_argument("--plot", type=command_line.path)
  parsed = parser.parse_args(argv)
  if parsed.plot is not None and not plots.has_matplotlib():
    raise command_line.InputError(
      "`--plot` needs matplotlib: pip install 'sparsejax[plots]'."
    )
  done, unfinished = find(parsed.runs)
  results = plots.read_results(done)
  averages = plots.average_seeds(results)
  tables.print_table(plots.result_table(averages))
  for line in plots.duplicate_seeds(results):
    print(f"note: {line}")
  if unfinished:
    listed = ", ".join(map(str, unfinished))
    print(f"note: skipped {len(unfinished)} unfinished runs: {listed}")
  if parsed.report is not None:
    plots.write_comparison(done, parsed.report)
    print(f"Report: {parsed.report}")
  if parsed.csv is not None:
    tables.write_csv(list(map(_record, results)), parsed.csv)
  if parsed.plot is not None:
    plots.plot_results(averages, parsed.plot)
    for average in averages:
      if average.sparsity == 1:
        print(f"note: {average.label} has no active weights to plot.")
  return command_line.DONE


def find(
  patterns: Sequence[str],
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
  """Find runs by workdir, folder or glob.

  Args:
    patterns: workdirs, folders of workdirs, or globs of either.

  Returns:
    The workdirs of finished runs and of unfinished ones, each once, in order.

  Raises:
    InputError: if a pattern matches no run, or no run is finished.
  """
  if not patterns:
    raise command_line.InputError(
      "RUN is missing: give workdirs or a glob, 'runs/*'."
    )
  workdirs: dict[pathlib.Path, None] = {}
  for pattern in patterns:
    # A name that exists may have characters of a glob in it.
    names = [pattern] if os.path.exists(pattern) else glob.glob(pattern)
    paths = [pathlib.Path(name) for name in sorted(names)]
    runs = [run for path in paths for run in _runs_in(path)]
    if not runs:
      raise command_line.InputError(
        f"{pattern!r} matches no run: neither it nor a folder in it has a"
        " config.json."
      )
    workdirs |= dict.fromkeys(runs)
  done = [path for path in workdirs if (path / "summary.json").exists()]
  if not done:
    raise command_line.InputError(f"None of {len(workdirs)} runs is finished.")
  return done, [path for path in workdirs if path not in done]


def _runs_in(path: pathlib.Path) -> list[pathlib.Path]:
  if not (path / "config.json").exists():
    found = sorted(each.parent for each in path.glob("*/config.json"))
    return [run for each in found for run in _runs_in(each)]
  return records.single_runs(path)


def _record(result: plots.Result) -> dict[str, Any]:
  """Returns a line of the CSV file."""
  labels = {"label": result.label, "workdir": str(result.workdir)}
  return labels | tables.scalars(result.summary)


if __name__ == "__main__":
  sys.exit(main())
