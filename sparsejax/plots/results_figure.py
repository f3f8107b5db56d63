"""The figure of results over sparsity, one curve per method."""

import itertools
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sparsejax.plots import style
from sparsejax.plots.records import ACCURACY
from sparsejax.plots.results import Average, percent

_TICKS = (10, 20, 50, 80, 90, 95, 97, 98, 99, 99.5, 99.9)
_MARKERS = style.MARKERS[:5]
_LINES = ("-", "--", ":")
# In log10 of the active fraction: 90 % is drawn from 89.8 to 90.2 %.
_WIDEST_SHIFT = 0.02
# Smallest error on the axis, in %.
_FLOOR = 1e-2


def plot_results(averages: Sequence[Average], path: pathlib.Path) -> None:
  """Plot accuracy, or another measure, over sparsity, one curve per label.

  Dense networks are horizontal lines. The sparsity is logarithmic in the
  fraction of active weights: 98 and 99 % are as far apart as 80 and 90 %. An
  accuracy is logarithmic in the error, any other measure in its value. Networks
  without active weights, of sparsity 1, have no position and are left out.

  Args:
    averages: as returned by `results.average_seeds`.
    path: file to write; its suffix gives the format.
  """
  labels = list(dict.fromkeys(a.label for a in averages))
  figure = style.new_figure(8.4, max(4.2, 0.24 * len(labels) + 1.2))
  axes = figure.subplots()
  measure = averages[0].measure if averages else ACCURACY
  if measure.percent:
    style.log_error_scale(axes, _FLOOR)
  else:
    axes.set_yscale("log")
  for average in averages:
    if not average.sparsity:
      _horizontal_line(axes, average)
  sparse = [a for a in averages if 0 < a.sparsity < 1]
  positions = {
    s: -math.log10(1 - s) for s in sorted({a.sparsity for a in sparse})
  }
  _curves(axes, sparse, positions)
  ticks = _spaced_ticks(positions)
  axes.set_xticks([positions[s] for s in ticks], list(map(percent, ticks)))
  if measure.percent:
    style.accuracy_ticks(axes, _TICKS)
  else:
    style.plain_log_ticks(axes)
  axes.set_xlabel("sparsity")
  scale = "log of the error" if measure.percent else "log"
  axes.set_ylabel(f"test {measure.unit}, {scale}")
  style.finish_axes(axes, grid="y")
  if axes.get_legend_handles_labels()[0]:
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
  figure.savefig(path)


def _curves(
  axes: Any, averages: Sequence[Average], positions: Mapping[float, float]
) -> None:
  """Draws one curve per label, shifted so that error bars do not overlap.

  Points without one stay at their sparsity; the shift of the others is too
  small to read another percent from the axis.
  """
  labels = list(dict.fromkeys(a.label for a in averages))
  gaps = [b - a for a, b in itertools.pairwise(positions.values())]
  width = min(0.4 * statistics.median(gaps or [0.1]), _WIDEST_SHIFT)
  if not any(a.deviation for a in averages):
    width = 0.0
  for number, label in enumerate(labels):
    curve = [a for a in averages if a.label == label]
    shift = width * ((number + 0.5) / len(labels) - 0.5)
    color, cycle = number % len(style.COLORS), number // len(style.COLORS)
    axes.errorbar(
      [positions[a.sparsity] + shift for a in curve],
      [a.mean for a in curve],
      [a.deviation or 0.0 for a in curve],
      color=style.COLORS[color],
      marker=_MARKERS[cycle % len(_MARKERS)],
      linestyle=_LINES[cycle % len(_LINES)],
      markersize=4,
      linewidth=1.2,
      capsize=2,
      label=label,
    )


def _horizontal_line(axes: Any, average: Average) -> None:
  """Draws a dense network as a line with its deviation as a band."""
  deviation = average.deviation or 0.0
  axes.axhspan(
    average.mean - deviation, average.mean + deviation, color="#e4e4e4"
  )
  axes.axhline(average.mean, color="#777777", linewidth=1, label=average.label)


def _spaced_ticks(positions: Mapping[float, float]) -> list[float]:
  """Returns sparsities whose tick labels do not overlap, largest first."""
  ticks: list[float] = []
  largest = max(positions.values(), default=0.0)
  extent = largest - min(positions.values(), default=0.0)
  for sparsity in sorted(positions, reverse=True):
    if not ticks or positions[ticks[-1]] - positions[sparsity] >= extent / 12:
      ticks.append(sparsity)
  return ticks
