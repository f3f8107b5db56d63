"""Units of several weights, and how they are spread over a layer."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float

from sparsejax.method.layout import Layout, SparseLeaf


class Span(NamedTuple):
  """The weights of one leaf that belong to an array of units.

  Attributes:
    number: of the leaf: in `Layout.leaves`, or among all leaves for a leaf that
      follows.
    sums: (array like the leaf) -> its sum over each unit, like the units.
    spread: (bool array of the units) -> bools like the leaf.
  """

  number: int
  sums: Callable[[Array], Array]
  spread: Callable[[Array], Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
  """The units of a layout: what is pruned and regrown as one.

  Attributes:
    layout: of the arrays of units, which take the place of leaves and layers in
      counts, scopes, random bits and selection. It has no tree.
    spans: for each array of units its members; together they cover the sparse
      leaves. A weight of several units is active where all of them are.
    followers: for each array of units the spans of leaves that are masked with
      it, but neither scored nor counted: biases, and the scale and bias of a
      normalization.
  """

  layout: Layout
  spans: tuple[tuple[Span, ...], ...]
  followers: tuple[tuple[Span, ...], ...] = ()

  def sums(self, arrays: Sequence[Array]) -> list[Float[Array, "..."]]:
    """Returns float32 sums over each unit of arrays in layout order."""
    return [
      functools.reduce(
        lambda a, b: a + b,
        [s.sums(arrays[s.number].astype(np.float32)) for s in spans],
      )
      for spans in self.spans
    ]

  def any(self, masks: Sequence[Array]) -> list[Bool[Array, "..."]]:
    """Returns for each unit whether any of its weights is active."""
    return [x > 0 for x in self.sums(masks)]

  def weights(self, units: Sequence[Array]) -> list[Bool[Array, "..."]]:
    """Returns the masks of the sparse leaves, in layout order."""
    found = _spread(units, self.spans)
    return [found[number] for number in sorted(found)]

  def following(self, units: Sequence[Array]) -> dict[int, Array]:
    """Returns the masks of the leaves that follow, by index of the leaf."""
    return _spread(units, self.followers) if self.followers else {}


def _spread(
  units: Sequence[Array], spans: Sequence[Sequence[Span]]
) -> dict[int, Array]:
  """Returns by number of the leaf where all units of a position are active."""
  found: dict[int, Array] = {}
  for mask, some in zip(units, spans, strict=True):
    for span in some:
      spread = span.spread(mask)
      known = found.get(span.number)
      found[span.number] = spread if known is None else known & spread
  return found


@dataclasses.dataclass(frozen=True)
class Quota:
  """How many active units every cell of a layer has, such as its columns.

  Attributes:
    best: (scores, ties, least, valid, present, leaf) -> bool like the leaf: the
      highest of the valid units that bring every cell to `least` together with
      those that are present. Scores are uint32 ranks, and so are `ties`, which
      order equal ones before the index does, or None; `least` broadcasts over
      the leaf.
    least: (layout, counts) -> int32[layers], the minimum of each cell where
      layers have so many active units.
    minimum: (leaf) -> the most units that the minima of a layer can take.
    refills: whether prune-and-regrow prunes freely, and every cell regrows as
      many as it lost; else the best of each cell are not pruned.
  """

  best: Callable[..., Bool[Array, "*dims"]]
  least: Callable[[Layout, Any], Array]
  minimum: Callable[[SparseLeaf], int]
  refills: bool = False
