"""The table, the CSV file and the figure of a sweep."""

import csv
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sparsejax.plots import style

_TICKS = (50, 80, 90, 95, 97, 98, 99, 99.5, 99.9)
# Smallest error on the accuracy axis, in %.
_FLOOR = 1e-3

Runs = Sequence[Mapping[str, Any]]


def accuracies(runs: Runs, title: str, sparsity: float | None) -> list[float]:
  """Returns the test accuracies of one cell, in %."""
  return [
    100 * run["test_accuracy"]
    for run in runs
    if (run["title"], run["sparsity"]) == (title, sparsity)
  ]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
  """Returns mean and sample standard deviation (nan for a single value)."""
  deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
  return statistics.mean(values), deviation


def table(runs: Runs, sparsities: Sequence[float]) -> str:
  """Format a Markdown table of methods x sparsities.

  Args:
    runs: the records of a sweep.
    sparsities: the columns.

  Returns:
    The table; each cell is "mean ± standard deviation" in %, followed by n if
    it differs from the caption's.
  """
  titles = list(dict.fromkeys(run["title"] for run in runs))
  seeds = sorted({run["seed"] for run in runs})
  n = len(seeds)

  def cell(title: str, sparsity: float | None) -> str:
    values = accuracies(runs, title, sparsity)
    if not values:
      return ""
    mean, deviation = mean_and_deviation(values)
    text = f"{mean:.2f} ± {deviation:.2f}"
    return text if len(values) == n else f"{text} (n={len(values)})"

  lines = [
    "| method | " + " | ".join(f"{s:.0%}" for s in sparsities) + " |",
    "| --- |" + " ---: |" * len(sparsities),
  ]
  for title in titles:
    cells = [cell(title, s) for s in sparsities]
    if not any(cells):
      dense = cell(title, None)
      cells = [f"{dense} at 0%"] + [""] * (len(sparsities) - 1)
    lines.append(f"| {title} | " + " | ".join(cells) + " |")
  listed = ", ".join(map(str, seeds))
  caption = (
    "Test accuracy at the last step in %: mean ± standard deviation over"
    f" n = {n} seeds ({listed})."
  )
  return "\n".join([*lines, "", caption, ""])


def write_csv(runs: Runs, path: pathlib.Path) -> None:
  """Write one line per run.

  Args:
    runs: the records of a sweep.
    path: file to write.
  """
  names = [name for name in runs[0] if name not in ("arguments", "config")]
  with open(path, "w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(
      file, names, extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(runs)


def plot(
  runs: Runs, panels: Mapping[str, Sequence[str]], path: pathlib.Path
) -> None:
  """Plot accuracy over sparsity, one panel per family of methods.

  The accuracy axis is the log of the error, so that 98 and 99 % are as far
  apart as 80 and 90 %.

  Args:
    runs: the records of a sweep; "dense" is in every panel.
    panels: titles of the curves, by title of the panel; those without runs are
      skipped.
    path: figure to write; its suffix gives the format.
  """
  sparsities = sorted({run["sparsity"] for run in runs} - {None})
  available = {run["title"] for run in runs}
  panels = {
    heading: titles
    for heading, titles in panels.items()
    if available & set(titles)
  }
  rows = -(-len(panels) // 2)
  figure = style.new_figure(9.6, 3.4 * rows)
  grid = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
  for unused in grid.flat[len(panels) :]:
    unused.set_visible(False)
  for axes, (heading, titles) in zip(grid.flat, panels.items(), strict=False):
    style.log_error_scale(axes, _FLOOR)
    _dense_line(axes, accuracies(runs, "dense", None))
    for number, title in enumerate(titles):
      # Shifted, so that error bars do not overlap.
      shift = 0.12 * (number - (len(titles) - 1) / 2)
      _curve(axes, runs, title, number, shift)
    axes.set_title(heading, fontsize=11)
    axes.set_xticks(range(len(sparsities)), [f"{s:.0%}" for s in sparsities])
    axes.legend(loc="lower left", frameon=False, fontsize=9)
    style.finish_axes(axes, grid="y")
  style.accuracy_ticks(grid[0, 0], _TICKS)
  for axes in grid[-1]:
    axes.set_xlabel("sparsity")
  for axes in grid[:, 0]:
    axes.set_ylabel("test accuracy (%), log of the error")
  figure.savefig(path)


def _dense_line(axes: Any, values: Sequence[float]) -> None:
  """Draws the dense network as a line with its deviation as a band."""
  mean, deviation = mean_and_deviation(values)
  axes.axhspan(mean - deviation, mean + deviation, color="#dddddd")
  axes.axhline(mean, color="#555555", linewidth=1, label="dense, ± 1 deviation")


def _curve(
  axes: Any, runs: Runs, title: str, number: int, shift: float
) -> None:
  """Draws the curve of one method over the index of the sparsity."""
  sparsities = sorted({run["sparsity"] for run in runs} - {None})
  points = [
    (position, *mean_and_deviation(values))
    for position, sparsity in enumerate(sparsities)
    if (values := accuracies(runs, title, sparsity))
  ]
  if not points:
    return
  axes.errorbar(
    [position + shift for position, _, _ in points],
    [mean for _, mean, _ in points],
    [deviation for _, _, deviation in points],
    color=style.COLORS[number],
    marker=style.MARKERS[number],
    markersize=5,
    linewidth=1.2,
    capsize=3,
    label=title,
  )
