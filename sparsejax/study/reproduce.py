"""Reproduce a paper's table: train its rows, and lay ours beside theirs.

  python -m sparsejax.study.reproduce TABLE [--rows GLOB...] [--list]

  TABLE             a file of configs/tables, or its name: granet_2
  --rows GLOB...    rows by name ("granet-0*/vgg19/*"); all without it
  --seeds N         train each row with the seeds 0 to N - 1 (1)
  --epochs E        of every run, instead of the paper's
  --workdir DIR     where the runs go (runs/reproduce)
  --csv FILE        where the numbers go (DIR/TABLE.csv)
  --list            train nothing: show the rows, and what is there
  --runlocal        20 steps of a narrow network on made-up images
  --config.KEY=VALUE, --distributed, ...   as for sparsejax.train

A run is known by its config: what is done is not repeated, also where another
table has the same row, and what was stopped goes on. A row that starts from
another one's weights or masks has that one trained first.

Accuracies are in %: ours at the last step (of the checkpoint that is selected,
with --config.select_checkpoint=best), and beside it the best one of the
evaluations after the last pruning, which is what GraNet's tables show; both
are of the test split. FLOP ratios are to the dense network; those with a star
were computed without a run, which is possible where the method fixes how many
weights each layer has.

Exit status as that of sparsejax.train: 143 after SIGTERM, and the same command
goes on; a run that ends with 3, a number not finite, does not stop the others.
"""

import fnmatch
import hashlib
import json
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sparsejax import command_line, train
from sparsejax.study import forecast, papers, tables
from sparsejax.training import loop, processes
from sparsejax.training.config import build, command
from sparsejax.training.reporting import records

_TABLES = pathlib.Path("configs/tables")
_OWN = ("--rows", "--seeds", "--epochs", "--workdir", "--csv", "--list")


class Run(NamedTuple):
  """One run of a row.

  Attributes:
    row: of the table.
    seed: of the run.
    argv: arguments of the trainer, `--workdir` included.
    config: resolved.
    workdir: its folder, which its config alone decides.
    before: the run that it starts from, if any.
  """

  row: papers.Row
  seed: int
  argv: tuple[str, ...]
  config: dict[str, Any]
  workdir: pathlib.Path
  before: "Run | None" = None


class Result(NamedTuple):
  """What a run that is done left.

  Attributes:
    run: the run.
    summary: what `summary.json` holds.
    best_accuracy: the highest test accuracy, in [0, 1], of the evaluations
      after the last pruning.
  """

  run: Run
  summary: dict[str, Any]
  best_accuracy: float


class Column(NamedTuple):
  """A kind of number that papers publish.

  Attributes:
    title: its header.
    ours: (result) -> our number in the paper's unit.
    digits: behind the point.
    best: (result) -> likewise, of the best evaluation; `None` where there is
      one number alone.
    ahead: (forecast, multiplier of the run) -> likewise, before there is a run.
  """

  title: str
  ours: Callable[[Result], float]
  digits: int
  best: Callable[[Result], float] | None = None
  ahead: Callable[[forecast.Forecast, float], float] | None = None


COLUMNS: dict[str, Column] = {
  "accuracy": Column(
    "accuracy in %",
    lambda result: 100 * result.summary["test_accuracy"],
    2,
    lambda result: 100 * result.best_accuracy,
  ),
  # Longer training counts: the dense run is of the usual length.
  "training": Column(
    "training FLOPs",
    lambda result: (
      result.summary["training_flops_ratio"]
      * result.summary["epochs_multiplier"]
    ),
    2,
    ahead=lambda found, longer: found.training_flops_ratio * longer,
  ),
  "inference": Column(
    "inference FLOPs",
    lambda result: result.summary["inference_flops_ratio"],
    2,
    ahead=lambda found, longer: found.inference_flops_ratio,
  ),
  "million_macs": Column(
    "MACs in millions",
    lambda result: result.summary["inference_macs"] / 1e6,
    0,
    ahead=lambda found, longer: found.inference_macs / 1e6,
  ),
  "loss": Column("loss", lambda result: result.summary["test_loss"], 4),
  "connections": Column(
    "connections", lambda result: result.summary["active"], 0
  ),
}
"""The columns that a table may have, beside the names of layers."""


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
    return _reproduce(argv)
  except (command_line.InputError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return train.BAD_INPUT
  except KeyboardInterrupt:
    print("interrupted; the same command goes on", file=sys.stderr)
    return train.INTERRUPTED


def _reproduce(argv: Sequence[str]) -> int:
  requested, changes = _parse(argv)
  table, path = load(requested.table)
  rows = chosen(table, requested.rows)
  workdir = requested.workdir.resolve()
  runs = plan(
    table,
    rows,
    root=path.parents[2],
    workdir=workdir,
    seeds=requested.seeds,
    changes=changes,
    runlocal=requested.runlocal,
  )
  print(f"{table.reference}: {table.title}")
  if requested.list:
    _list(rows, runs)
  status = loop.DONE if requested.list else _train(runs, argv)
  if status not in (loop.DONE, loop.NOT_FINITE):
    return status
  if requested.list or processes.is_first():
    results = [read(run) for run in runs if records.finished(run.workdir)]
    known = ahead(table, runs)
    tables.show(side_by_side(table, rows, results, known))
    _tell_notes(rows)
    if results:
      csv = requested.csv or workdir / f"{path.stem}.csv"
      tables.write_csv(list(map(_record, results)), csv)
      print(f"Numbers of each run: {csv}")
  return status


def _parse(argv: Sequence[str]) -> tuple[Any, list[str]]:
  """Returns what is requested, and the trainer's own arguments."""
  parser = command_line.Parser()
  parser.add_argument("table")
  parser.add_argument("--rows", nargs="+", default=["*"])
  parser.add_argument("--seeds", type=int, default=1)
  parser.add_argument("--epochs", type=float)
  parser.add_argument(
    "--workdir", type=pathlib.Path, default=pathlib.Path("runs/reproduce")
  )
  parser.add_argument("--csv", type=pathlib.Path)
  parser.add_argument("--list", action="store_true")
  parser.add_argument("--runlocal", action="store_true")
  requested, rest = parser.parse_known_args(argv)
  known = [f"--{name}" for name in command.flag_names()]
  for arg in rest:
    name = arg.partition("=")[0]
    if not (name.startswith("--config.") or name in known):
      raise command_line.unknown("The command line", name, [*_OWN, *known])
  if requested.seeds < 1:
    raise command_line.InputError(
      f"`--seeds` must be at least 1, got {requested.seeds}."
    )
  if requested.epochs is not None:
    rest = [*rest, f"--config.epochs={requested.epochs!r}"]
  return requested, rest


def load(name: str) -> tuple[papers.Table, pathlib.Path]:
  """Find a table by its name or its file.

  Args:
    name: a path, or the name of a file in `configs/tables`.

  Returns:
    The table and its file, whose configs are two folders above.

  Raises:
    InputError: if there is no such table.
  """
  path = pathlib.Path(name)
  if path.suffix != ".py":
    path = _TABLES / f"{name}.py"
  if not path.is_file():
    raise command_line.unknown(
      "TABLE", name, [path.stem for path in _TABLES.glob("*.py")]
    )
  table = getattr(command.load_module(path), "TABLE", None)
  if not isinstance(table, papers.Table):
    raise command_line.InputError(
      f"{path} has no `TABLE` of `sparsejax.papers`."
    )
  return table, path.resolve()


def chosen(table: papers.Table, globs: Sequence[str]) -> list[papers.Row]:
  """Returns the rows whose names match, in the table's order.

  Raises:
    InputError: if a glob matches none.
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


def plan(
  table: papers.Table,
  rows: Sequence[papers.Row],
  *,
  root: pathlib.Path,
  workdir: pathlib.Path,
  seeds: int = 1,
  changes: Sequence[str] = (),
  runlocal: bool = False,
) -> list[Run]:
  """Turn rows into runs of the trainer.

  Args:
    table: of the rows.
    rows: those that are requested.
    root: folder that the rows' configs are seen from.
    workdir: folder of the runs, absolute.
    seeds: each row is trained with the seeds below it.
    changes: further arguments of the trainer, for all runs.
    runlocal: whether the configs are given that word.

  Returns:
    A run for each row that can be trained and each seed; one that starts from
    another one behind that, which is in it even if its row is not requested.
    Rows of the same config have the same folder.

  Raises:
    InputError: if a config does not resolve.
  """
  by_name = {row.name: row for row in table.rows}
  found: dict[tuple[str, int], Run] = {}

  def add(row: papers.Row, seed: int) -> Run:
    key = row.name, seed
    if key not in found:
      before = None if row.after is None else add(by_name[row.after], seed)
      found[key] = _run(row, seed, before)
    return found[key]

  def _run(row: papers.Row, seed: int, before: Run | None) -> Run:
    assert row.config is not None
    argv = [f"--config={root / row.config}{',runlocal' if runlocal else ''}"]
    argv += [*row.changes, f"--config.seed={seed}", *changes]
    if before is not None:
      argv.append(f"--config.init_from={before.workdir}")
    config = build.resolved(command.parse(argv).config)
    folder = workdir / _folder(row.config, config, before)
    argv.append(f"--workdir={folder}")
    return Run(row, seed, tuple(argv), config, folder, before)

  for row in rows:
    for seed in range(seeds) if row.config is not None else ():
      add(row, seed)
  return list(found.values())


def _folder(name: str, config: Mapping[str, Any], before: Run | None) -> str:
  """Returns a name that a config alone decides, and what it starts from."""
  alone = {k: v for k, v in config.items() if k != "init_from"}
  known = [alone, before and before.workdir.name]
  digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
  readable = re.sub(r"[^\w.]+", "-", name.rpartition("/")[2].replace(".py", ""))
  return f"{readable}-seed{config['seed']}-{digest.hexdigest()[:10]}"


def _train(runs: Sequence[Run], argv: Sequence[str]) -> int:
  """Trains what is not done, and returns how that ended."""
  missing = {
    run.workdir: run for run in runs if records.finished(run.workdir) is None
  }
  done = len({run.workdir for run in runs}) - len(missing)
  print(f"{done} runs are done, {len(missing)} are missing.")
  notes: list[str] = []
  title = ""

  def to_train() -> Iterator[tuple[str, Sequence[str]]]:
    nonlocal title
    for number, run in enumerate(missing.values(), 1):
      name = f"{run.row.name}, seed {run.seed}"
      title = f"run {number} of {len(missing)}, {name}"
      before = run.before
      if before is not None and records.finished(before.workdir) is None:
        notes.append(f"{name} was left out: {before.row.name} is not done.")
      else:
        yield f"\nRun {number} of {len(missing)}: {name}", run.argv

  failed = loop.DONE
  for status in train.each(to_train()):
    if status == loop.NOT_FINITE:
      failed = status
      notes.append(f"{title} ended with a number that is not finite.")
    elif status:
      again = shlex.join(["python", "-m", "sparsejax.study.reproduce", *argv])
      print(
        f"Stopped with status {status} in {title}. To go on: {again}",
        file=sys.stderr,
      )
      return status
  for note in notes:
    print(f"note: {note}")
  return failed


def read(run: Run) -> Result:
  """Read what a run left that is done.

  Args:
    run: its workdir holds a summary.

  Returns:
    The result.

  Raises:
    InputError: if the folder is of another run.
  """
  records.claim(run.workdir, run.config)
  summary = records.finished(run.workdir)
  assert summary is not None
  evaluations = [
    row
    for row in records.read_metrics(run.workdir)
    # Before the last pruning more weights were on.
    if "test_accuracy" in row and row["active"] <= summary["active"]
  ]
  best = max((row["test_accuracy"] for row in evaluations), default=0.0)
  return Result(run, summary, max(best, summary["test_accuracy"]))


def column(name: str) -> Column:
  """Returns the column of a name; one that is none is the name of a layer."""
  if name in COLUMNS:
    return COLUMNS[name]

  def sparsity(result: Result) -> float:
    layers = {layer["name"]: layer for layer in result.summary["layers"]}
    return 100 * layers[name]["sparsity"]

  return Column(
    name.removesuffix("/kernel"),
    sparsity,
    1,
    ahead=lambda found, longer: 100 * found.sparsities[name],
  )


def ahead(
  table: papers.Table, runs: Sequence[Run]
) -> dict[str, dict[str, float]]:
  """Price rows that have no run which is done, where that is known.

  Args:
    table: of the rows.
    runs: of the rows.

  Returns:
    Row -> column -> number.
  """
  columns = {n: c.ahead for n in table.columns if (c := column(n)).ahead}
  done = {run.row.name for run in runs if records.finished(run.workdir)}
  found: dict[str, dict[str, float]] = {}
  for run in runs if columns else ():
    if run.row.name in {*done, *found} or run.row.after is not None:
      continue
    known = forecast.forecast(command.parse(run.argv).config)
    if known is not None:
      longer = run.config["epochs_multiplier"]
      found[run.row.name] = {
        name: price(known, longer) for name, price in columns.items() if price
      }
  return found


def side_by_side(
  table: papers.Table,
  rows: Sequence[papers.Row],
  results: Sequence[Result],
  prices: Mapping[str, Mapping[str, float]] | None = None,
) -> list[tuple[str, ...]]:
  """Lay ours beside theirs, as a table of text.

  Args:
    table: of the rows.
    rows: those to show.
    results: of any of them.
    prices: row -> column -> a number that is known without a run, shown with a
      star where there is none.

  Returns:
    The header and a line for each row; a line for each column instead where
    those are many.
  """
  columns = {name: column(name) for name in table.columns}
  header = ["row"]
  for each in columns.values():
    header += [f"{each.title}: theirs", "ours"]
    if each.best is not None:
      header.append("best after pruning")
  lines = [tuple(header)]
  for row in rows:
    ours = [result for result in results if result.run.row == row]
    cells = [row.name]
    known = (prices or {}).get(row.name, {})
    for name, each in columns.items():
      cells.append(_theirs(row.published.get(name), each.digits))
      for number in filter(None, (each.ours, each.best)):
        values = list(map(number, ours))
        if values:
          cells.append(tables.mean(values, each.digits))
        else:
          cells.append(
            f"{known[name]:.{each.digits}f}*" if name in known else ""
          )
    lines.append(tuple(cells))
  if len(columns) > len(COLUMNS):  # Layers.
    return list(zip(*lines, strict=True))
  return lines


def _theirs(figure: papers.Figure | None, digits: int) -> str:
  if figure is None:
    return ""
  found = f"{figure.value:.{digits}f}"
  if figure.deviation is None:
    return found
  return f"{found} ± {figure.deviation:.{digits}f}"


def _list(rows: Sequence[papers.Row], runs: Sequence[Run]) -> None:
  """Shows how each row is trained, and how far that is."""
  for row in rows:
    if row.config is None:
      print(f"{row.name}: not trained here")
      continue
    own = [run for run in runs if run.row == row]
    done = sum(records.finished(run.workdir) is not None for run in own)
    print(f"{row.name}: {done} of {len(own)} done")
    print("    " + shlex.join([f"--config={row.config}", *row.changes]))
    if row.after is not None:
      print(f"    after {row.after}")


def _tell_notes(rows: Sequence[papers.Row]) -> None:
  """Says once what holds for the rows of a line."""
  told: dict[tuple[str, str], list[str]] = {}
  for row in rows:
    if row.source or row.note:
      told.setdefault((row.source, row.note), []).append(row.name)
  for (source, note), names in told.items():
    heads = list(dict.fromkeys(name.partition("/")[0] for name in names))
    quoted = f"figures {source}" if source else ""
    told_once = "; ".join(filter(None, (quoted, note)))
    print(f"note: {', '.join(heads)}: {told_once}")


def _record(result: Result) -> dict[str, Any]:
  """Returns a line of the CSV: theirs, ours, and every scalar of a summary."""
  row = result.run.row
  theirs: dict[str, float] = {}
  for name, figure in row.published.items():
    theirs[f"published_{name}"] = figure.value
    if figure.deviation is not None:
      theirs[f"published_{name}_deviation"] = figure.deviation
  scalars = {
    key: value
    for key, value in result.summary.items()
    if not isinstance(value, list | dict)
  }
  return {
    "row": row.name,
    "workdir": str(result.run.workdir),
    **theirs,
    "best_test_accuracy": result.best_accuracy,
    **scalars,
  }


if __name__ == "__main__":
  sys.exit(main())
