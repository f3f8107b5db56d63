"""Our results next to the published ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sparsejax.plots import records
from sparsejax.study import forecast, papers, tables
from sparsejax.study.runs import Run
from sparsejax.training.config import command
from sparsejax.training.reporting import workdirs


class Result(NamedTuple):
  """The result of a finished run.

  Attributes:
    run: the run.
    summary: what `summary.json` holds.
    best: the best value of the leading measure on the test split, of the
      evaluations after the last pruning.
  """

  run: Run
  summary: dict[str, Any]
  best: float


class Column(NamedTuple):
  """A kind of number that papers publish.

  Attributes:
    title: the header.
    ours: (result) -> our number in the paper's unit.
    digits: decimal places.
    best: (result) -> the same at the best evaluation; `None` if there is only
      one number.
    predicted: (forecast, epochs multiplier) -> our number without a run; `None`
      if it cannot be known.
    is_cost: whether it follows from the method alone, so that a prediction must
      be what the paper prints.
  """

  title: str
  ours: Callable[[Result], float]
  digits: int
  best: Callable[[Result], float] | None = None
  predicted: Callable[[forecast.Forecast, float], float] | None = None
  is_cost: bool = False


def _total_sparsity(title: str, without: str | None = None) -> Column:
  """Returns the column of the sparsity of all layers, or all but one."""

  def sparsity(
    zeros: Mapping[str, int | float], sizes: Mapping[str, int]
  ) -> float:
    names = [name for name in sizes if name.partition("/")[0] != without]
    total = sum(sizes[name] for name in names)
    return 100 * sum(zeros[name] for name in names) / total

  def ours(result: Result) -> float:
    layers = result.summary["layers"]
    return sparsity(
      {layer["name"]: layer["total"] - layer["active"] for layer in layers},
      {layer["name"]: layer["total"] for layer in layers},
    )

  def predicted(found: forecast.Forecast, longer: float) -> float:
    del longer  # It changes no sparsity.
    zeros = {n: s * found.sizes[n] for n, s in found.sparsities.items()}
    return sparsity(zeros, found.sizes)

  return Column(title, ours, 2, predicted=predicted)


COLUMNS: dict[str, Column] = {
  "accuracy": Column(
    "accuracy in %",
    lambda result: 100 * result.summary["test_accuracy"],
    2,
    lambda result: 100 * result.best,
  ),
  # Extended training counts: the dense run has the usual length.
  "training": Column(
    "training FLOPs",
    lambda result: (
      result.summary["training_flops_ratio"]
      * result.summary["epochs_multiplier"]
    ),
    2,
    predicted=lambda found, longer: found.training_flops_ratio * longer,
    is_cost=True,
  ),
  "inference": Column(
    "inference FLOPs",
    lambda result: result.summary["inference_flops_ratio"],
    2,
    predicted=lambda found, longer: found.inference_flops_ratio,
    is_cost=True,
  ),
  "million_macs": Column(
    "MACs in millions",
    lambda result: result.summary["inference_macs"] / 1e6,
    0,
    predicted=lambda found, longer: found.inference_macs / 1e6,
    is_cost=True,
  ),
  "million_parameters": Column(
    "parameters of kernels in millions",
    lambda result: _kernel_parameters(result.summary) / 1e6,
    2,
    predicted=lambda found, longer: found.kernel_parameters / 1e6,
    is_cost=True,
  ),
  "overall": _total_sparsity("sparsity in %"),
  "backbone": _total_sparsity("sparsity in % without classifier", "classifier"),
  "bits_per_byte": Column(
    "bits per byte",
    lambda result: result.summary["test_bits_per_byte"],
    4,
    lambda result: result.best,
  ),
  "validation": Column(
    "validation bits per byte",
    lambda result: result.summary["validation_bits_per_byte"],
    4,
  ),
  "perplexity": Column(
    "perplexity", lambda result: result.summary["test_perplexity"], 3
  ),
  "loss": Column("loss", lambda result: result.summary["test_loss"], 4),
  "connections": Column(
    "connections", lambda result: result.summary["active"], 0
  ),
  "alpha": Column(
    "alpha, accuracy / connections, in 1e-6",
    lambda result: (
      1e6 * result.summary["test_accuracy"] / result.summary["active"]
    ),
    2,
  ),
  "beta": Column(
    "beta, loss x connections",
    lambda result: result.summary["test_loss"] * result.summary["active"],
    2,
  ),
}
"""The columns that a table may have, besides the names of layers."""


def column(name: str) -> Column:
  """Returns a column by name; any other name is that of a layer."""
  return COLUMNS[name] if name in COLUMNS else _layer_sparsity(name)


def _kernel_parameters(summary: Mapping[str, Any]) -> int:
  """Returns the active weights of all kernels."""
  return summary["kernel_parameters"] - summary["total"] + summary["active"]


def _layer_sparsity(name: str) -> Column:
  def sparsity(result: Result) -> float:
    layers = {layer["name"]: layer for layer in result.summary["layers"]}
    return 100 * layers[name]["sparsity"]

  return Column(
    name.removesuffix("/kernel"),
    sparsity,
    1,
    predicted=lambda found, longer: 100 * found.sparsities[name],
  )


def read(run: Run) -> Result:
  """Read the result of a finished run.

  Args:
    run: its workdir holds a summary.

  Raises:
    InputError: if the workdir belongs to another run.
  """
  workdirs.claim(run.workdir, run.config)
  summary = records.read_summary(run.workdir)
  assert summary is not None
  measure = records.measures(summary)[0]
  key = f"test_{measure.name}"
  values = [
    row[key]
    for row in records.read_metrics(run.workdir).rows
    # Before the last pruning more weights are active.
    if row.get(key) is not None
    and row.get("active", math.inf) <= summary["active"]
  ]
  best = max if measure.higher_is_better else min
  return Result(run, summary, best([*values, summary[key]]))


def predict(
  table: papers.Table, runs: Sequence[Run]
) -> dict[str, dict[str, float]]:
  """Predict the costs of rows without a finished run, where they are known.

  Args:
    table: the rows' table.
    runs: runs of its rows.

  Returns:
    Row -> column -> number.
  """
  columns = {
    name: predicted
    for name in table.columns
    if (predicted := column(name).predicted) is not None
  }
  if not columns:
    return {}
  done = {run.row.name for run in runs if run.done}
  found: dict[str, dict[str, float]] = {}
  for run in runs:
    if run.row.name in {*done, *found} or run.row.after is not None:
      continue
    costs = forecast.forecast(command.parse(run.argv).config)
    if costs is not None:
      longer = run.config["epochs_multiplier"]
      found[run.row.name] = {
        name: predicted(costs, longer) for name, predicted in columns.items()
      }
  return found


def side_by_side(
  table: papers.Table,
  rows: Sequence[papers.Row],
  results: Sequence[Result],
  predicted: Mapping[str, Mapping[str, float]],
) -> list[tuple[str, ...]]:
  """Put our numbers next to the paper's, as a table of text.

  Args:
    table: the rows' table.
    rows: those to list.
    results: results of any of them.
    predicted: row -> column -> number, marked with a star where there is no
      result, and with an exclamation mark if it `differs` from the paper's.

  Returns:
    The header and one line per row, transposed if the columns are layers. A
    table without published figures has no columns for them.
  """
  columns = {name: column(name) for name in table.columns}
  compares = any(row.published for row in table.rows)
  header = ["row"]
  for each in columns.values():
    header += [f"{each.title}: paper", "ours"] if compares else [each.title]
    if each.best is not None:
      header.append("best after pruning")
  lines = [tuple(header)]
  for row in rows:
    ours = [result for result in results if result.run.row == row]
    cells = [row.name]
    for name, each in columns.items():
      known = predicted.get(row.name, {}).get(name)
      figure = row.published.get(name)
      if compares:
        cells.append(_published(figure, each.digits))
      cells += _ours(each, ours, known, figure)
    lines.append(tuple(cells))
  if len(columns) > len(COLUMNS):
    return list(zip(*lines, strict=True))
  return lines


def differs(column: Column, figure: papers.Figure, predicted: float) -> bool:
  """Says whether a predicted cost is not the printed one.

  Args:
    column: what the numbers are.
    figure: the printed number, rounded to the column's digits.
    predicted: ours.

  Returns:
    Whether the numbers are costs and differ by more than 2 % and the rounding.
  """
  rounding = 0.5 * 10**-column.digits
  apart = abs(predicted - figure.value)
  return column.is_cost and apart > 0.02 * figure.value + rounding


def _ours(
  column: Column,
  results: Sequence[Result],
  predicted: float | None,
  figure: papers.Figure | None,
) -> list[str]:
  """Returns our cells of a column: mean over runs, or a prediction."""
  star = ""
  if predicted is not None:
    flag = "!" * (figure is not None and differs(column, figure, predicted))
    star = f"{predicted:.{column.digits}f}*{flag}"
  return [
    tables.mean([number(result) for result in results], column.digits)
    if results
    else star
    for number in (column.ours, column.best)
    if number is not None
  ]


def _published(figure: papers.Figure | None, digits: int) -> str:
  if figure is None:
    return ""
  found = f"{figure.value:.{digits}f}"
  if figure.deviation is None:
    return found
  return f"{found} ± {figure.deviation:.{digits}f}"


def notes(rows: Sequence[papers.Row]) -> list[str]:
  """Returns the sources and notes of rows, each once with its lines."""
  names: dict[tuple[str, str], list[str]] = {}
  for row in rows:
    if row.source or row.note:
      heads = names.setdefault((row.source, row.note), [])
      heads.append(row.name.partition("/")[0])
  return [
    f"{', '.join(dict.fromkeys(heads))}: "
    + "; ".join(filter(None, (source and f"figures {source}", note)))
    for (source, note), heads in names.items()
  ]


def record(result: Result) -> dict[str, Any]:
  """Returns a line of the CSV file: published figures, then the summary."""
  row = result.run.row
  published: dict[str, float] = {}
  for name, figure in row.published.items():
    published[f"published_{name}"] = figure.value
    if figure.deviation is not None:
      published[f"published_{name}_deviation"] = figure.deviation
  return {
    "row": row.name,
    "workdir": result.run.workdir.name,
    **published,
    f"best_test_{records.measures(result.summary)[0].name}": result.best,
    **tables.scalars(result.summary),
  }
