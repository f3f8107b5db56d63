"""Positions of elements in their group, which order equal scores.

A position is a word, a rank that falls from the first element of a group to the
last, so that ties are searched as scores are. Where more weights compete than
an int32 can count, it has two words: the number of a chunk of fewer than 2^31
elements, and the index in it.
"""

import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool

from sparsejax.components.ranking import HIGHEST_RANK
from sparsejax.selection.groups import Groups, slices_of
from sparsejax.selection.lazy import LazyArray, materialize


def words_of(
  shapes: Sequence[tuple[int, ...]], groups: Groups
) -> list[list[LazyArray]]:
  """Returns, for each word, its values in arrays of these shapes."""
  axes = [
    [d for d in range(len(shape)) if d != axis]
    for shape, axis in zip(shapes, groups.axes, strict=True)
  ]
  if groups.limbs is None:
    return [_falling(shapes, groups, axes, groups.offsets)]
  ahead = [
    _axes_of_chunks(shape, some, groups.limbs.most)
    for shape, some in zip(shapes, axes, strict=True)
  ]
  inside = [some[len(first) :] for some, first in zip(axes, ahead, strict=True)]
  return [
    _falling(shapes, groups, ahead, _first_chunks(shapes, groups, ahead)),
    _falling(shapes, groups, inside, (0,) * len(groups.offsets)),
  ]


def not_after(
  words: Sequence[LazyArray], bounds: Sequence[Array]
) -> Bool[Array, "..."]:
  """Returns which positions are at or before bounds, word by word."""
  *first, last = (materialize(word) for word in words)
  *first_bounds, bound = bounds
  reached = last >= bound
  for word, bound in zip(first[::-1], first_bounds[::-1], strict=True):
    reached = (word > bound) | ((word == bound) & reached)
  return reached


def _falling(shapes, groups, axes, offsets) -> list[LazyArray]:
  """Returns ranks that fall with the row-major index over some axes."""
  offsets = np.asarray(offsets, np.uint32)

  def make(index, *, shape, axes):
    stride = 1
    for d in reversed(axes):
      place = lax.broadcasted_iota(jnp.uint32, shape, d)
      index = index + place * np.uint32(stride)
      stride *= shape[d]
    return jnp.broadcast_to(HIGHEST_RANK - np.uint32(1) - index, shape)

  return [
    LazyArray(
      functools.partial(make, shape=shape, axes=some),
      (jnp.asarray(offsets[slices.numbers].reshape(slices.shape)),),
      shape,
      np.dtype(np.uint32),
    )
    for shape, some, slices in zip(
      shapes, axes, slices_of(shapes, groups), strict=True
    )
  ]


def _axes_of_chunks(shape, axes, most) -> list[int]:
  """Returns the first axes, so many that what is left has `most` elements."""
  first = list(axes)
  while first and math.prod(shape[d] for d in axes[len(first) - 1 :]) <= most:
    first.pop()
  return first


def _first_chunks(shapes, groups, axes) -> np.ndarray:
  """Returns int[slices]: the number of the first chunk, in order of a group."""
  sizes = np.concatenate(
    [
      np.full(
        slices.numbers.stop - slices.numbers.start,
        math.prod(shape[d] for d in some),
      )
      for shape, some, slices in zip(
        shapes, axes, slices_of(shapes, groups), strict=True
      )
    ]
  )
  order = np.lexsort((groups.offsets, groups.of_slice))
  first = np.empty_like(sizes)
  first[order] = np.cumsum(sizes[order]) - sizes[order]
  return first
