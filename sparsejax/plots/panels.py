"""Figures of several panels: lines through the results of runs."""

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from sparsejax.plots import style


class Line(NamedTuple):
  """A line of a panel.

  Attributes:
    label: of the legend.
    places: the (x, y) of all seeds at each place along the line; a place
      without any is left out.
    published: whether the numbers are those of a paper.
    level: whether to draw the mean of y across the panel, without x.
  """

  label: str
  places: Sequence[Sequence[tuple[float, float]]]
  published: bool = False
  level: bool = False


class Panel(NamedTuple):
  """One panel.

  Attributes:
    title: above it.
    x: label of the horizontal axis.
    y: label of the vertical axis.
    lines: those without a place are left out.
  """

  title: str
  x: str
  y: str
  lines: Sequence[Line]


def plot_panels(
  rows: Sequence[Sequence[Panel]], path: pathlib.Path | Any
) -> None:
  """Plot means and sample deviations over seeds, in a grid of panels.

  Published numbers are hollow, on dashed lines of the same color.

  Args:
    rows: rows of panels; those of a column share the horizontal axis.
    path: file to write (its suffix gives the format), or a binary file for a
      PNG.
  """
  columns = max(map(len, rows))
  figure = style.new_figure(3.4 * columns + 2.2, 3.0 * len(rows) + 0.6)
  grid = figure.subplots(len(rows), columns, squeeze=False, sharex="col")
  names = list(
    dict.fromkeys(x.label for row in rows for p in row for x in p.lines)
  )
  handles: dict[str, Any] = {}
  for panels, axes_of_row in zip(rows, grid, strict=True):
    for panel, axes in zip(panels, axes_of_row, strict=True):
      for line in panel.lines:
        drawn = draw(axes, line, names.index(line.label))
        if drawn is not None:
          handles.setdefault(drawn.get_label(), drawn)
      axes.set_title(panel.title, fontsize=9)
      style.finish_axes(axes)
      axes.set_ylabel(panel.y)
  for panel, axes in zip(rows[-1], grid[-1], strict=True):
    axes.set_xlabel(panel.x)
  figure.legend(
    handles.values(),
    handles.keys(),
    loc="outside right upper",
    frameon=False,
    fontsize=8,
  )
  figure.savefig(path)


def draw(axes: Any, line: Line, number: int) -> Any:
  """Draw a line.

  Args:
    axes: of matplotlib.
    line: what to draw.
    number: of the line, which gives its color and marker.

  Returns:
    Its handle for a legend; `None` if there is nothing to draw.
  """
  places = [place for place in line.places if place]
  if not places:
    return None
  xs = [statistics.mean(x for x, _ in place) for place in places]
  ys = [statistics.mean(y for _, y in place) for place in places]
  if line.level:
    mean = statistics.mean(ys)
    return axes.axhline(mean, color="gray", linestyle=":", label=line.label)
  color = style.COLORS[number % len(style.COLORS)]
  # Where colors repeat, markers differ.
  marker = style.MARKERS[
    (number + number // len(style.COLORS)) % len(style.MARKERS)
  ]
  many = len(places) > 30  # A curve; markers would cover it.
  handle = axes.errorbar(
    xs,
    ys,
    [_deviation([y for _, y in place]) for place in places]
    if any(len(place) > 1 for place in places)
    else None,
    color=color,
    marker=None if many else marker,
    markersize=4,
    markerfacecolor="white" if line.published else color,
    linestyle="--" if line.published else "-",
    linewidth=1.1,
    label=f"{line.label}, published" if line.published else line.label,
  )
  return handle


def _deviation(values: Sequence[float]) -> float:
  """Returns the sample standard deviation, 0 for a single run."""
  return statistics.stdev(values) if len(values) > 1 else 0.0
