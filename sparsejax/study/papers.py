"""A paper's table as data: how to train each row, and what was published.

A file in `configs/tables/` defines one `TABLE`, written to be compared with the
printed page: each line of the paper's table (a method and its options) over the
cells of its header (networks and their options). `reproduce` trains the rows. A
figure is a table with a `Plot`, whose rows need no published numbers.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple


class Figure(NamedTuple):
  """A published number, with its standard deviation if there is one."""

  value: float
  deviation: float | None = None


class Row(NamedTuple):
  """One network that a paper trained.

  Attributes:
    name: parts joined by slashes, such as `granet-0.5/vgg19/cifar10/0.98`.
    config: what `--config` of the trainer takes; `None` for what the library
      does not train.
    published: column -> figure; empty in a table of our own.
    changes: more arguments of the trainer.
    after: name of the row whose run this one starts from, with the same seed.
    seek: sparsity in (0, 1) that its runs end with, of a method that has no
      such argument: `sparsejax.study.seek` finds the argument that leads there.
    source: whose numbers the paper quotes; "" for its own.
    note: how our run differs from the paper's, or what else to know.
    seed_shift: added to the seed, for a row whose seed must differ from that of
      the row that it starts from.
  """

  name: str
  config: str | None
  published: dict[str, Figure]
  changes: tuple[str, ...] = ()
  after: str | None = None
  seek: float | None = None
  source: str = ""
  note: str = ""
  seed_shift: int = 0


class Plot(NamedTuple):
  """What a figure shows.

  A line is the first part of the rows' names. The other parts are the title of
  its panel, but for the last one of points, which differs along the line.

  Attributes:
    y: the vertical axis, one row of panels each: names in `results.COLUMNS`
      for points, one per run; keys of `metrics.jsonl` for curves over the
      epochs of a run.
    x: the horizontal axis of points, a name in `results.COLUMNS`; None for
      curves.
    levels: lines of one point that are drawn across their panel, to compare the
      others with.
  """

  y: tuple[str, ...]
  x: str | None = None
  levels: tuple[str, ...] = ()


class Table(NamedTuple):
  """A table.

  Attributes:
    title: what it shows.
    reference: paper and number.
    columns: published columns, names in `results.COLUMNS` or of layers.
    rows: in the paper's order; a row comes after the one that it starts from.
    plot: the figure to draw; None for a table.
  """

  title: str
  reference: str
  columns: tuple[str, ...]
  rows: tuple[Row, ...]
  plot: Plot | None = None


class Cell(NamedTuple):
  """A cell of a table's header.

  Attributes:
    name: the end of the rows' names.
    options: of the config.
    seek: as in `Row`.
  """

  name: str
  options: str
  seek: float | None = None


def across(*options: Sequence[str]) -> tuple[Cell, ...]:
  """Make the cells of a table's header.

  Args:
    *options: alternatives, from the outer header to the inner one.

  Returns:
    One cell per combination; the last alternative changes fastest.

  Examples:
    >>> cell = across(("vgg19,cifar10",), ("sparsity=0.9", "sparsity=0.98"))[1]
    >>> cell.name, cell.options
    ('vgg19/cifar10/0.98', 'vgg19,cifar10,sparsity=0.98')
  """
  found = []
  for chosen in itertools.product(*options):
    items = ",".join(chosen)
    found.append(Cell(re.sub(r"\w+=", "", items).replace(",", "/"), items))
  return tuple(found)


def without(key: str, cells: Sequence[Cell]) -> tuple[Cell, ...]:
  """Remove an option from cells, for a method that has no such argument.

  Args:
    key: the option.
    cells: they keep their names; those that differ only in the option become
      one run.

  Examples:
    >>> without("sparsity", [Cell("vgg19/0.9", "vgg19,sparsity=0.9")])
    (Cell(name='vgg19/0.9', options='vgg19', seek=None),)
  """
  return tuple(
    Cell(cell.name, re.sub(rf"(^|,){key}=[^,]*", "", cell.options))
    for cell in cells
  )


def sought(cells: Sequence[Cell]) -> tuple[Cell, ...]:
  """Make cells of a method that has to reach a sparsity which it cannot take.

  Examples:
    >>> sought([Cell("vgg19/0.9", "vgg19,sparsity=0.9")])
    (Cell(name='vgg19/0.9', options='vgg19', seek=0.9),)
  """
  found = []
  for cell in cells:
    match = re.search(r"(?:^|,)sparsity=([^,]*)", cell.options)
    if match is None:
      raise ValueError(f"The cell {cell.name!r} has no option `sparsity`.")
    (rest,) = without("sparsity", [cell])
    found.append(rest._replace(seek=float(match[1])))
  return tuple(found)


def line(
  name: str,
  config: str | None,
  cells: Sequence[Cell],
  published: str,
  *,
  columns: Sequence[str] = ("accuracy",),
  after: str | None = None,
  **fields: Any,
) -> tuple[Row, ...]:
  """Make the rows of one line of a paper's table.

  Args:
    name: the start of the rows' names.
    config: as in `Row`, without the options of the cells.
    cells: the header's cells.
    published: one item per cell: `-` for none, or one number per column,
      joined by slashes, such as `76.0/.37/.35`. A number may be `-` (not
      published) or have a deviation: `93.73±.08`. Bars are ignored.
    columns: what the numbers are.
    after: name of the line whose runs these start from.
    **fields: other fields of `Row`: `changes`, `source`, `note`.

  Returns:
    One row per cell in which something is published.

  Raises:
    ValueError: if the number of items is not the number of cells, or an item
      is not a number.

  Examples:
    >>> (row,) = line("snip", "cifar:snip", [Cell("vgg19", "vgg19")],
    ...               "93.63±.1")
    >>> row.name, row.config
    ('snip/vgg19', 'cifar:snip,vgg19')
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
      seek=cell.seek,
      after=None if after is None else f"{after}/{cell.name}",
      **fields,
    )
    for item, cell in zip(items, cells, strict=True)
    if item != "-"
  )


def ours(
  name: str,
  config: str,
  cells: Sequence[Cell],
  *,
  after: str | None = None,
  **fields: Any,
) -> tuple[Row, ...]:
  """Make the rows of one line without published numbers.

  They are those of a table of our own, or of a figure.

  Args:
    name: the start of the rows' names.
    config: as in `Row`, without the options of the cells.
    cells: the header's cells.
    after: name of the line whose runs these start from.
    **fields: other fields of `Row`.

  Examples:
    >>> (row,) = ours("gmp", "lm:gmp", [Cell("0.9", "sparsity=0.9")])
    >>> row.name, row.config, row.published
    ('gmp/0.9', 'lm:gmp,sparsity=0.9', {})
  """
  return tuple(
    Row(
      f"{name}/{cell.name}",
      f"{config},{cell.options}",
      {},
      after=None if after is None else f"{after}/{cell.name}",
      **fields,
    )
    for cell in cells
  )


def figures(text: str, columns: Sequence[str]) -> dict[str, Figure]:
  """Parse the numbers of a cell by column; `line` describes the format.

  Raises:
    ValueError: if the count is not that of the columns, or one is not a number.
  """
  numbers = text.split("/")
  if len(numbers) != len(columns):
    raise ValueError(f"{text!r} does not have a number for each of {columns}.")
  return {
    column: _figure(number)
    for column, number in zip(columns, numbers, strict=True)
    if number != "-"
  }


def _figure(text: str) -> Figure:
  value, _, deviation = text.partition("±")
  return Figure(float(value), float(deviation) if deviation else None)
