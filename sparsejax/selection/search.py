"""Exact top-k over many leaves: `select` keeps the highest of each group.

Scores are ranked as unsigned integers in the order of the floats
(`components.ranking`). The k-th highest rank is found by counting: each pass
counts, in every group at once, how many scores reach a few probes, and narrows
the interval that holds the k-th one. Ties at the k-th rank are then broken by
index in the same way. The search needs only sums of counts: it neither sorts
nor gathers, k may be traced, and over sharded leaves the only collective is an
all-reduce of a few integers.

Where more weights compete than an int32 can count, counts have two limbs
(`components.wide_counts`), and the place of a tie has two words: the number of
a chunk of fewer than 2^31 elements, and the index in it. The first word is
searched, then the second among the ties of that chunk.

How the probes are chosen
-------------------------
After a pass we know, for the interval (low, high] of ranks, that `reached` of
the scores have rank >= low, `above` of them rank > high, and
`reached >= k >= above`. So m = reached - above ranks lie inside, and the k-th
highest is number `reached - k` of them from below. If the ranks inside were
uniform, that order statistic would lie at the share

    p = (reached - k + 1/2) / m   of the interval,

with standard deviation sqrt(p (1 - p) / m), at least 1/m. Four probes stand at
-1.5, -0.5, 0.5 and 1.5 deviations around p, so the interval shrinks by about
sqrt(m) a pass where the guess is right. Three probes at the quarters guarantee
two bits a pass where it is wrong, 16 passes for 32 bits in the worst case. Once
the interval is as narrow as the number of probes, all its ranks are probed.
The first pass of float scores probes powers of two, where the magnitudes of
weights lie.

The search ends early in a group when some bound is reached by exactly k scores:
which rank is the k-th does not matter then.

What else was measured (25.5 million weights, two CPU cores):
  * `lax.top_k` sorts: 7.6 s for a global selection, 0.05 s here. It wins by 12
    to 34 microseconds on leaves of up to some thousand weights, which are
    searched together with all others anyway, so there is no second backend.
  * One variadic reduction for the bounds of all groups: more fusions, and no
    faster.
  * Scores written to memory once: slower than computing them at every pass
    (see `selection.lazy`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, UInt32

from sparsejax.components import placement, wide_counts
from sparsejax.components.ranking import (
  HIGHEST_RANK,
  SIGN,
  ZERO_RANK as _ZERO_RANK,
)
from sparsejax.components.wide_counts import Counted, Limbs
from sparsejax.selection.lazy import LazyArray, materialize

_DEVIATIONS = (-1.5, -0.5, 0.5, 1.5)  # probes around the expected bound
_QUARTERS = (0.25, 0.5, 0.75)
_NORMAL_RANK = np.uint32(0x80800000)  # of 2^-126, the least positive score
_LOWEST_RANK = np.uint32(0x007FFFFF)  # of -inf
_LARGEST_FLOAT32_BELOW_2_32 = 4294967040.0
_FIRST_OF_RANKS = (np.arange(7) * (2**32 / 7)).astype(np.uint32)
_FIRST_OF_FLOATS = np.concatenate(
  [
    np.array([0, _NORMAL_RANK], np.uint32),
    (2.0 ** np.array([-12, -9, -7, -5, -3])).astype(np.float32).view(np.uint32)
    | SIGN,
  ]
)
_LOWEST_ZERO_BITS = np.uint32(0x807FFFFF)  # of the float just above -2^-126


@dataclasses.dataclass(frozen=True)
class Groups:
  """Which elements of a list of arrays compete with each other.

  Attributes:
    axes: for each array, the axis along which it is divided into slices, or
      None for an array that is one slice.
    of_slice: int[slices]; the group of each slice, 0, 1, ...; slices count in
      array order, then along the axis.
    offsets: int[slices]; what is added to the row-major index in the slice to
      give the place of an element among equal scores of its group.
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
    """How many words the place of an element has."""
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


def count_active(
  masks: Sequence[Bool[Array, "..."]], groups: Groups
) -> Counted:
  """Returns the number of ones of each group, int32[groups] or limbs."""
  if groups.at_once:
    return _group_counts([[mask[None]] for mask in masks], groups)[0]
  return _group_counts([[mask, ~mask] for mask in masks], groups)[0]


def count_each(masks: Sequence[Bool[Array, "..."]]) -> Counted:
  """Returns the number of ones of each mask, int32[masks] or limbs."""
  sharded = placement.may_be_sharded(masks)
  sizes = [mask.size for mask in masks]
  groups = each_layer([None] * len(masks), sizes, sharded=sharded)
  return count_active(masks, groups)


def select(
  scores: Sequence[Float[Array, "..."] | UInt32[Array, "..."] | LazyArray],
  counts: Counted | np.ndarray,
  groups: Groups,
  *,
  valid: Sequence[Bool[Array, "..."] | LazyArray | None] | None = None,
  shuffle: Callable[[], Sequence[UInt32[Array, "..."]]] | None = None,
) -> list[Bool[Array, "..."]]:
  """Keeps the highest scores of each group, exactly as many as requested.

  Args:
    scores: one array per leaf, or a lazy one; floats of any dtype, or uint32
      ranks.
    counts: whole numbers [groups], how many to keep; may be traced. Groups
      beyond the end keep none.
    groups: which elements compete.
    valid: positions that take part; all of them where None.
    shuffle: makes uint32 ranks that order scores of exactly 0; called only
      where the count ends among those.

  Returns:
    Masks with exactly `min(count, valid positions)` ones in each group; among
    equal scores the earlier leaf, then the lower row-major index is kept.
  """
  if not scores:
    return []
  everywhere = [None] * len(scores) if valid is None else list(valid)
  counts = wide_counts.on_device(counts, groups.limbs)
  more = groups.count - len(counts)
  counts = jax.tree.map(lambda x: jnp.pad(x, (0, more)), counts)
  field = _Field(list(scores), everywhere)
  search = _search(field, counts, groups)
  if shuffle is None:
    return _break_ties_by_index(search, groups)
  among_zeros = jnp.any(search.ambiguous & (search.bound == _ZERO_RANK))

  def placed(masks: list[Array]) -> list[Array]:
    """Keeps masks where `valid` is, which the conditional may gather."""
    pairs = zip(masks, field.valid, strict=True)
    return [
      x
      if valid is None or not groups.sharded
      else placement.alike(x, materialize(valid))
      for x, valid in pairs
    ]

  return placed(
    lax.cond(
      among_zeros,
      lambda: placed(_break_ties_at_random(search, groups, shuffle())),
      lambda: placed(_break_ties_by_index(search, groups)),
    )
  )


class _Field(NamedTuple):
  """What a search reads: scores, and the positions that take part.

  Scores are floats or uint32 ranks; where `valid` has None, all take part.
  """

  scores: Sequence[Array | LazyArray]
  valid: Sequence[Array | LazyArray | None]

  @property
  def shapes(self) -> list[tuple[int, ...]]:
    """Shapes of the arrays."""
    return [score.shape for score in self.scores]

  @property
  def has_floats(self) -> bool:
    """Whether scores are floats."""
    return all(score.dtype != jnp.uint32 for score in self.scores)

  def reaching(
    self, bounds: UInt32[Array, "n groups"], groups: Groups
  ) -> list[list[Array]]:
    """Returns, for each array, which elements reach each of n bounds.

    Bounds are ranks. Floats are compared as floats, which is exact because
    every bound is turned into the least float whose canonical score has that
    rank. Arrays that may be sharded give one array [n, ...] and not n, which
    keeps the code for many leaves short.
    """
    if self.has_floats:
      bounds = _score_of(bounds)
    spread = _spread(bounds, self.shapes, groups)
    return [
      _reaching(materialize(score), materialize(valid), few, groups.at_once)
      for score, valid, few in zip(self.scores, self.valid, spread, strict=True)
    ]


class _Search(NamedTuple):
  """Where the k-th highest score of each group lies.

  Attributes:
    field: what was searched.
    bound: uint32[groups]; the bound, a rank.
    level: the same, spread over each array.
    missing: counts [groups]; how many of the scores at the bound are kept.
    ambiguous: bool[groups]; whether more lie at the bound than are kept.
  """

  field: _Field
  bound: UInt32[Array, " groups"]
  level: list[Array]
  missing: Counted
  ambiguous: Bool[Array, " groups"]


def _search(field, counts, groups) -> _Search:
  first = _FIRST_OF_FLOATS if field.has_floats else _FIRST_OF_RANKS
  bound, above, reached = _kth_highest(field, counts, groups, first)
  # Without the barrier XLA computes scores for the search and for what follows
  # in one kernel, keeps them, and writes 4 bytes a weight.
  field = lax.optimization_barrier(field)
  missing = counts - above
  # `above` is exact only where the search went on to a single rank.
  ambiguous = (missing > 0) & (missing < reached - above)
  level = _spread(bound, field.shapes, groups)
  return _Search(field, bound, level, missing, ambiguous)


def _around(search: _Search, groups: Groups) -> list[tuple[Array, Array]]:
  """Returns for each array which elements exceed the bound, and reach it."""
  bound = search.bound
  above = jnp.where(bound == HIGHEST_RANK, bound, bound + np.uint32(1))
  flags = search.field.reaching(jnp.stack([above, bound]), groups)
  pairs = [(few[0][0], few[0][1]) if groups.at_once else few for few in flags]
  return [
    (higher & (b != HIGHEST_RANK), reach)
    for (higher, reach), b in zip(pairs, search.level, strict=True)
  ]


def _tied(search: _Search, groups: Groups) -> list[Array]:
  return [reach & ~higher for higher, reach in _around(search, groups)]


def _break_ties_by_index(search: _Search, groups: Groups) -> list[Array]:
  """Keeps what exceeds the bound, and the first elements at the bound."""
  shapes, missing = search.field.shapes, search.missing

  def last_tie():
    """The place in its group of the last of the ties that are kept."""
    return _kth_first(*_joined(_tied(search, groups), groups), missing)

  last = lax.cond(
    jnp.any(search.ambiguous),
    last_tie,
    lambda: [jnp.zeros_like(search.bound)] * groups.words,
  )
  last = [jnp.where(missing > 0, word, HIGHEST_RANK) for word in last]
  settles = search.ambiguous | (missing <= 0)
  last = [jnp.where(settles, word, 0) for word in last]
  return [
    higher | (reach & _not_after(words, bounds))
    for (higher, reach), words, bounds in zip(
      _around(search, groups),
      zip(*_order(shapes, groups), strict=True),
      zip(*[_spread(word, shapes, groups) for word in last], strict=True),
      strict=True,
    )
  ]


def _break_ties_at_random(search: _Search, groups: Groups, bits) -> list[Array]:
  """Keeps what exceeds the bound, and at zero the highest random bits."""
  bits = [
    jnp.where(b == _ZERO_RANK, materialize(drawn), 0)
    for drawn, b in zip(bits, search.level, strict=True)
  ]
  ties, joined_groups = _joined(_tied(search, groups), groups)
  bits, _ = _joined(bits, groups)
  kept = _break_ties_by_index(
    _search(_Field(bits, ties), search.missing, joined_groups), joined_groups
  )
  kept = _split(kept, search.field.shapes)
  around = _around(search, groups)
  return [higher | k for (higher, _), k in zip(around, kept, strict=True)]


def _reaching(score, valid, bounds, at_once):
  """Returns which elements reach bounds [n, ...] that broadcast.

  That is n arrays, or `at_once` a single one with a leading axis.
  """
  is_rank = score.dtype == jnp.uint32
  if not is_rank:
    score = score.astype(jnp.float32)
    score = jnp.where(jnp.isnan(score), -jnp.inf, score)
    if valid is not None:
      score = jnp.where(valid, score, jnp.nan)  # reaches no bound
  if at_once:
    flags = [score[None] >= bounds]
    valid = None if valid is None else valid[None]
  else:
    flags = [score >= bound for bound in bounds]
  if is_rank and valid is not None:
    flags = [flag & valid for flag in flags]
  return flags


def _score_of(rank: UInt32[Array, "*dims"]) -> Float32[Array, "*dims"]:
  """Returns the least score whose canonical one has at least a rank.

  NaN above +inf.
  """
  rank = jnp.maximum(rank, _LOWEST_RANK)
  gap = rank - _ZERO_RANK < np.uint32(0x00800000)  # 0 and the denormals
  rank = jnp.where(gap & (rank > _ZERO_RANK), _NORMAL_RANK, rank)
  gap = _ZERO_RANK - rank <= np.uint32(0x00800000)
  rank = jnp.where(gap & (rank < _ZERO_RANK), _ZERO_RANK, rank)
  bits = jnp.where(rank & SIGN != 0, rank & ~SIGN, ~rank)
  bits = jnp.where(rank == _ZERO_RANK, _LOWEST_ZERO_BITS, bits)
  return lax.bitcast_convert_type(bits, jnp.float32)


def _kth_highest(field, counts, groups, first):
  """Finds, in each group, a bound that exactly k elements reach, if one exists.

  Otherwise the largest bound that at least k reach. The module docstring
  derives the probes.

  `first`, uint32[probes], are the probes of the first pass. The field goes
  through a barrier at every pass, or XLA hoists the scores out of the loop and
  writes them to memory.

  Returns:
    uint32[groups], the bound; counts [groups], how many are known to exceed it,
    and how many reach it (the largest number where none was counted).
  """

  def unsettled(state):
    _, low, high, _, reached = state
    return jnp.any((low < high) & wide_counts.differ(reached, counts))

  def narrow(state):
    i, low, high, above, reached = state
    seen, i = lax.optimization_barrier((field, i))
    guesses = _probes(low, high, above, reached, counts)
    start = jnp.broadcast_to(first[:, None], guesses.shape)
    probes = jnp.where(i == 0, start, guesses)
    total = _group_counts(seen.reaching(probes, groups), groups)
    enough = total >= counts
    low = jnp.maximum(low, jnp.max(jnp.where(enough, probes, 0), axis=0))
    reached = wide_counts.minimum(
      reached, wide_counts.lowest(wide_counts.where(enough, total, unknown))
    )
    below = jnp.where(enough | (probes == 0), HIGHEST_RANK, probes - 1)
    high = jnp.minimum(high, jnp.min(below, axis=0))
    above = wide_counts.maximum(
      above, wide_counts.highest(wide_counts.where(enough, 0, total))
    )
    # Where even the lowest bound is not reached by k, all are kept.
    none = (probes == 0) & ~enough
    none = jnp.any(none, axis=0)
    high = jnp.where(none, 0, high)
    reached = wide_counts.where(none, above, reached)
    return i + 1, low, jnp.maximum(low, high), above, reached

  nothing = counts < 1
  unknown = wide_counts.upper_bound(groups.limbs)
  start = (
    jnp.uint32(0),
    jnp.where(nothing, HIGHEST_RANK, np.uint32(0)),
    jnp.full(len(counts), HIGHEST_RANK),
    wide_counts.zeros(len(counts), groups.limbs),
    jax.tree.map(lambda x: jnp.full(len(counts), x), unknown),
  )
  _, low, _, above, reached = lax.while_loop(unsettled, narrow, start)
  return low, above, reached


def _probes(low, high, above, reached, counts):
  """Returns uint32[probes, groups], each in (low, high].

  float32 is exact enough for a guess: a bad one costs a pass, not a result.
  """
  width = high - low
  wide = width.astype(jnp.float32)
  inside = wide_counts.maximum(reached - above, 1)
  inside = wide_counts.as_float32(inside)
  share = wide_counts.as_float32(reached - counts) + 0.5
  share = jnp.clip(share / inside, 0, 1)
  spread = jnp.maximum(share * (1 - share), 1 / inside) / inside
  deviation = jnp.sqrt(spread)
  places = [share + x * deviation for x in _DEVIATIONS]
  places += [jnp.full_like(share, x) for x in _QUARTERS]
  last = jnp.maximum(width, 1) - 1
  far = [jnp.clip(wide * x, 0, _LARGEST_FLOAT32_BELOW_2_32) for x in places]
  offsets = [jnp.minimum(x.astype(jnp.uint32), last) for x in far]
  # The last few ranks are counted one by one.
  few = width <= len(places)
  offsets = [
    jnp.where(few, jnp.minimum(np.uint32(i), last), offset)
    for i, offset in enumerate(offsets)
  ]
  return low + np.uint32(1) + jnp.stack(offsets)


@functools.partial(jax.jit, static_argnums=1)
def _kth_first(ties, groups, counts):
  """Finds the words by `_order` of the k-th of some ties, in each group."""
  shapes = [flags.shape for flags in ties]
  words, *after = _order(shapes, groups)
  bound, above, reached = _kth_highest(
    _Field(words, ties), counts, groups, _FIRST_OF_RANKS
  )
  if not after:
    return [bound]
  triples = zip(ties, words, _spread(bound, shapes, groups), strict=True)
  ties = [flags & (materialize(word) == b) for flags, word, b in triples]
  missing = counts - above
  inside, _, _ = _kth_highest(
    _Field(after[0], ties), missing, groups, _FIRST_OF_RANKS
  )
  # Where exactly k reach the chunk, all ties in it are kept.
  return [bound, jnp.where(wide_counts.equal(reached, counts), 0, inside)]


def _not_after(words, bounds):
  """Returns which places are at or before bounds, word by word."""
  *first, last = (materialize(word) for word in words)
  *first_bounds, bound = bounds
  reached = last >= bound
  for word, bound in zip(first[::-1], first_bounds[::-1], strict=True):
    reached = (word > bound) | ((word == bound) & reached)
  return reached


def _order(shapes, groups) -> list[list[LazyArray]]:
  """Returns words that fall from the first to the last of a group.

  One for each array, or the numbers of chunks and the indices in them.
  """
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
      shapes, axes, _slices(shapes, groups), strict=True
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
        shapes, axes, _slices(shapes, groups), strict=True
      )
    ]
  )
  order = np.lexsort((groups.offsets, groups.of_slice))
  first = np.empty_like(sizes)
  first[order] = np.cumsum(sizes[order]) - sizes[order]
  return first


def _joined(arrays, groups):
  """Returns arrays of rows as one, so that what rarely runs compiles once."""
  rows = all(
    axis == 0 and x.ndim == 2
    for x, axis in zip(arrays, groups.axes, strict=True)
  )
  if not rows or len(arrays) == 1 or groups.sharded:
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


def _split(arrays, shapes):
  """Undoes `_joined`."""
  if len(arrays) == len(shapes):
    return arrays
  flat, parts, start = arrays[0].ravel(), [], 0
  for shape in shapes:
    stop = start + math.prod(shape)
    parts.append(flat[start:stop].reshape(shape))
    start = stop
  return parts


class _Slices(NamedTuple):
  """The slices of one array: their numbers, and a shape that broadcasts."""

  axis: int | None
  numbers: slice
  shape: tuple[int, ...]


def _slices(shapes, groups):
  out, start = [], 0
  for shape, axis in zip(shapes, groups.axes, strict=True):
    size = 1 if axis is None else shape[axis]
    along = tuple(size if d == axis else 1 for d in range(len(shape)))
    out.append(_Slices(axis, slice(start, start + size), along))
    start += size
  return out


def _spread(values, shapes, groups):
  """Returns, for each array, its groups' values in a shape that broadcasts.

  Values of shape [n, groups], and not [groups], give n arrays for each array.
  """
  if values.shape[-1] == 1:  # or XLA computes what uses it once per element
    values = jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, 1)])
  values = values[..., np.asarray(groups.of_slice)]
  return [
    values[..., slices.numbers].reshape(*values.shape[:-1], *slices.shape)
    for slices in _slices(shapes, groups)
  ]


def _count(flags, axis):
  """Counts several bool arrays of one shape in one pass: int32[slices] each.

  One variadic reduction, because XLA's CPU compiler vectorizes it and does not
  vectorize a reduction with a single output.
  """
  dims = tuple(d for d in range(flags[0].ndim) if d != axis)
  counted = lax.reduce(
    tuple(flag.astype(jnp.int32) for flag in flags),
    (np.int32(0),) * len(flags),
    lambda x, y: tuple(a + b for a, b in zip(x, y, strict=True)),
    dims,
  )
  return [jnp.atleast_1d(c) for c in counted]


def _count_at_once(flags, axis, limbs):
  """Counts a bool array [n, ...]: [n, slices].

  A plain sum: of a reduction with several outputs XLA gathers the operands, or
  the partial results of all devices.
  """
  kept = (0,) if axis is None else (0, axis + 1)
  counted = wide_counts.ones(flags, kept, limbs)
  return counted[:, None] if axis is None else counted


def _group_counts(flags, groups):
  """Counts what `_Field.reaching` returns: [n, groups]."""
  counted = [
    _count_at_once(some[0], axis, groups.limbs)
    if groups.at_once
    else jnp.stack(_count(list(some), axis))
    for some, axis in zip(flags, groups.axes, strict=True)
  ]
  counts = counted[0]
  if len(counted) > 1:
    counts = wide_counts.concatenate(counted, 1)
  if groups.limbs is None:
    return _by_group(counts, groups)
  return wide_counts.added(
    counts,
    len(groups.of_slice),
    groups.limbs,
    functools.partial(_by_group, groups=groups),
  )


def _by_group(counts, groups):
  """Sums int32[n, slices] up to int32[n, groups]."""
  of_slice = np.asarray(groups.of_slice)
  if groups.count == len(np.unique(of_slice)) == len(of_slice):
    return counts[:, np.argsort(of_slice)]
  if groups.count == 1:
    return jnp.sum(counts, axis=1, keepdims=True, dtype=jnp.int32)
  # Along the first axis: XLA's CPU backend compiles `zeros.at[:, of_slice]
  # .add(counts)` wrongly where counts are a 7 x 7 square (jax 0.10.2).
  return jax.ops.segment_sum(counts.T, of_slice, groups.count).T
