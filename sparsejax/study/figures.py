"""A paper's figure, from the records of the runs that are done."""

import pathlib
from collections.abc import Sequence

from sparsejax import plots
from sparsejax.plots.panels import Line, Panel
from sparsejax.study import papers, results
from sparsejax.study.results import Result


def draw(
  table: papers.Table, found: Sequence[Result], path: pathlib.Path
) -> None:
  """Draw a figure, and print its path.

  Args:
    table: has a plot.
    found: results of its rows, at least one.
    path: file to write.
  """
  if not plots.has_matplotlib():
    print("note: the figure needs matplotlib: pip install 'sparsejax[plots]'.")
    return
  plots.plot_panels(panels(table, found), path)
  print(f"Figure: {path}")


def panels(table: papers.Table, found: Sequence[Result]) -> list[list[Panel]]:
  """Returns the rows of panels of a figure, one row per vertical axis."""
  assert table.plot is not None  # The caller asked.
  make = _curves if table.plot.x is None else _points
  titles = list(dict.fromkeys(_panel(table.plot, row) for row in table.rows))
  return [
    [
      Panel(
        title,
        _label(table.plot.x),
        _label(y),
        make(table, table.plot, y, title, found),
      )
      for title in titles
    ]
    for y in table.plot.y
  ]


def _points(
  table: papers.Table,
  plot: papers.Plot,
  y: str,
  title: str,
  found: Sequence[Result],
) -> list[Line]:
  """Returns lines of runs, and those of published numbers."""
  assert plot.x is not None  # Curves have no points.
  across, up = results.column(plot.x), results.column(y)
  lines: list[Line] = []
  for name, rows in _lines(table, plot, title).items():
    ours = [
      [
        (across.ours(each), up.ours(each))
        for each in found
        if each.run.row == row
      ]
      for row in rows
    ]
    published = [
      [(row.published[plot.x].value, row.published[y].value)]
      for row in rows
      if {plot.x, y} <= row.published.keys()
    ]
    lines += [
      Line(name, ours, level=name in plot.levels),
      Line(name, published, published=True),
    ]
  return lines


def _curves(
  table: papers.Table,
  plot: papers.Plot,
  y: str,
  title: str,
  found: Sequence[Result],
) -> list[Line]:
  """Returns a line per row: at each epoch, the values of all seeds."""
  lines: list[Line] = []
  for name, rows in _lines(table, plot, title).items():
    by_epoch: dict[float, list[tuple[float, float]]] = {}
    for result in found:
      if result.run.row not in rows:
        continue
      per_epoch = result.summary["steps"] / (
        result.run.config["epochs"] * result.run.config["epochs_multiplier"]
      )
      for row in plots.read_run(result.run.workdir).rows:
        if row.get(y) is not None:
          epoch = row["step"] / per_epoch
          by_epoch.setdefault(epoch, []).append((epoch, row[y]))
    lines.append(Line(name, [by_epoch[epoch] for epoch in sorted(by_epoch)]))
  return lines


def _lines(
  table: papers.Table, plot: papers.Plot, title: str
) -> dict[str, list[papers.Row]]:
  """Returns the rows of a panel by line."""
  found: dict[str, list[papers.Row]] = {}
  for row in table.rows:
    if _panel(plot, row) == title:
      found.setdefault(row.name.partition("/")[0], []).append(row)
  return found


def _panel(plot: papers.Plot, row: papers.Row) -> str:
  parts = row.name.split("/")[1:]
  if plot.x is not None and parts and parts[-1][0].isdigit():
    parts = parts[:-1]
  return ", ".join(parts)


def _label(name: str | None) -> str:
  if name is None:
    return "epoch"
  if name in results.COLUMNS:
    return results.COLUMNS[name].title
  return {"active": "active weights"}.get(name, name.replace("_", " "))
