"""The figures of pruning plasticity, as in GraNet's Figures 2 to 14."""

import collections
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from sparsejax.plots import records, style

# As in the paper, by rank of the rate; it has four.
_COLORS = ("#E69F00", "#009E73", "#0072B2", "#7B3FA0", "#56B4E9", "#000000")
_TITLES = {
  "plasticity": "accuracy after {epochs:g} epochs - before pruning (%)",
  "final_gap": "final accuracy - that of the run without pruning (%)",
}
_ROWS = {False: "without regrowth", True: "with regrowth"}


def plot_plasticity(
  folders: Sequence[pathlib.Path], measure: str, path: pathlib.Path
) -> None:
  """Plot a measure over the epoch of pruning.

  Columns are the sparsities of the runs, rows are without and with regrowth,
  and each line is a rate. Vertical red lines are drops of the learning rate.
  Of several grids, lines are means and bands one sample standard deviation.

  Args:
    folders: grids of the same protocol, such as those of several seeds.
    measure: "plasticity" or "final_gap".
    path: file to write; its suffix gives the format.

  Raises:
    ValueError: if no branch of the measure has a record.
  """
  rows = [
    row
    for folder in folders
    for row in records.read_branches(folder)
    if row["measure"] == measure
  ]
  if not rows:
    raise ValueError(
      f"{', '.join(map(str, folders))} have no record of the measure"
      f" {measure!r}. Train the grid first."
    )
  columns = sorted({row["sparsity"] for row in rows})
  lines = [x for x in (False, True) if any(row["regrow"] == x for row in rows)]
  figure = style.new_figure(2.3 * len(columns) + 1.2, 2.1 * len(lines) + 1.0)
  grid = figure.subplots(
    len(lines), len(columns), sharex=True, sharey=True, squeeze=False
  )
  drops = _drops(folders[0])
  for regrow, of_line in zip(lines, grid, strict=True):
    for sparsity, axes in zip(columns, of_line, strict=True):
      chosen = [
        row
        for row in rows
        if row["sparsity"] == sparsity and row["regrow"] == regrow
      ]
      _panel(axes, chosen, drops)
    of_line[0].set_ylabel(_ROWS[regrow])
  for sparsity, axes in zip(columns, grid[0], strict=True):
    axes.set_title("dense" if not sparsity else f"sparsity {sparsity:g}")
  figure.supxlabel("epoch of pruning")
  figure.supylabel(_TITLES[measure].format(epochs=rows[0]["trained_epochs"]))
  handles, labels = max(
    (axes.get_legend_handles_labels() for axes in grid.flat),
    key=lambda found: len(found[0]),
  )
  figure.legend(
    handles,
    labels,
    title="rate",
    loc="outside right upper",
    frameon=False,
  )
  figure.savefig(path)


def _panel(
  axes: Any, rows: Sequence[dict[str, Any]], drops: list[float]
) -> None:
  """Draws one line per rate."""
  for epoch in drops:
    axes.axvline(epoch, color="#C00000", linewidth=0.9, linestyle="--")
  axes.axhline(0, color="#777777", linewidth=0.8)
  for number, rate in enumerate(sorted({row["rate"] for row in rows})):
    by_epoch = collections.defaultdict(list)
    for row in rows:
      if row["rate"] == rate:
        by_epoch[row["epoch"]].append(100 * row["difference"])
    epochs = sorted(by_epoch)
    means = [statistics.mean(by_epoch[e]) for e in epochs]
    color = _COLORS[number % len(_COLORS)]
    axes.plot(
      epochs, means, color=color, label=f"{rate:g}", marker="o", markersize=2.5
    )
    if max(map(len, by_epoch.values())) > 1:
      spread = [
        statistics.stdev(found) if len(found) > 1 else 0.0
        for found in (by_epoch[e] for e in epochs)
      ]
      low, high = (
        [m + sign * s for m, s in zip(means, spread, strict=True)]
        for sign in (-1, 1)
      )
      axes.fill_between(epochs, low, high, color=color, alpha=0.15, linewidth=0)
  style.finish_axes(axes)


def _drops(folder: pathlib.Path) -> list[float]:
  """Returns the epochs at which the learning rate of a grid drops."""
  config = records.read_config(folder)
  optimizer = config.get("optimizer", {})
  if optimizer.get("schedule") != "drops":
    return []
  epochs = config["epochs"] * config.get("epochs_multiplier", 1.0)
  return [fraction * epochs for fraction in optimizer["drop_at"]]
