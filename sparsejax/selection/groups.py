"""Groups: which elements of several arrays compete with each other.

An array is divided into slices along one axis, or is one slice, and each slice
belongs to a group. What a search finds has one value for each group, and is
spread over the arrays in shapes that broadcast.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sparsejax.components import wide_counts
from sparsejax.components.wide_counts import Limbs


@dataclasses.dataclass(frozen=True)
class Groups:
  """Which elements of a list of arrays compete with each other.

  Attributes:
    axes: for each array, the axis along which it is divided into slices, or
      None for an array that is one slice.
    of_slice: int[slices]; the group of each slice, 0, 1, ...; slices count in
      array order, then along the axis.
    offsets: int[slices]; what is added to the row-major index in the slice to
      give the position of an element among equal scores of its group.
    min_count: minimum number of groups; the last ones may be empty. XLA
      compiles the kernels of searches with as many groups once.
    sharded: whether arrays may be sharded over devices.
    limbs: how counts are divided where an int32 cannot hold those of a group,
      of arrays as where they are sharded; None where it can.
  """

  axes: tuple[int | None, ...]
  of_slice: tuple[int, ...]
  offsets: tuple[int, ...]
  min_count: int = 0
  sharded: bool = False
  limbs: Limbs | None = None

  @property
  def at_once(self) -> bool:
    """Whether several bounds are compared in one array, for short code."""
    return self.sharded or self.limbs is not None

  @property
  def words(self) -> int:
    """How many words the position of an element has."""
    return 1 if self.limbs is None else 2

  @property
  def count(self) -> int:
    """Number of groups."""
    return max(max(self.of_slice, default=-1) + 1, self.min_count)


def each_layer(
  axes: Sequence[int | None],
  sizes: Sequence[int],
  *,
  sharded: bool = False,
) -> Groups:
  """Every layer is a group, of so many elements."""
  layers = tuple(range(len(sizes)))
  limbs = wide_counts.limbs_for(max(sizes, default=0))
  return Groups(
    tuple(axes), layers, (0,) * len(sizes), sharded=sharded, limbs=limbs
  )


class Slices(NamedTuple):
  """The slices of one array: their numbers, and a shape that broadcasts."""

  axis: int | None
  numbers: slice
  shape: tuple[int, ...]


def slices_of(
  shapes: Sequence[tuple[int, ...]], groups: Groups
) -> list[Slices]:
  """Returns the slices of each array."""
  out, start = [], 0
  for shape, axis in zip(shapes, groups.axes, strict=True):
    size = 1 if axis is None else shape[axis]
    along = tuple(size if d == axis else 1 for d in range(len(shape)))
    out.append(Slices(axis, slice(start, start + size), along))
    start += size
  return out


def spread(
  values: Array, shapes: Sequence[tuple[int, ...]], groups: Groups
) -> list[Array]:
  """Returns, for each array, its groups' values in a shape that broadcasts.

  Values of shape [n, groups], and not [groups], give n arrays for each array.
  """
  if values.shape[-1] == 1:  # or XLA computes what uses it once per element
    values = jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, 1)])
  values = values[..., np.asarray(groups.of_slice)]
  return [
    values[..., slices.numbers].reshape(*values.shape[:-1], *slices.shape)
    for slices in slices_of(shapes, groups)
  ]


def join_rows(
  arrays: Sequence[Array], groups: Groups
) -> tuple[Sequence[Array], Groups]:
  """Returns arrays of rows as one, so that what rarely runs compiles once."""
  rows = all(
    axis == 0 and x.ndim == 2
    for x, axis in zip(arrays, groups.axes, strict=True)
  )
  if not rows or len(arrays) == 1 or groups.at_once:
    return arrays, groups
  length = math.gcd(*(x.shape[1] for x in arrays))
  parts = np.repeat(
    [x.shape[1] // length for x in arrays], [x.shape[0] for x in arrays]
  )
  place = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
  joined = Groups(
    (0,),
    tuple(np.repeat(groups.of_slice, parts).tolist()),
    tuple((np.repeat(groups.offsets, parts) + place * length).tolist()),
    groups.min_count,
  )
  return [jnp.concatenate([x.reshape(-1, length) for x in arrays])], joined


def split_rows(
  arrays: Sequence[Array], shapes: Sequence[tuple[int, ...]]
) -> Sequence[Array]:
  """Undoes `join_rows`."""
  if len(arrays) == len(shapes):
    return arrays
  flat, parts, start = arrays[0].ravel(), [], 0
  for shape in shapes:
    stop = start + math.prod(shape)
    parts.append(flat[start:stop].reshape(shape))
    start = stop
  return parts
