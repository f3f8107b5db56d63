"""What a person sees: a progress bar on a terminal, plain lines in a file."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
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

from sparsejax.training import loop

# Short enough for one line of 80 columns beside the bar.
_NUMBERS = {
  "loss": "loss {:.4f}",
  "accuracy": "acc {:.1%}",
  "test_accuracy": "test {:.2%}",
  "sparsity": "sparsity {:.1%}",
}
# These are longer, for log files and wide terminals.
_MORE_NUMBERS = _NUMBERS | {"inference_flops_ratio": "flops {:.1%}"}
_WIDE = 100


@contextlib.contextmanager
def progress(console: Console, *, total: int) -> Iterator[loop.Show]:
  """Shows a run while it goes on.

  Args:
    console: where to.
    total: steps of the run.

  Yields:
    What the loop tells its news to.
  """
  if not console.is_terminal:
    yield loop.Show(
      say=lambda text: line(console, text),
      progress=lambda step, row: _plain(console, step, total, row),
    )
    return
  forms = _MORE_NUMBERS if console.width >= _WIDE else _NUMBERS
  with _bar(console) as bar:
    task = bar.add_task("", total=total, numbers="starting")
    latest: dict[str, Any] = {}

    def advance(step: int, row: Mapping[str, Any]) -> None:
      latest.update(row)
      bar.update(task, completed=step, numbers=_numbers(latest, forms))

    yield loop.Show(say=lambda text: line(console, text), progress=advance)


def line(console: Console, text: str) -> None:
  """Print one line as it is, however wide the terminal."""
  console.print(text, soft_wrap=True, highlight=False, markup=False)


def result(
  console: Console, summary: Mapping[str, Any], workdir: pathlib.Path
) -> None:
  """Print the table that ends a run.

  Args:
    console: where to.
    summary: what `summary.json` holds.
    workdir: the run's folder.
  """
  requested = summary["target_sparsity"]
  table = Table(title=f"{summary['method']} on {summary['data']}")
  for name in ("layer", "shape"):
    table.add_column(name)
  for name in ("weights", "active", "sparsity"):
    table.add_column(name, justify="right")
  for layer in summary["layers"]:
    table.add_row(*_layer_cells(layer))
  table.add_section()
  table.add_row("all sparse layers", "", *_count_cells(summary))
  console.print(table)
  selected = f"{summary['selected_step']} of {summary['steps']}, the best one"
  for name, value in (
    *([("selected step", selected)] if _is_earlier(summary) else []),
    ("test accuracy", f"{summary['test_accuracy']:.2%}"),
    ("test loss", f"{summary['test_loss']:.4f}"),
    ("requested sparsity", "none" if requested is None else f"{requested:.4%}"),
    ("achieved sparsity", f"{summary['sparsity']:.4%}"),
    (
      "active weights",
      f"{summary['active']:,} (requested: {summary['requested']:,})",
    ),
    ("ever active (ITOP)", _percent(summary["itop_rate"])),
    ("inference FLOPs", _flops(summary, "inference_flops")),
    ("training FLOPs", _flops(summary, "training_flops")),
    ("mask updates", _mask_updates(summary)),
    ("compiled in", f"{summary['compile_seconds']:.1f} s"),
    ("trained in", f"{summary['train_seconds']:.1f} s"),
    ("results", str(workdir / "summary.json")),
    ("report", str(workdir / "report.html")),
  ):
    line(console, f"{name:<19} {value}")


def _bar(console: Console) -> Progress:
  return Progress(
    BarColumn(bar_width=8),
    MofNCompleteColumn(),
    TextColumn("{task.fields[numbers]}"),
    TimeRemainingColumn(),
    console=console,
  )


def _plain(
  console: Console, step: int, total: int, row: Mapping[str, Any]
) -> None:
  line(console, f"step {step}/{total}  {_numbers(row, _MORE_NUMBERS)}")


def _numbers(row: Mapping[str, Any], forms: Mapping[str, str]) -> str:
  return " ".join(
    form.format(row[name]) for name, form in forms.items() if name in row
  )


def _flops(summary: Mapping[str, Any], name: str) -> str:
  """Returns FLOPs and their share of the dense network's."""
  return f"{summary[name]:.4g} ({summary[f'{name}_ratio']:.4f} of dense)"


def _is_earlier(summary: Mapping[str, Any]) -> bool:
  """Says whether the result is of a step before the last one."""
  return summary["selected_step"] != summary["steps"]


def _mask_updates(summary: Mapping[str, Any]) -> str:
  """Returns their number, and what they took where that is known."""
  number, seconds = summary["mask_updates"], summary["mask_update_seconds"]
  told = f"{number:,}"
  if seconds is None:
    return told
  told += f", {seconds:.2g} s each"
  # Times are of this start, and what came before a resume is not in them.
  if summary["resumed_from_step"] is None:
    told += f", {number * seconds / summary['train_seconds']:.1%} of training"
  return told


def _percent(value: float | None) -> str:
  return "not tracked" if value is None else f"{value:.2%}"


def _layer_cells(layer: Mapping[str, Any]) -> tuple[str, ...]:
  shape = "x".join(str(size) for size in layer["shape"])
  return (layer["name"], shape, *_count_cells(layer))


def _count_cells(counts: Mapping[str, Any]) -> tuple[str, ...]:
  return (
    f"{counts['total']:,}",
    f"{counts['active']:,}",
    f"{counts['sparsity']:.2%}",
  )
