"""The table, the file of numbers and the plot of a sweep's results."""

import csv
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Hues that stay apart for color-blind readers (Okabe and Ito, 2008).
_HUES = (
  "#0072B2",
  "#D55E00",
  "#009E73",
  "#CC79A7",
  "#E69F00",
  "#56B4E9",
  "#000000",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_TICKS = (50, 80, 90, 95, 97, 98, 99, 99.5, 99.9)

Runs = Sequence[Mapping[str, Any]]


def accuracies(runs: Runs, title: str, sparsity: float | None) -> list[float]:
  """Returns the test accuracies of one cell, in %."""
  return [
    100 * run["test_accuracy"]
    for run in runs
    if (run["title"], run["sparsity"]) == (title, sparsity)
  ]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
  """Returns the mean and the sample standard deviation, nan of one value."""
  deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
  return statistics.mean(values), deviation


def table(runs: Runs, sparsities: Sequence[float]) -> str:
  """Write a markdown table: rows are methods, columns are sparsities.

  Args:
    runs: the records of a sweep.
    sparsities: the columns.

  Returns:
    The table; each cell is "mean ± standard deviation" in %, with n beside it
    where it is not that of the caption.
  """
  titles = list(dict.fromkeys(run["title"] for run in runs))
  seeds = sorted({run["seed"] for run in runs})
  usual = len(seeds)

  def cell(title: str, sparsity: float | None) -> str:
    values = accuracies(runs, title, sparsity)
    if not values:
      return ""
    mean, deviation = mean_and_deviation(values)
    text = f"{mean:.2f} ± {deviation:.2f}"
    return text if len(values) == usual else f"{text} (n={len(values)})"

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
    f" n = {usual} seeds ({listed})."
  )
  return "\n".join([*lines, "", caption, ""])


def write_csv(runs: Runs, path: pathlib.Path) -> None:
  """Write one line a run.

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
  """Plot accuracy over sparsity, one panel for each family of methods.

  The accuracy axis is the logarithm of the error, so that 98 and 99 % are as
  far apart as 80 and 90 %.

  Args:
    runs: the records of a sweep; a title "dense" is drawn in every panel.
    panels: titles of the curves by title of the panel; what has no runs is
      left out.
    path: file to write, by its ending.
  """
  from matplotlib.figure import Figure

  sparsities = sorted({run["sparsity"] for run in runs} - {None})
  found_titles = {run["title"] for run in runs}
  panels = {
    heading: titles
    for heading, titles in panels.items()
    if found_titles & set(titles)
  }
  rows = -(-len(panels) // 2)
  figure = Figure(figsize=(9.6, 3.4 * rows), dpi=120, layout="constrained")
  grid = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
  for spare in grid.flat[len(panels) :]:
    spare.set_visible(False)
  dense, spread = mean_and_deviation(accuracies(runs, "dense", None))
  for axes, (heading, titles) in zip(grid.flat, panels.items(), strict=False):
    axes.axhspan(dense - spread, dense + spread, color="#dddddd")
    axes.axhline(
      dense, color="#555555", linewidth=1, label="dense, ± 1 deviation"
    )
    for number, title in enumerate(titles):
      points = [
        (position, *mean_and_deviation(found))
        for position, sparsity in enumerate(sparsities)
        if (found := accuracies(runs, title, sparsity))
      ]
      if not points:
        continue
      # Side by side, so that no error bar hides another one.
      shift = 0.12 * (number - (len(titles) - 1) / 2)
      axes.errorbar(
        [position + shift for position, _, _ in points],
        [mean for _, mean, _ in points],
        [deviation for _, _, deviation in points],
        color=_HUES[number],
        marker=_MARKERS[number],
        markersize=5,
        linewidth=1.2,
        capsize=3,
        label=title,
      )
    axes.set_title(heading, fontsize=11)
    axes.set_xticks(range(len(sparsities)), [f"{s:.0%}" for s in sparsities])
    axes.set_yscale("function", functions=(_spread, _gather))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="lower left", frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
  low, high = grid[0, 0].get_ylim()
  shown = [tick for tick in _TICKS if low <= tick <= high]
  grid[0, 0].set_yticks(shown, [str(tick) for tick in shown])
  for axes in grid[-1]:
    axes.set_xlabel("sparsity")
  for axes in grid[:, 0]:
    axes.set_ylabel("test accuracy in % (log of the error)")
  figure.savefig(path)


def _spread(accuracy: Any) -> Any:
  """Maps accuracies in % to heights."""
  return -np.log10(np.maximum(100.0 - np.asarray(accuracy), 1e-3))


def _gather(height: Any) -> Any:
  """Maps heights back to accuracies in %."""
  return 100.0 - 10.0 ** -np.asarray(height)
