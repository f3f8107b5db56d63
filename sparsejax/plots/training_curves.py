"""The figure of one run: its leading measure and sparsity over steps."""

import pathlib
from typing import Any

from sparsejax.plots import style
from sparsejax.plots.records import Run, measures


def plot_run(run: Run, path: pathlib.Path | Any) -> None:
  """Plot accuracy, or what else the task measures, and sparsity over steps.

  Args:
    run: the records; a curve skips rows without its value.
    path: file to write (its suffix gives the format), or a binary file for a
      PNG.
  """
  figure = style.new_figure(7.2, 5.0)
  top, bottom = figure.subplots(2, 1, sharex=True)
  measure = measures(run.summary)[0]
  name, test = measure.name, f"test_{measure.name}"
  curve(top, run, name, color=style.GRAY, alpha=0.5, label="training batch")
  curve(top, run, test, color=style.BLUE, marker=".", label="test")
  top.set_ylabel(measure.title)
  if measure.percent:
    top.set_ylim(max(0.0, _lowest(run, test) - 0.1), 1.005)
  else:
    top.set_yscale("log")
    style.plain_log_ticks(top)
  curve(bottom, run, "sparsity", color=style.ORANGE, label="achieved")
  curve(
    bottom,
    run,
    "requested_sparsity",
    color=style.GRAY,
    linestyle="--",
    label="requested",
  )
  bottom.set_ylabel("sparsity")
  bottom.set_ylim(-0.02, 1.02)
  bottom.set_xlabel("step")
  for axes in (top, bottom):
    style.finish_axes(axes)
    best = "lower right" if axes is bottom or measure.percent else "upper right"
    axes.legend(loc=best, frameon=False)
  figure.savefig(path)


def curve(axes: Any, run: Run, name: str, **line: Any) -> None:
  """Plot one recorded value over steps.

  Args:
    axes: matplotlib axes.
    run: the records.
    name: key of the value in `metrics.jsonl`.
    **line: line properties.
  """
  points = [
    (row["step"], row[name]) for row in run.rows if row.get(name) is not None
  ]
  axes.plot(*zip(*points, strict=True) if points else ([], []), **line)


def _lowest(run: Run, name: str) -> float:
  """Returns the lowest value of a key, 0 if there is none."""
  seen = [row[name] for row in run.rows if row.get(name) is not None]
  return min(seen, default=0.0)
