"""The layers of a sparse network, and the tapped matrices in them."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, PyTree

from sparsejax.calibration.taps import Program, Tap
from sparsejax.components import leaves
from sparsejax.components.leaves import Overrides, Select
from sparsejax.method import Layout, SparseLeaf


class Tapped(NamedTuple):
  """The taps of the sparse leaves.

  Attributes:
    layout: the sparse leaves. Each slice of a leaf that a `scan` slices is a
      separate layer.
    taps: in the order in which the program first reads them.
    layer_of: by key of a tap, int[S, B]: the layer of each matrix.
  """

  layout: Layout
  taps: tuple[Tap, ...]
  layer_of: dict[object, np.ndarray]

  def of(self, leaf: SparseLeaf) -> list[Tap]:
    """Returns the taps of a leaf."""
    return [tap for tap in self.taps if tap.leaf == leaf.index]


def find(
  program: Program,
  params: PyTree,
  select: Select,
  overrides: Overrides | None,
) -> Tapped:
  """Returns the taps of the leaves that are sparse, as `sparsify` selects them.

  Raises:
    ValueError: if a sparse leaf has no tap, is also read where it cannot be
      tapped, or is read in two ways that share weights.
  """
  layout = leaves.find_layout(params, select, overrides)
  chosen = {leaf.index for leaf in layout.leaves}
  found = tuple(x for x in program.taps.values() if x.leaf in chosen)
  tapped = Tapped(layout, found, {})
  _check_readings(program, tapped)
  for leaf in layout.leaves:
    _check_disjoint(leaf, tapped.of(leaf))
  layout = dataclasses.replace(
    layout,
    leaves=tuple(_stacked(leaf, tapped.of(leaf)) for leaf in layout.leaves),
  )
  return tapped._replace(
    layout=layout,
    layer_of={
      tap.key: layout.layers_of(number).start + _slices(tap, leaf)
      for number, leaf in enumerate(layout.leaves)
      for tap in tapped.of(leaf)
    },
  )


def _check_readings(program: Program, tapped: Tapped) -> None:
  bad = []
  for leaf in tapped.layout.leaves:
    why = program.refused.get(leaf.index)
    if why is None and not tapped.of(leaf):
      why = "is read by no matrix product or convolution with data"
    if why is not None:
      bad.append(f"{leaf.name} {why}")
  if bad:
    raise ValueError(
      f"`apply` reads sparse leaves where their inputs cannot be tapped:"
      f" {'; '.join(bad)}. Leave them dense: overrides={{name: 'dense'}}, or"
      " `select` others."
    )


def _check_disjoint(leaf: SparseLeaf, found: Sequence[Tap]) -> None:
  """Raises unless each weight of a leaf belongs to one tap."""
  if len(found) == 1 and np.prod(found[0].shape) == np.prod(leaf.shape):
    return

  @jax.jit
  def readings() -> tuple[Array, Array]:
    each = [x.leaf_from(jnp.ones(x.shape), leaf.shape) for x in found]
    total = functools.reduce(jnp.add, each)
    return jnp.min(total), jnp.max(total)

  least, most = map(int, readings())
  if least == most == 1:
    return
  problem = "has weights that no product reads" if not least else ""
  raise ValueError(
    f"`apply` reads {leaf.name} in {len(found)} ways, and it"
    f" {problem or 'has weights that several of them read'}. Leave it dense:"
    f" overrides={{{leaf.name!r}: 'dense'}}."
  )


def _stacked(leaf: SparseLeaf, found: Sequence[Tap]) -> SparseLeaf:
  """Makes each slice of a stacked leaf a layer, if no override has an axis."""
  if leaf.axis is not None or any(not tap.stack for tap in found):
    return leaf
  for axis, size in enumerate(leaf.shape):
    sliced = dataclasses.replace(leaf, axis=axis)
    if all(size == x.shape[0] and _is_constant(x, sliced) for x in found):
      return sliced
  return leaf


def _slices(tap: Tap, leaf: SparseLeaf) -> np.ndarray:
  """Returns int[S, B], the slice along the layer axis of each matrix."""
  if leaf.axis is None:
    return np.zeros(tap.shape[:2], np.int64)
  if not _is_constant(tap, leaf):
    raise ValueError(
      f"`axis` of the override for {leaf.name!r} must not divide the inputs or"
      f" outputs of a product, got {leaf.axis}. Leave it out: the slices of a"
      " `scan` are layers without it."
    )
  return np.asarray(_extremes(tap, leaf)[0], np.int64)


def _is_constant(tap: Tap, leaf: SparseLeaf) -> bool:
  least, most = _extremes(tap, leaf)
  return bool((least == most).all())


@functools.lru_cache(maxsize=256)
def _extremes(tap: Tap, leaf: SparseLeaf) -> tuple[np.ndarray, np.ndarray]:
  """Returns the lowest and highest place on the layer axis, int[S, B] each."""

  @jax.jit
  def places() -> tuple[Array, Array]:
    assert leaf.axis is not None  # The callers look.
    place = lax.broadcasted_iota(jnp.int32, leaf.shape, leaf.axis)
    matrices = tap.matrices(place)
    return jnp.min(matrices, axis=(2, 3)), jnp.max(matrices, axis=(2, 3))

  least, most = places()
  return np.asarray(least), np.asarray(most)
