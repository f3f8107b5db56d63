"""Console output: a progress bar on a terminal, plain lines in a log file."""

import contextlib
import math
import pathlib
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeRemainingColumn,
)
from rich.table import Table

from sparsejax.components import counts
from sparsejax.plots import records
from sparsejax.tasks import Measure
from sparsejax.training.reporting.reporter import Reporter

_WIDE = 100


@contextlib.contextmanager
def progress(
  console: Console,
  *,
  total: int,
  measure: Measure,
  completed: int = 0,
  first: Mapping[str, str] = types.MappingProxyType({}),
  interval_seconds: float = 0.0,
) -> Iterator[Reporter]:
  """Show the progress of a run.

  Args:
    console: where to print.
    total: steps in the run.
    measure: what is shown besides the loss.
    completed: steps that an earlier process took.
    first: formats of values to show before those of all runs, by name.
    interval_seconds: the least time between two lines of a log file.

  Yields:
    The reporter for the loop.
  """
  formats = {**first, **_formats(measure)}
  # For log files and wide terminals.
  more = formats | {"inference_flops_ratio": "flops {:.1%}"}
  if not console.is_terminal:
    printed = -math.inf

    def log(step: int, row: Mapping[str, Any]) -> None:
      nonlocal printed
      if time.monotonic() - printed >= interval_seconds or step == total:
        printed = time.monotonic()
        text = _values(row, more)
        line(console, f"step {step}/{total}  {text}")

    yield Reporter(message=lambda text: line(console, text), progress=log)
    return
  if console.width >= _WIDE:
    formats = more
  with _bar(console) as bar:
    task = bar.add_task("", total=total, completed=completed, values="starting")
    latest: dict[str, Any] = {}

    def advance(step: int, row: Mapping[str, Any]) -> None:
      latest.update(row)
      bar.update(task, completed=step, values=_values(latest, formats))

    yield Reporter(message=lambda text: line(console, text), progress=advance)


def line(console: Console, text: str) -> None:
  """Print one line, without wrapping or markup."""
  console.print(text, soft_wrap=True, highlight=False, markup=False)


def result(
  console: Console,
  summary: Mapping[str, Any],
  workdir: pathlib.Path,
) -> None:
  """Print the result of a finished run.

  Args:
    console: where to print.
    summary: content of `summary.json`.
    workdir: workdir of the run.
  """
  console.print(_layer_table(summary))
  for name, value in _result_lines(summary, workdir):
    line(console, f"{name:<19} {value}")


def result_of_seeds(
  console: Console,
  summary: Mapping[str, Any],
  folders: Sequence[pathlib.Path],
  workdir: pathlib.Path,
) -> None:
  """Print the result of a finished run of several seeds.

  Args:
    console: where to print.
    summary: content of `summary.json`.
    folders: of the seeds.
    workdir: workdir of the run.
  """
  title = f"{summary['method']} on {summary['data']}, {len(folders)} seeds"
  table = Table(title=title)
  table.add_column("seed")
  known = records.measures(summary)
  for name in (*(f"test {each.title}" for each in known), "test loss"):
    table.add_column(name, justify="right")
  table.add_column("sparsity", justify="right")
  for seed, folder in zip(summary["seeds"], folders, strict=True):
    table.add_row(str(seed), *_seed_cells(known, records.read_summary(folder)))
  table.add_section()
  table.add_row("mean", *_seed_cells(known, summary["mean"]))
  table.add_row("deviation", *_seed_cells(known, summary["deviation"]))
  console.print(table)
  line(console, f"{'compile time':<19} {summary['compile_seconds']:.1f} s")
  line(console, f"{'training time':<19} {summary['train_seconds']:.1f} s")
  line(console, f"{'results':<19} {workdir / records.SUMMARY}")
  line(console, f"{'report':<19} {workdir / 'report.html'}")


def _seed_cells(
  known: Sequence[records.Measure], values: Mapping[str, Any] | None
) -> Iterator[str]:
  assert values is not None
  for each in known:
    text = "{:.2%}" if each.percent else "{:.4f}"
    yield _finite(values.get(f"test_{each.name}"), text)
  yield _finite(values.get("test_loss"), "{:.4f}")
  yield f"{values['sparsity']:.2%}"


def _bar(console: Console) -> Progress:
  return Progress(
    BarColumn(bar_width=8),
    MofNCompleteColumn(),
    TextColumn("{task.fields[values]}"),
    TimeRemainingColumn(),
    console=console,
  )


def _formats(measure: Measure) -> dict[str, str]:
  """Returns the values that fit on 80 columns next to the bar, formatted."""
  in_batch = measure.batch_text or measure.text
  return {
    "loss": "loss {:.4f}",
    measure.name: f"{measure.short} {in_batch}",
    f"test_{measure.name}": f"test {measure.text}",
    "sparsity": "sparsity {:.1%}",
  }


def _values(row: Mapping[str, Any], formats: Mapping[str, str]) -> str:
  return " ".join(
    text.format(row[name]) for name, text in formats.items() if name in row
  )


def _layer_table(summary: Mapping[str, Any]) -> Table:
  table = Table(title=f"{summary['method']} on {summary['data']}")
  for name in ("layer", "shape"):
    table.add_column(name)
  for name in ("weights", "active", "sparsity"):
    table.add_column(name, justify="right")
  for layer in summary["layers"]:
    shape = "x".join(str(size) for size in layer["shape"])
    table.add_row(layer["name"], shape, *_count_cells(layer))
  table.add_section()
  table.add_row("all sparse layers", "", *_count_cells(summary))
  return table


def _result_lines(
  summary: Mapping[str, Any],
  workdir: pathlib.Path,
) -> Iterator[tuple[str, str]]:
  """Yields the label and the text of each line."""
  selected = summary.get("selected_step", summary["steps"])
  if selected != summary["steps"]:
    yield "selected step", f"{selected} of {summary['steps']} (best)"
  for each in records.measures(summary):
    text = "{:.2%}" if each.percent else "{:.4f}"
    yield f"test {each.title}", _finite(summary[f"test_{each.name}"], text)
  yield "test loss", _finite(summary["test_loss"], "{:.4f}")
  target = summary["target_sparsity"]
  yield "requested sparsity", "none" if target is None else f"{target:.4%}"
  yield "achieved sparsity", f"{summary['sparsity']:.4%}"
  if summary.get("units"):  # Older summaries have none.
    yield "active units", _active(summary)
    yield "active weights", f"{summary['active']:,}"
  else:
    yield "active weights", _active(summary)
  yield "ever active (ITOP)", _itop_rate(summary["itop_rate"])
  yield "inference FLOPs", _flops(summary, "inference_flops")
  yield "training FLOPs", _flops(summary, "training_flops")
  yield "mask updates", _mask_updates(summary)
  yield "compile time", f"{summary['compile_seconds']:.1f} s"
  yield "training time", f"{summary['train_seconds']:.1f} s"
  yield "results", str(workdir / "summary.json")
  yield "report", str(workdir / "report.html")


def _active(summary: Mapping[str, Any]) -> str:
  """Returns the active units, those requested, and those of the target.

  Units are weights, unless several are pruned as one. The last two numbers
  differ where the schedule has not reached the target.
  """
  target, requested = summary["target_sparsity"], summary["requested"]
  active = summary.get("active_units", summary["active"])
  total = summary.get("total_units", summary["total"])
  text = f"{active:,} ({requested:,} requested"
  if target is not None and total:
    final = counts.requested_count(total, target)
    if final != requested:
      text += f" so far, {final:,} at the end of the schedule"
  return f"{text})"


def _finite(value: float | None, text: str) -> str:
  return "not finite" if value is None else text.format(value)


def _flops(summary: Mapping[str, Any], name: str) -> str:
  """Returns FLOPs, and their ratio to the dense network."""
  return f"{summary[name]:.4g} ({summary[f'{name}_ratio']:.2%} of dense)"


def _mask_updates(summary: Mapping[str, Any]) -> str:
  """Returns their number, and their time if it is known."""
  count, seconds = summary["mask_updates"], summary["mask_update_seconds"]
  if seconds is None:
    return f"{count:,}"
  text = f"{count:,}, {seconds:.2g} s each"
  # Times are of this start only: after a resume, earlier ones are missing.
  if summary["resumed_from_step"] is None:
    share = count * seconds / max(summary["train_seconds"], 1e-9)
    text += f", {share:.1%} of the training time"
  return text


def _itop_rate(value: float | None) -> str:
  return "not tracked" if value is None else f"{value:.2%}"


def _count_cells(counts: Mapping[str, Any]) -> tuple[str, ...]:
  return (
    f"{counts['total']:,}",
    f"{counts['active']:,}",
    f"{counts['sparsity']:.2%}",
  )
