"""Reproduce a paper's table: train its rows and compare with the paper.

  python -m sparsejax.study.reproduce TABLE [--rows GLOB...] [--list]

  TABLE             a table or figure of the package, such as granet_2 or
                    granet_fig4, or a .py file
  --rows GLOB...    rows by name ("granet-0*/vgg19/*"); default: all
  --seeds N         train each row with the seeds 0 to N - 1 (1)
  --together        all seeds of a row in one program, see config.seeds
  --epochs E        of every run, instead of the paper's
  --workdir DIR     folder of the runs (runs/reproduce)
  --csv FILE        where to write the numbers (DIR/TABLE.csv); the table goes
                    into a .md file next to it
  --list            train nothing; list the rows and what is done
  --runlocal        20 steps of a narrow network on synthetic images
  --config.KEY=VALUE, --distributed, ...   as for sparsejax.train

Runs are identified by their configs: a run that is done is not repeated, even
if it was trained for another table, and a run that was stopped is resumed. If a
row starts from another row's weights or masks, that one is trained first. If it
has to reach a sparsity that its method does not take (STR), the argument that
leads there is searched first, as sparsejax.study.seek does, and kept in
DIR/sought.

With --together the seeds of a row share a folder until all of them are done;
rows that start from another row, and runs that were begun by themselves, are
trained one by one.

Accuracies are test accuracies in %: ours after the last step (or of the
selected checkpoint, with --config.select_checkpoint=best), followed by the best
evaluation after the last pruning, which is what GraNet's tables report. FLOPs
are ratios to the dense network. A star marks a cost that was computed without a
run, which works if the method fixes the number of active weights per layer; an
exclamation mark, that it differs from the printed one by more than 2 %. A
figure is drawn next to the CSV file, with the runs that are done and what is
published.

Exit status: as for sparsejax.train. After a signal (143) the same command
resumes. A run that ends with 3, a value not finite, does not stop the others.
"""

import argparse
import fnmatch
import pathlib
import sys
from collections.abc import Sequence

from sparsejax import command_line
from sparsejax.method import described
from sparsejax.study import papers, seek, tables
from sparsejax.training.config import files

_OPTIONS = (
  "--rows",
  "--seeds",
  "--together",
  "--epochs",
  "--workdir",
  "--csv",
  "--list",
)


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line.

  Args:
    argv: arguments without the program's name; `sys.argv` by default.

  Returns:
    The exit status.
  """
  return command_line.run(
    _reproduce,
    argv,
    name="sparsejax.study.reproduce",
    doc=__doc__,
    hint=command_line.RESUME,
  )


def _reproduce(argv: list[str]) -> int:
  from sparsejax.study import (  # Of the extra `train`.
    figures,
    jobs,
    results,
    runs,
    sought,
  )
  from sparsejax.training import outcomes, processes

  parsed, changes = _parse(argv)
  table, path = load(parsed.table)
  rows = select(table, parsed.rows)
  workdir = parsed.workdir.resolve()
  arguments = {}
  if not parsed.runlocal:
    trains = not parsed.list
    try:
      arguments = sought.arguments(
        rows, workdir=workdir, changes=changes, trains=trains
      )
    except seek.Failed as failed:
      return failed.status
  planned = runs.plan(
    table,
    rows,
    workdir=workdir,
    seeds=parsed.seeds,
    changes=changes,
    sought=arguments,
    runlocal=parsed.runlocal,
  )
  print(f"{table.reference}: {table.title}")
  status = outcomes.DONE
  if parsed.list:
    runs.print_status(rows, planned)
  else:
    again = ["python", "-m", "sparsejax.study.reproduce", *argv]
    status = jobs.train_missing(planned, again, together=parsed.together)
  if status not in (outcomes.DONE, outcomes.NOT_FINITE):
    return status
  if parsed.list or processes.is_first():
    found = [results.read(run) for run in planned if run.done]
    predicted = results.predict(table, planned)
    lines = results.side_by_side(table, rows, found, predicted)
    tables.print_table(lines)
    for note in results.notes(rows):
      print(f"note: {note}")
    if found:
      csv = parsed.csv or workdir / f"{path.stem}.csv"
      tables.write_csv(list(map(results.record, found)), csv)
      text = tables.markdown(lines) + "\n"
      csv.with_suffix(".md").write_text(text, encoding="utf-8")
      print(f"Numbers of each run: {csv}")
      if table.plot is not None:
        figures.draw(table, found, csv.with_suffix(".png"))
  return status


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
  """Returns our own arguments, and those of the trainer."""
  from sparsejax.training.config import command

  parser = command_line.Parser()
  parser.add_argument("table", metavar="TABLE")
  parser.add_argument("--rows", nargs="+", default=["*"])
  parser.add_argument("--seeds", type=int, default=1)
  parser.add_argument("--together", action="store_true")
  parser.add_argument("--epochs", type=float)
  parser.add_argument(
    "--workdir", type=command_line.path, default=pathlib.Path("runs/reproduce")
  )
  parser.add_argument("--csv", type=command_line.path)
  parser.add_argument("--list", action="store_true")
  parser.add_argument("--runlocal", action="store_true")
  parsed, rest = parser.parse_known_args(argv)
  rest = command_line.join_values(rest)
  known = [f"--{name}" for name in command.FLAGS]
  for arg in rest:
    name = arg.partition("=")[0]
    if not (name.startswith("--config.") or name in known):
      raise command_line.unknown("The command line", name, [*_OPTIONS, *known])
  if parsed.seeds < 1:
    raise command_line.InputError(
      f"`--seeds` must be at least 1, got {parsed.seeds}."
    )
  if parsed.epochs is not None:
    rest = [*rest, f"--config.epochs={parsed.epochs!r}"]
  return parsed, rest


def load(name: str) -> tuple[papers.Table, pathlib.Path]:
  """Load a table by its name or its file.

  Args:
    name: the path of a `.py` file, or the name of a table of the package.

  Returns:
    The table and its file.

  Raises:
    InputError: if there is no such table.
  """
  path = files.find("TABLE", name, under="tables")
  table = getattr(files.load(path), "TABLE", None)
  if not isinstance(table, papers.Table):
    raise command_line.InputError(
      f"{path} has no `TABLE` of `sparsejax.study.papers`."
    )
  _check_rows(table, path)
  _check_order(table, path)
  return table, path


def _check_rows(table: papers.Table, path: pathlib.Path) -> None:
  """Raises `InputError` unless the table has rows, and nothing else."""
  rows = table.rows
  is_list = isinstance(rows, tuple | list) and bool(rows)
  if not is_list or not all(isinstance(row, papers.Row) for row in rows):
    raise command_line.InputError(
      f"`rows` of the `TABLE` in {path} must be a tuple of `papers.Row`, got"
      f" {described(rows)}."
    )


def _check_order(table: papers.Table, path: pathlib.Path) -> None:
  """Raises `InputError` unless rows come after those that they start from."""
  seen = set()
  for row in table.rows:
    if row.after is not None and row.after not in seen:
      raise command_line.InputError(
        f"The row {row.name!r} of {path} starts from {row.after!r}, which is no"
        " row before it. Correct `after`, or the order."
      )
    seen.add(row.name)


def select(table: papers.Table, globs: Sequence[str]) -> list[papers.Row]:
  """Returns the rows whose names match a glob, in the table's order.

  Raises:
    InputError: if a glob matches no row.
  """
  names = [row.name for row in table.rows]
  for glob in globs:
    if not fnmatch.filter(names, glob):
      raise command_line.unknown("`--rows`", glob, names)
  return [
    row
    for row in table.rows
    if any(fnmatch.fnmatchcase(row.name, glob) for glob in globs)
  ]


if __name__ == "__main__":
  sys.exit(main())
