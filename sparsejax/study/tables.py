"""Tables of text, for people and for other programs."""

import csv
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def show(rows: Sequence[Sequence[str]]) -> None:
  """Print a table; columns between bars where no terminal shows it.

  Args:
    rows: cells of text, the header first; the first column is left-aligned.
  """
  console = Console()
  header, *body = rows
  if console.is_terminal:
    table = Table()
    for number, name in enumerate(header):
      table.add_column(name, justify="right" if number else "left")
    for row in body:
      table.add_row(*row)
    console.print(table)
    return
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

  def line(row: Sequence[str]) -> str:
    first, *others = (
      cell.rjust(width) if number else cell.ljust(width)
      for number, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return f"| {' | '.join([first, *others])} |"

  rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
  for row in (header, rule, *body):
    print(line(row))


def write_csv(records: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  """Write records, a line for each; what one of them lacks is left empty.

  Args:
    records: values by column, which stand in the order in which they come.
    path: file to write.
  """
  names = list(dict.fromkeys(name for record in records for name in record))
  with open(path, "w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)


def mean(values: Sequence[float], digits: int = 2) -> str:
  """Returns `mean ± deviation (runs)`; a single run has neither of the last.

  Args:
    values: one of each run, at least one.
    digits: behind the point.
  """
  found = f"{statistics.mean(values):.{digits}f}"
  if len(values) == 1:
    return found
  return f"{found} ± {statistics.stdev(values):.{digits}f} ({len(values)})"
