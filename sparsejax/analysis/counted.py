"""What `summary` returns: counts per layer and in total, and their table."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sparsejax.analysis.flops import FLOPS_PER_MAC

_COLUMNS = (
  "layer",
  "shape",
  "weights",
  "active",
  "requested",
  "sparsity",
  "inactive, not 0",
)
_UNIT_COLUMNS = ("units of", "", "units", "active", "requested", "sparsity")


class LayerSummary(NamedTuple):
  """Counts of one layer.

  Attributes:
    name: of the leaf, with `[i]` where its slices are layers.
    shape: of the layer.
    total: weights.
    active: active weights.
    requested: requested weights; None where the layer shares a budget with
      others.
    ever_active: weights that were ever active; None if that is not tracked.
    macs: multiply-adds of the dense layer for one example; None if unknown.
    inactive_nonzero: inactive weights that are not 0 in the parameters.
  """

  name: str
  shape: tuple[int, ...]
  total: int
  active: int
  requested: int | None
  ever_active: int | None
  macs: float | None
  inactive_nonzero: int = 0

  @property
  def sparsity(self) -> float:
    """Fraction of weights that are inactive and 0, in [0, 1]."""
    return 1 - (self.active + self.inactive_nonzero) / self.total


class UnitSummary(NamedTuple):
  """Counts of a layer of units, such as the filters of a convolution.

  Attributes:
    name: that of the leaf, with `+n` where n others share its channels.
    total: units.
    active: active units.
    requested: requested units; None where the layer shares a budget.
  """

  name: str
  total: int
  active: int
  requested: int | None

  @property
  def sparsity(self) -> float:
    """Fraction of inactive units, in [0, 1]."""
    return 1 - self.active / self.total


class DenseLeaf(NamedTuple):
  """A leaf with at least two dimensions that has no mask.

  Attributes:
    name: of the leaf.
    shape: of the leaf.
    why: the reason, as far as name and shape tell.
  """

  name: str
  shape: tuple[int, ...]
  why: str


class Summary(NamedTuple):
  """Counts of a network; prints as a table.

  Attributes:
    layers: one entry per sparse layer, in tree order.
    requested: requested weights at the last mask update, in total; requested
      units where there are `units`.
    parameters: all parameters, dense leaves included.
    other_macs: multiply-adds for one example that no mask reduces: of dense
      leaves, and of products without a leaf; None if unknown.
    extra_bytes: by name, the memory that the method adds to that of dense
      training: `masks`, `latent`, and each accumulator.
    warnings: inactive weights that are not 0, layers without active weights,
      counts other than requested.
    dense: leaves with at least two dimensions that have no mask.
    notes: what may be meant otherwise, such as stacked layers that are one.
    units: one entry per layer of units that are pruned as one; none where those
      are single weights.
  """

  layers: tuple[LayerSummary, ...]
  requested: int
  parameters: int
  other_macs: float | None
  extra_bytes: dict[str, int]
  warnings: tuple[str, ...]
  dense: tuple[DenseLeaf, ...] = ()
  notes: tuple[str, ...] = ()
  units: tuple[UnitSummary, ...] = ()

  @property
  def total(self) -> int:
    """Weights of all sparse layers, N."""
    return sum(layer.total for layer in self.layers)

  @property
  def active(self) -> int:
    """Active weights of all sparse layers."""
    return sum(layer.active for layer in self.layers)

  @property
  def total_units(self) -> int:
    """What is counted against `requested`: units, or weights."""
    return sum(each.total for each in self.units or self.layers)

  @property
  def active_units(self) -> int:
    """Active units, or weights."""
    return sum(each.active for each in self.units or self.layers)

  @property
  def unit_sparsity(self) -> float:
    """Fraction of inactive units, or weights: what a method is asked for."""
    return _share(self.total_units - self.active_units, self.total_units)

  @property
  def inactive_nonzero(self) -> int:
    """Inactive weights that are not 0; 0 where all is well."""
    return sum(layer.inactive_nonzero for layer in self.layers)

  @property
  def sparsity(self) -> float:
    """Fraction of the weights of sparse layers that are inactive and 0.

    It is that of the parameters, and below that of the masks where something
    moved inactive weights.
    """
    nonzero = self.active + self.inactive_nonzero
    return _share(self.total - nonzero, self.total)

  @property
  def itop_rate(self) -> float | None:
    """Share of the weights that were ever active; None if not tracked."""
    if any(layer.ever_active is None for layer in self.layers):
      return None
    return _share(sum(x.ever_active or 0 for x in self.layers), self.total)

  @property
  def dense_macs(self) -> float | None:
    """Multiply-adds of the dense network for one example."""
    if self.other_macs is None:
      return None
    return self.other_macs + math.fsum(x.macs or 0 for x in self.layers)

  @property
  def macs(self) -> float | None:
    """Multiply-adds of active weights, and of all else, for one example."""
    if self.other_macs is None:
      return None
    return self.other_macs + math.fsum(
      (x.macs or 0) * x.active / x.total for x in self.layers
    )

  @property
  def flops(self) -> float | None:
    """FLOPs of the sparse network for one example, 2 per multiply-add."""
    return None if self.macs is None else FLOPS_PER_MAC * self.macs

  def __str__(self) -> str:
    """Returns the table."""
    return "\n".join(_lines(self))


def _share(part: int, whole: int) -> float:
  return part / whole if whole else 0.0


def _lines(counted: Summary) -> Iterator[str]:
  """Yields the lines of the printed table."""
  yield from _table(counted)
  if counted.units:
    yield from ("", *_unit_table(counted), "")
  masked = _share(counted.total - counted.active, counted.parameters)
  yield f"{masked:.4%} of all {counted.parameters:,} parameters are masked"
  if counted.itop_rate is not None:
    yield f"ever active: {counted.itop_rate:.4%}"
  if counted.macs is not None and counted.dense_macs:
    ratio = counted.macs / counted.dense_macs
    yield f"FLOPs per example: {counted.flops:.4g}, {ratio:.4f} of dense"
  sizes = ", ".join(
    f"{name} {size / max(counted.total, 1):.3g}"
    for name, size in counted.extra_bytes.items()
  )
  yield f"extra bytes per weight: {sizes}"
  for x in counted.dense:
    yield f"dense: {x.name} {_product(x.shape)} ({x.why})"
  yield from (f"note: {text}" for text in counted.notes)
  yield from (f"warning: {text}" for text in counted.warnings)


def _table(counted: Summary) -> list[str]:
  """Returns the rows; weights that should be 0 have a column if there are."""
  columns = len(_COLUMNS) if counted.inactive_nonzero else len(_COLUMNS) - 1
  total = counted._replace(requested=None) if counted.units else counted
  rows = (
    _COLUMNS,
    *(_row(x.name, _product(x.shape), x) for x in counted.layers),
    _row("total", "", total),
  )
  return _aligned([row[:columns] for row in rows])


def _unit_table(counted: Summary) -> list[str]:
  """Returns the rows of units, which the requested counts belong to."""
  total = UnitSummary(
    "total", counted.total_units, counted.active_units, counted.requested
  )
  rows = [
    (x.name, "", *_counts(x.total, x.active, x.requested, x.sparsity))
    for x in (*counted.units, total)
  ]
  return _aligned([_UNIT_COLUMNS, *rows])


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
  """Returns the lines of a table, with a rule under its head."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for name, shape, *numbers in rows:
    cells = [name.ljust(widths[0]), shape.ljust(widths[1])]
    cells += map(str.rjust, numbers, widths[2:])
    lines.append("  ".join(cells).rstrip())
  lines.insert(1, "-" * (sum(widths) + 2 * len(widths) - 2))
  return lines


def _row(name: str, shape: str, x: LayerSummary | Summary) -> tuple[str, ...]:
  numbers = _counts(x.total, x.active, x.requested, x.sparsity)
  return (name, shape, *numbers, f"{x.inactive_nonzero:,}")


def _counts(
  total: int, active: int, requested: int | None, sparsity: float
) -> tuple[str, ...]:
  asked = "-" if requested is None else f"{requested:,}"
  return (f"{total:,}", f"{active:,}", asked, f"{sparsity:.4%}")


def _product(shape: tuple[int, ...]) -> str:
  return "x".join(map(str, shape))
