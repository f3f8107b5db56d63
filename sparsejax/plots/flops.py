"""FLOPs over the steps of any runs, as in GraNet's Figure 15."""

import pathlib
from collections.abc import Mapping
from typing import Any

from sparsejax.plots.run import COLORS, Run, curve


def plot_flops(runs: Mapping[str, Run], path: pathlib.Path | Any) -> None:
  """Plot what inference and training cost, as shares of the dense network.

  Args:
    runs: name in the legend -> its records; it may still go on. Lines that lack
      a number are left out.
    path: file to write, by its ending, or a binary file for a PNG.

  Raises:
    ValueError: if there is no run, or none has recorded FLOPs.
  """
  from matplotlib.figure import Figure

  if not any(
    "inference_flops_ratio" in row for run in runs.values() for row in run.rows
  ):
    raise ValueError("`runs` must hold at least one run that recorded FLOPs.")
  figure = Figure(figsize=(7.2, 5.0), dpi=120, layout="constrained")
  top, bottom = figure.subplots(2, 1, sharex=True)
  for number, (title, run) in enumerate(runs.items()):
    style = {"color": COLORS[number % len(COLORS)], "label": title}
    curve(top, run, "inference_flops_ratio", **style)
    curve(bottom, run, "training_flops_ratio", **style)
  top.set_ylabel("inference, of dense")
  bottom.set_ylabel("training so far, of dense")
  bottom.set_xlabel("step")
  for axes in (top, bottom):
    axes.set_ylim(-0.02, 1.05)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
  top.legend(loc="upper right", frameon=False)
  figure.savefig(path)
