"""The figure of FLOPs over steps, as in GraNet's Figure 15."""

import pathlib
from collections.abc import Mapping
from typing import Any

from sparsejax.plots import curves, style
from sparsejax.plots.records import Run


def plot_flops(runs: Mapping[str, Run], path: pathlib.Path | Any) -> None:
  """Plot inference and training FLOPs, as fractions of the dense network's.

  Args:
    runs: records by legend label; runs may still be training. A curve skips
      rows without its value.
    path: file to write (its suffix gives the format), or a binary file for a
      PNG.

  Raises:
    ValueError: if there are no runs, or none of them recorded FLOPs.
  """
  if not any(
    "inference_flops_ratio" in row for run in runs.values() for row in run.rows
  ):
    raise ValueError("`runs` must contain at least one run with FLOPs.")
  figure = style.new_figure(7.2, 5.0)
  top, bottom = figure.subplots(2, 1, sharex=True)
  for number, (label, run) in enumerate(runs.items()):
    line = {"color": style.COLORS[number % len(style.COLORS)], "label": label}
    _curve(top, run, "inference_flops_ratio", **line)
    _curve(bottom, run, "training_flops_ratio", **line)
  top.set_ylabel("inference FLOPs / dense")
  bottom.set_ylabel("training FLOPs / dense")
  bottom.set_xlabel("step")
  for axes in (top, bottom):
    axes.set_ylim(-0.02, 1.05)
    style.finish_axes(axes)
  top.legend(loc="upper right", frameon=False)
  figure.savefig(path)


def _curve(axes: Any, run: Run, name: str, **line: Any) -> None:
  """Plots one recorded value over the steps."""
  points = curves.recorded(run, name)
  axes.plot(*zip(*points, strict=True) if points else ([], []), **line)
