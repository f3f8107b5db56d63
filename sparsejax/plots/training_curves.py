"""The figure of one run: accuracy and sparsity over steps."""

import pathlib
from typing import Any

from sparsejax.plots import style
from sparsejax.plots.records import Run


def plot_run(run: Run, path: pathlib.Path | Any) -> None:
  """Plot accuracy and sparsity over steps.

  Args:
    run: the records; a curve skips rows without its value.
    path: file to write (its suffix gives the format), or a binary file for a
      PNG.
  """
  figure = style.new_figure(7.2, 5.0)
  top, bottom = figure.subplots(2, 1, sharex=True)
  curve(
    top, run, "accuracy", color=style.GRAY, alpha=0.5, label="training batch"
  )
  curve(top, run, "test_accuracy", color=style.BLUE, marker=".", label="test")
  top.set_ylabel("accuracy")
  top.set_ylim(_lowest_accuracy(run), 1.005)
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
    axes.legend(loc="lower right", frameon=False)
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


def _lowest_accuracy(run: Run) -> float:
  """Returns the lower limit of the accuracy axis."""
  seen = [row["test_accuracy"] for row in run.rows if "test_accuracy" in row]
  return max(0.0, min(seen, default=0.0) - 0.1)
