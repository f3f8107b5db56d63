"""Text tables for the console, and CSV files."""

import csv
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def print_table(rows: Sequence[Sequence[str]]) -> None:
  """Print a table: boxes in a terminal, Markdown otherwise.

  Args:
    rows: cells of text, the header first. The first column is left-aligned,
      the others are right-aligned.
  """
  from rich.console import Console  # Of the extra `train`.
  from rich.table import Table

  console = Console()
  if not console.is_terminal:
    print(markdown(rows))
    return
  header, *body = rows
  table = Table()
  for number, name in enumerate(header):
    table.add_column(name, justify="right" if number else "left")
  for row in body:
    table.add_row(*row)
  console.print(table)


def markdown(rows: Sequence[Sequence[str]]) -> str:
  """Returns a Markdown table whose columns line up."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

  def line(row: Sequence[str]) -> str:
    first, *others = (
      cell.rjust(width) if number else cell.ljust(width)
      for number, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return f"| {' | '.join([first, *others])} |"

  rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
  header, *body = rows
  return "\n".join(line(row) for row in (header, rule, *body))


def write_csv(records: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  """Write one line per record; values that a record lacks are empty.

  Args:
    records: column -> value; columns appear in the order of first use.
    path: file to write; folders that it lacks are made.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  names = list(dict.fromkeys(name for record in records for name in record))
  with open(path, "w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)


def scalars(summary: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the values of a run's summary that fit into a CSV file."""
  return {
    key: value
    for key, value in summary.items()
    if not isinstance(value, list | dict)
  }


def mean(values: Sequence[float], digits: int = 2) -> str:
  """Returns `mean ± standard deviation (n)`, or the value if n is 1.

  Args:
    values: one per run, at least one.
    digits: decimal places.
  """
  found = f"{statistics.mean(values):.{digits}f}"
  if len(values) == 1:
    return found
  return f"{found} ± {statistics.stdev(values):.{digits}f} ({len(values)})"
