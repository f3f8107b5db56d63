"""What `summary` returns: counts per layer and in total, and their table."""

import math
from collections.abc import Iterator
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
    requested: requested weights at the last mask update, in total.
    parameters: all parameters, dense leaves included.
    other_macs: multiply-adds for one example that no mask reduces: of dense
      leaves, and of products without a leaf; None if unknown.
    extra_bytes: by name, the memory that the method adds to that of dense
      training: `masks`, `latent`, and each accumulator.
    warnings: inactive weights that are not 0, layers without active weights,
      counts other than requested.
    dense: leaves with at least two dimensions that have no mask.
    notes: what may be meant otherwise, such as stacked layers that are one.
  """

  layers: tuple[LayerSummary, ...]
  requested: int
  parameters: int
  other_macs: float | None
  extra_bytes: dict[str, int]
  warnings: tuple[str, ...]
  dense: tuple[DenseLeaf, ...] = ()
  notes: tuple[str, ...] = ()

  @property
  def total(self) -> int:
    """Weights of all sparse layers, N."""
    return sum(layer.total for layer in self.layers)

  @property
  def active(self) -> int:
    """Active weights of all sparse layers."""
    return sum(layer.active for layer in self.layers)

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
  rows = [
    row[:columns]
    for row in (
      _COLUMNS,
      *(_row(x.name, _product(x.shape), x) for x in counted.layers),
      _row("total", "", counted),
    )
  ]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for name, shape, *numbers in rows:
    cells = [name.ljust(widths[0]), shape.ljust(widths[1])]
    cells += map(str.rjust, numbers, widths[2:])
    lines.append("  ".join(cells).rstrip())
  lines.insert(1, "-" * (sum(widths) + 2 * len(widths) - 2))
  return lines


def _row(name: str, shape: str, x: LayerSummary | Summary) -> tuple[str, ...]:
  requested = "-" if x.requested is None else f"{x.requested:,}"
  numbers = (f"{x.total:,}", f"{x.active:,}", requested, f"{x.sparsity:.4%}")
  return (name, shape, *numbers, f"{x.inactive_nonzero:,}")


def _product(shape: tuple[int, ...]) -> str:
  return "x".join(map(str, shape))
