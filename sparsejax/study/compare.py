"""Compare runs by method and sparsity, over seeds.

  python -m sparsejax.study.compare RUN... [--csv FILE] [--plot FILE]

  RUN           a run's workdir, a folder of such, or a glob ("runs/*")
  --csv FILE    one line for each run
  --plot FILE   accuracy over sparsity (needs matplotlib)

Prints test accuracies in %: mean ± standard deviation, and how many runs. Only
the records of the runs are read. Exit status: 0 done, 2 bad input.
"""

import glob
import pathlib
import sys
from collections.abc import Sequence

from sparsejax import command_line, plots
from sparsejax.plots import comparison
from sparsejax.study import tables

BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line.

  Args:
    argv: the arguments without the program's name; `sys.argv` by default.

  Returns:
    The exit status.
  """
  argv = sys.argv[1:] if argv is None else argv
  if {"--help", "-h"} & set(argv):
    print(__doc__)
    return 0
  try:
    _compare(argv)
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    return BAD_INPUT
  except OSError as error:
    where = f"{error.filename}: " if error.filename else ""  # Not a full disk.
    print(f"error: {where}{error.strerror or error}", file=sys.stderr)
    return BAD_INPUT
  return 0


def _compare(argv: Sequence[str]) -> None:
  parser = command_line.Parser()
  parser.add_argument("runs", nargs="*")
  parser.add_argument("--csv", type=pathlib.Path)
  parser.add_argument("--plot", type=pathlib.Path)
  requested = parser.parse_args(argv)
  if requested.plot is not None and not plots.has_matplotlib():
    raise command_line.InputError(
      "`--plot` needs matplotlib: pip install 'sparsejax[plots]'."
    )
  done, unfinished = find(requested.runs)
  results = comparison.read_results(done)
  found = comparison.cells(results)
  tables.show(comparison.rows(found))
  for line in comparison.repeated(results):
    print(f"note: {line}")
  if unfinished:
    listed = ", ".join(map(str, unfinished))
    print(f"note: {len(unfinished)} runs are not done and left out: {listed}")
  if requested.csv is not None:
    _write_csv(results, requested.csv)
  if requested.plot is not None:
    comparison.plot(found, requested.plot)


def find(
  patterns: Sequence[str],
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
  """Find the runs that a command line names.

  Args:
    patterns: workdirs, folders of workdirs, or globs of either.

  Returns:
    The folders of runs that are done, and of those that are not; each once, in
    order.

  Raises:
    arguments.InputError: if one names nothing, or none of all is done.
  """
  if not patterns:
    raise command_line.InputError(
      "RUN is missing: give workdirs or a glob, 'runs/*'."
    )
  folders: dict[pathlib.Path, None] = {}
  for pattern in patterns:
    named = [pathlib.Path(name) for name in sorted(glob.glob(pattern))]
    runs = [run for path in named for run in _runs_in(path)]
    if not runs:
      raise command_line.InputError(
        f"{pattern!r} names no run: there is no config.json in it, nor in a"
        " folder in it."
      )
    folders |= dict.fromkeys(runs)
  done = [path for path in folders if (path / "summary.json").exists()]
  if not done:
    raise command_line.InputError(f"None of {len(folders)} runs is done.")
  return done, [path for path in folders if path not in done]


def _runs_in(path: pathlib.Path) -> list[pathlib.Path]:
  if (path / "config.json").exists():
    return [path]
  return sorted(found.parent for found in path.glob("*/config.json"))


def _write_csv(
  results: Sequence[comparison.Result], path: pathlib.Path
) -> None:
  """Writes every scalar of every summary."""
  records = [
    {"label": r.label, "workdir": str(r.workdir)}
    | {k: v for k, v in r.summary.items() if not isinstance(v, list | dict)}
    for r in results
  ]
  tables.write_csv(records, path)


if __name__ == "__main__":
  sys.exit(main())
