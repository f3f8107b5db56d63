"""A paper's table as data: what makes each row, and what was published.

A file in `configs/tables/` holds one `TABLE`, written to be laid beside the
paper: a line of the paper's table, with the options of its method, over the
cells that stand across, with the options of each network. `reproduce` trains
it.
"""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple


class Figure(NamedTuple):
  """A published number, with its standard deviation where there is one."""

  value: float
  deviation: float | None = None


class Row(NamedTuple):
  """One network that a paper trained.

  Attributes:
    name: parts joined by slashes, as `granet-0.5/vgg19/cifar10/0.98`.
    config: FILE:OPTIONS as `--config` of the trainer takes it, the file seen
      from the root of the project; `None` for what the library does not train.
    published: column -> figure.
    changes: further arguments of the trainer.
    after: name of the row whose run this one starts from, with the same seed.
    source: whose numbers the paper quotes; "" for its own.
    note: what differs from what was published, and what else has to be known.
  """

  name: str
  config: str | None
  published: dict[str, Figure]
  changes: tuple[str, ...] = ()
  after: str | None = None
  source: str = ""
  note: str = ""


class Table(NamedTuple):
  """A table.

  Attributes:
    title: what it shows.
    reference: paper and number.
    columns: names of what is published, as `reproduce.COLUMNS` has them.
    rows: in the paper's order; a row stands behind the one that it starts from.
  """

  title: str
  reference: str
  columns: tuple[str, ...]
  rows: tuple[Row, ...]


class Cell(NamedTuple):
  """What stands across a paper's table: the end of a name, and its options."""

  name: str
  options: str


def across(*options: Sequence[str]) -> tuple[Cell, ...]:
  """Makes the cells of a table's header.

  Args:
    *options: alternatives from the outer header to the inner one.

  Returns:
    A cell for each combination, the last one changing first.

  Examples:
    >>> across(("vgg19,cifar10",), ("sparsity=0.9", "sparsity=0.98"))[1]
    Cell(name='vgg19/cifar10/0.98', options='vgg19,cifar10,sparsity=0.98')
  """
  found = []
  for chosen in itertools.product(*options):
    items = ",".join(chosen)
    found.append(Cell(re.sub(r"\w+=", "", items).replace(",", "/"), items))
  return tuple(found)


def without(key: str, cells: Sequence[Cell]) -> tuple[Cell, ...]:
  """Takes an option away from cells, for a method that has no such argument.

  Args:
    key: of the option.
    cells: their names stay; those that differ in the option are one run.

  Examples:
    >>> without("sparsity", [Cell("vgg19/0.9", "vgg19,sparsity=0.9")])
    (Cell(name='vgg19/0.9', options='vgg19'),)
  """
  return tuple(
    Cell(cell.name, re.sub(rf"(^|,){key}=[^,]*", "", cell.options))
    for cell in cells
  )


def line(
  name: str,
  config: str | None,
  cells: Sequence[Cell],
  published: str,
  *,
  columns: Sequence[str] = ("accuracy",),
  changes: Sequence[str] = (),
  after: str | None = None,
  source: str = "",
  note: str = "",
) -> tuple[Row, ...]:
  """Makes the rows of one line of a paper's table.

  Args:
    name: how the rows' names begin.
    config: FILE:OPTIONS without those of the cells; `None` where the library
      does not train it.
    cells: what stands across.
    published: one item for each cell: `-` for none, else as many numbers as
      there are columns, joined by slashes, as `76.0/.37/.35`; `-` in it for
      what is not published, `93.73±.08` with a deviation. Bars are for the
      reader.
    columns: of the numbers.
    changes: as `Row` has them.
    after: name of the line whose runs these start from.
    source: as `Row` has it.
    note: likewise.

  Returns:
    A row for each cell where something is published.

  Raises:
    ValueError: if the numbers are not as many as the cells, or are none.

  Examples:
    >>> (row,) = line("snip", "configs/cifar.py:snip", [Cell("vgg19", "vgg19")],
    ...               "93.63±.1")
    >>> row.name, row.config
    ('snip/vgg19', 'configs/cifar.py:snip,vgg19')
    >>> row.published
    {'accuracy': Figure(value=93.63, deviation=0.1)}
  """
  items = published.replace("|", " ").split()
  if len(items) != len(cells):
    raise ValueError(
      f"The line {name!r} has {len(items)} figures for {len(cells)} cells."
    )
  return tuple(
    Row(
      name=f"{name}/{cell.name}",
      config=None if config is None else f"{config},{cell.options}",
      published=figures(item, columns),
      changes=tuple(changes),
      after=None if after is None else f"{after}/{cell.name}",
      source=source,
      note=note,
    )
    for item, cell in zip(items, cells, strict=True)
    if item != "-"
  )


def figures(text: str, columns: Sequence[str]) -> dict[str, Figure]:
  """Reads the numbers of a cell, by column; `line` has the form.

  Raises:
    ValueError: if they are not as many as the columns, or are none.
  """
  numbers = text.split("/")
  if len(numbers) != len(columns):
    raise ValueError(f"{text!r} has not a number for each of {columns}.")
  return {
    column: _figure(number)
    for column, number in zip(columns, numbers, strict=True)
    if number != "-"
  }


def _figure(text: str) -> Figure:
  value, _, deviation = text.partition("±")
  return Figure(float(value), float(deviation) if deviation else None)
