"""Exact selection of the highest scores, and the counts that it is asked for.

Scores are ranked as unsigned integers in the order of the floats (`ranks`).
`select` keeps exactly the asked number in each competition, ties to the lower
index, by one of two backends that agree bit for bit:

* `threshold`: finds the k-th highest rank by counting, three bits a pass, then
  the index bound among the ties in the same way. It needs sums of counts only,
  so it neither sorts nor gathers: k may be traced, and over sharded arrays the
  only collective is an all-reduce of a few numbers.
* `top_k`: `lax.top_k` over the concatenated leaves, the reference.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int, UInt32

Backend = Literal["auto", "threshold", "top_k"]

_TOLERANCE = 1e-6
_RANK_BITS = 32
_BITS_PER_PASS = 3
HIGHEST_RANK = np.uint32(0xFFFFFFFF)
_INT32_MAX = np.int32(2**31 - 1)
_SIGN = np.uint32(0x80000000)
_ZERO_RANK = _SIGN  # of the score 0.0
_NORMAL_RANK = np.uint32(0x80800000)  # of 2^-126, the least positive score
_LOWEST_RANK = np.uint32(0x007FFFFF)  # of -inf
_SMALLEST_NORMAL = np.float32(2.0**-126)


@dataclasses.dataclass(frozen=True)
class Competition:
  """Who competes with whom, for a list of arrays.

  Attributes:
    axes: for each array, the axis along which it is cut into slices, or None
      for an array that is one slice.
    groups: int[slices]; the competition that each slice is in, 0, 1, ...;
      slices count in array order, then along the axis.
    offsets: int[slices]; what is added to the row-major index in the slice to
      give the place of an element among equal scores of its group.
  """

  axes: tuple[int | None, ...]
  groups: tuple[int, ...]
  offsets: tuple[int, ...]

  @property
  def num_groups(self) -> int:
    """Number of competitions."""
    return max(self.groups, default=-1) + 1


def each_layer(axes: Sequence[int | None], num_layers: int) -> Competition:
  """Every layer on its own."""
  return Competition(tuple(axes), tuple(range(num_layers)), (0,) * num_layers)


def floor_tol(x: float) -> int:
  """Rounds down, forgiving 1e-6: 0.9999999 is 1 (host, float64)."""
  return math.floor(x + _TOLERANCE)


def asked_count(
  sizes: int | Sequence[int], sparsities: float | Sequence[float]
) -> int:
  """Returns K, the number of weights that a sparsity asks to keep.

  `K = floor(sum_l n_l (1 - s_l) + 1e-6)` in float64, at least 1.

  Args:
    sizes: weights, in all or per layer.
    sparsities: fraction of zeros in [0, 1), one or one per layer.

  Returns:
    The count that masks reach exactly.
  """
  kept = np.multiply(np.asarray(sizes, np.float64), 1 - np.asarray(sparsities))
  total = int(np.sum(sizes))
  return min(total, max(1, floor_tol(math.fsum(np.atleast_1d(kept)))))


def apportion(
  sizes: Sequence[int],
  sparsities: Sequence[float],
  total: int,
  limits: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
  """Returns int64 counts per layer that sum to `total`, by largest remainder.

  Args:
    sizes: weights per layer.
    sparsities: fraction of zeros per layer, in [0, 1].
    total: the sum to reach, at most that of the limits; layers gain or lose one
      weight each in the order of their remainders, ties to the earlier layer.
    limits: the most that each layer can have; its size where None.
  """
  most = np.asarray(sizes if limits is None else limits, np.int64)
  if total > most.sum():
    raise ValueError(f"`total` must be at most {most.sum()}, got {total}.")
  exact = np.asarray(sizes) * (1 - np.asarray(sparsities, np.float64))
  whole = np.floor(exact + _TOLERANCE).astype(np.int64)
  # Rounded, because `n (1 - s)` carries the noise of `1 - (1 - d)`.
  order = np.argsort(-np.round(exact - whole, 6), kind="stable")
  counts = np.clip(whole, 0, most)
  while counts.sum() != total:
    step = 1 if counts.sum() < total else -1
    ordered = order[::step]
    room = (counts < most) if step > 0 else (counts > 0)
    movable = ordered[room[ordered]][: abs(total - int(counts.sum()))]
    counts[movable] += step
  return counts


def share(
  counts: Int[Array, "..."],
  fraction: Callable[[Float[Array, ""]], Float[Array, ""]],
  step: Int[Array, ""],
  rounding: Callable[[Array], Array],
) -> Int[Array, "..."]:
  """Returns `rounding(fraction(step) * counts)` as int32, computed in float64.

  Float64 is enabled for these few scalars alone: float32 would be wrong from
  2^24 weights on.

  Args:
    counts: int32 counts below 2^31.
    fraction: step -> share in [0, 1].
    step: int32 step.
    rounding: `ceil` or `floor` of this module.
  """
  with jax.enable_x64(True):
    share_ = fraction(lax.convert_element_type(step, jnp.float64))
    exact = lax.convert_element_type(counts, jnp.float64) * share_
    return lax.convert_element_type(rounding(exact), jnp.int32)


def ceil(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Rounds up, forgiving 1e-6: 55.00000000000001 is 55."""
  return jnp.ceil(x - _TOLERANCE)


def floor(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Rounds down, forgiving 1e-6."""
  return jnp.floor(x + _TOLERANCE)


def canonical(scores: Float[Array, "*dims"]) -> Float32[Array, "*dims"]:
  """Returns float32 scores that every backend and platform ranks alike.

  NaN is -inf and a magnitude under 2^-126 is 0 (some platforms flush those).
  """
  x = scores.astype(jnp.float32)
  x = jnp.where(jnp.isnan(x), -jnp.inf, x)
  return jnp.where(jnp.abs(x) < _SMALLEST_NORMAL, np.float32(0), x)


def ranks(
  scores: Float[Array, "*dims"] | UInt32[Array, "*dims"],
) -> UInt32[Array, "*dims"]:
  """Returns uint32 that order as the canonical scores do; -0 is 0.

  uint32 scores are ranks already.
  """
  if scores.dtype == jnp.uint32:
    return scores
  bits = lax.bitcast_convert_type(canonical(scores), jnp.uint32)
  bits = jnp.where(bits == _SIGN, np.uint32(0), bits)
  return jnp.where(bits & _SIGN != 0, ~bits, bits | _SIGN)


def _score_of(rank: UInt32[Array, "*dims"]) -> Float32[Array, "*dims"]:
  """Returns the least canonical score of at least a rank, NaN above +inf."""
  rank = jnp.maximum(rank, _LOWEST_RANK)
  gap = rank - _ZERO_RANK < np.uint32(0x00800000)  # 0 and the denormals
  rank = jnp.where(gap & (rank > _ZERO_RANK), _NORMAL_RANK, rank)
  gap = _ZERO_RANK - rank <= np.uint32(0x00800000)
  rank = jnp.where(gap & (rank < _ZERO_RANK), _ZERO_RANK, rank)
  bits = jnp.where(rank & _SIGN != 0, rank & ~_SIGN, ~rank)
  return lax.bitcast_convert_type(bits, jnp.float32)


def count_active(
  masks: Sequence[Bool[Array, "..."]], competition: Competition
) -> Int[Array, " groups"]:
  """Returns int32 counts of the ones of each group."""
  return _group_counts([[mask] for mask in masks], competition)[0]


def select(
  scores: Sequence[Float[Array, "..."] | UInt32[Array, "..."]],
  counts: Int[Array | np.ndarray, " groups"],
  competition: Competition,
  *,
  valid: Sequence[Bool[Array, "..."] | None] | None = None,
  shuffle: Callable[[], Sequence[UInt32[Array, "..."]]] | None = None,
  backend: Backend = "auto",
) -> list[Bool[Array, "..."]]:
  """Keeps the highest scores of each competition, exactly as many as asked.

  Args:
    scores: one array per leaf; floats of any dtype, or uint32 ranks.
    counts: int32[num_groups], how many to keep; may be traced.
    competition: the groups.
    valid: positions that take part; all of them where None.
    shuffle: makes uint32 ranks that put scores of exactly 0 in order; called
      only where the count ends among those.
    backend: `threshold`, which `auto` takes, or `top_k`, the reference, which
      sorts; both give the same bits.

  Returns:
    Masks with exactly `min(count, valid positions)` ones in each group; among
    equal scores the earlier leaf, then the lower row-major index is kept.
  """
  if not scores:
    return []
  on = [None] * len(scores) if valid is None else list(valid)
  counts = jnp.asarray(counts, jnp.int32)
  search = _top_k if backend == "top_k" else _threshold
  return search(list(scores), counts, competition, on, shuffle)


class _Field(NamedTuple):
  """What a search reads.

  Attributes:
    scores: canonical float32 with NaN where an element takes no part, or uint32
      ranks. A NaN reaches no bound, so floats are read alone.
    valid: for uint32 ranks, who takes part; None where all do.
    offsets: what orders equal scores, see `Competition`.
  """

  scores: list[Array]
  valid: list[Array | None]
  offsets: list[Array]

  @property
  def shapes(self) -> list[tuple[int, ...]]:
    """Shapes of the arrays."""
    return [score.shape for score in self.scores]

  def at_least(self, bounds: Sequence[Array]) -> list[Array]:
    """Returns, for each array, which elements reach its bound, a rank."""
    out = []
    for score, valid, bound in zip(
      self.scores, self.valid, bounds, strict=True
    ):
      if score.dtype != jnp.uint32:
        bound = _score_of(bound)
      flags = score >= bound
      out.append(flags if valid is None else flags & valid)
    return out

  def above(self, bounds: Sequence[Array]) -> list[Array]:
    """Returns which elements are higher than a bound."""
    one = np.uint32(1)
    higher = self.at_least([jnp.where(b + one, b + one, b) for b in bounds])
    return [
      h & (b != HIGHEST_RANK) for h, b in zip(higher, bounds, strict=True)
    ]

  def tied(self, bounds: Sequence[Array]) -> list[Array]:
    """Returns which elements are exactly at a bound."""
    pairs = zip(self.at_least(bounds), self.above(bounds), strict=True)
    return [reach & ~higher for reach, higher in pairs]

  def order(self, competition: Competition) -> list[Array]:
    """Returns ranks that fall from the first to the last of a group."""
    out = []
    for shape, axis, index in zip(
      self.shapes, competition.axes, self.offsets, strict=True
    ):
      stride = 1
      for d in reversed(range(len(shape))):
        if d != axis:
          place = lax.broadcasted_iota(jnp.uint32, shape, d)
          index = index + place * np.uint32(stride)
          stride *= shape[d]
      out.append(HIGHEST_RANK - np.uint32(1) - index)
    return out


def _field(scores, valid, competition) -> _Field:
  shapes = [score.shape for score in scores]
  offsets = np.asarray(competition.offsets, np.uint32)
  offsets = [
    jnp.asarray(offsets[slices.numbers].reshape(slices.shape))
    for slices in _slices(shapes, competition)
  ]
  scores, valid = list(scores), list(valid)
  for i, (score, on) in enumerate(zip(scores, valid, strict=True)):
    if score.dtype != jnp.uint32:
      score = canonical(score)
      scores[i] = score if on is None else jnp.where(on, score, jnp.nan)
      valid[i] = None
  return _Field(scores, valid, offsets)


def _threshold(scores, counts, competition, valid, shuffle):
  field = _field(scores, valid, competition)
  found, above, reached = _kth_highest(
    lambda field, bounds: [
      list(flags)
      for flags in zip(
        *map(field.at_least, zip(*bounds, strict=True)), strict=True
      )
    ],
    field,
    counts,
    competition,
  )
  missing = counts - above
  ambiguous = (missing > 0) & (missing < reached - above)
  level = _spread(found, field.shapes, competition)

  def with_ties(ties):
    higher = field.above(level)
    return [h | t for h, t in zip(higher, ties, strict=True)]

  def first_ties(field, bounds):
    ties = field.tied(level)
    return [
      [t & (o >= b) for b in some]
      for t, o, some in zip(ties, field.order(competition), bounds, strict=True)
    ]

  def by_index():
    last = lax.cond(
      jnp.any(ambiguous),
      lambda: _kth_highest(first_ties, field, missing, competition)[0],
      lambda: jnp.zeros_like(found),
    )
    last = jnp.where(missing > 0, last, HIGHEST_RANK)
    last = jnp.where(ambiguous | (missing <= 0), last, 0)
    bounds = [[b] for b in _spread(last, field.shapes, competition)]
    return with_ties([ties for (ties,) in first_ties(field, bounds)])

  def at_random():
    drawn = [
      jnp.where(b == _ZERO_RANK, bits, np.uint32(0))
      for b, bits in zip(level, shuffle(), strict=True)
    ]
    ties = field.tied(level)
    return with_ties(_threshold(drawn, missing, competition, ties, None))

  if shuffle is None:
    return by_index()
  among_zeros = jnp.any(ambiguous & (found == _ZERO_RANK))
  return lax.cond(among_zeros, at_random, by_index)


def _kth_highest(reaching, field, counts, competition):
  """Finds, in each group, the largest bound that k elements reach.

  Args:
    reaching: (field, for each array a list of bounds that broadcast over it) ->
      for each array the list of bools, which elements reach them.
    field: what is searched. It goes through a barrier at every pass, so that
      the compiler does not keep what is made of it: making it anew is cheaper
      than to write and read it.
    counts: int32[groups], k.
    competition: the groups.

  Returns:
    uint32[groups], the bound; int32[groups], how many reach more than it; and
    how many reach it (the largest int32 where none was counted).
  """
  steps = np.arange(1, 2**_BITS_PER_PASS, dtype=np.uint32)
  passes = -(-_RANK_BITS // _BITS_PER_PASS)

  def unsettled(state):
    i, _, _, reached = state
    return (i < passes) & jnp.any(reached != counts)

  def narrow(state):
    i, found, above, reached = state
    seen, i = lax.optimization_barrier((field, i))
    shift = jnp.uint32(_BITS_PER_PASS * (passes - 1)) - i * _BITS_PER_PASS
    offsets = jnp.asarray(steps) << shift
    fits = (offsets >> shift) == steps  # the first pass has fewer bits left
    spread = [_spread(found + x, field.shapes, competition) for x in offsets]
    flags = reaching(seen, list(zip(*spread, strict=True)))
    total = jnp.where(fits[:, None], _group_counts(flags, competition), 0)
    enough = total >= jnp.maximum(counts, 1)
    enough |= (counts < 1) & fits[:, None]
    higher = jnp.sum(enough, axis=0, dtype=jnp.uint32)
    above = jnp.maximum(above, jnp.max(jnp.where(enough, 0, total), axis=0))
    reached = jnp.minimum(
      reached, jnp.min(jnp.where(enough, total, _INT32_MAX), axis=0)
    )
    return i + 1, found + (higher << shift), above, reached

  start = (
    jnp.uint32(0),
    jnp.zeros(len(counts), jnp.uint32),
    jnp.zeros(len(counts), jnp.int32),
    jnp.full(len(counts), _INT32_MAX),
  )
  return lax.while_loop(unsettled, narrow, start)[1:]


class _Slices(NamedTuple):
  """The slices of one array: their numbers, and a shape that broadcasts."""

  axis: int | None
  numbers: slice
  shape: tuple[int, ...]


def _slices(shapes, competition):
  out, start = [], 0
  for shape, axis in zip(shapes, competition.axes, strict=True):
    size = 1 if axis is None else shape[axis]
    along = tuple(size if d == axis else 1 for d in range(len(shape)))
    out.append(_Slices(axis, slice(start, start + size), along))
    start += size
  return out


def _spread(values, shapes, competition):
  """Returns, for each array, what broadcasts its groups' values over it."""
  values = values[np.asarray(competition.groups)]
  return [
    values[slices.numbers].reshape(slices.shape)
    for slices in _slices(shapes, competition)
  ]


def _count(flags, axis):
  """Counts several bool arrays of one shape in one pass: int32[layers] each.

  One variadic reduction, because XLA's CPU compiler vectorises it and does not
  vectorise a reduction with a single output.
  """
  ndim = flags[0].ndim
  dims = tuple(d for d in range(ndim) if d != axis)
  counted = lax.reduce(
    tuple(flag.astype(jnp.int32) for flag in flags),
    (np.int32(0),) * len(flags),
    lambda x, y: tuple(a + b for a, b in zip(x, y, strict=True)),
    dims,
  )
  return [jnp.atleast_1d(c) for c in counted]


def _group_counts(flags, competition):
  """Counts lists of bool arrays, one list per array: int32[n, groups]."""
  counted = [
    jnp.stack(_count(list(some), axis))
    for some, axis in zip(flags, competition.axes, strict=True)
  ]
  counts = _concatenate(counted, 1)
  groups, num_groups = np.asarray(competition.groups), competition.num_groups
  if num_groups == len(groups):
    return counts[:, np.argsort(groups)]
  if num_groups == 1:
    return jnp.sum(counts, axis=1, keepdims=True, dtype=jnp.int32)
  # Along the first axis: `zeros.at[:, groups].add(counts)` is compiled wrongly
  # by XLA's CPU backend where counts are a 7 x 7 square (jax 0.10.2).
  return jax.ops.segment_sum(counts.T, groups, num_groups).T


def _concatenate(arrays, axis=0):
  return jnp.concatenate(arrays, axis) if len(arrays) > 1 else arrays[0]


def _top_k(scores, counts, competition, valid, shuffle):
  rank = [ranks(score) for score in scores]
  shapes = [r.shape for r in rank]
  group, order = _host_places(shapes, competition)

  def flat(arrays):
    return jnp.concatenate([array.ravel() for array in arrays])

  on = flat(
    [
      jnp.ones(r.shape, bool) if v is None else v
      for r, v in zip(rank, valid, strict=True)
    ]
  )
  everything = flat(rank)
  drawn = jnp.zeros_like(everything)
  if shuffle is not None:
    drawn = jnp.where(everything == _ZERO_RANK, flat(shuffle()), drawn)
  chosen = jnp.zeros(everything.size, bool)
  for g in range(competition.num_groups):
    members = np.flatnonzero(group == g)
    best = jnp.asarray(members[np.argsort(order[members])])
    for key in (drawn, everything):  # stable: the last key decides first
      best = best[lax.top_k(key[best], len(members))[1]]
    taking = on[best] & (jnp.cumsum(on[best]) <= counts[g])
    chosen = chosen.at[best].set(taking)
  sizes = np.cumsum([r.size for r in rank])[:-1]
  return [
    part.reshape(shape)
    for part, shape in zip(jnp.split(chosen, sizes), shapes, strict=True)
  ]


def _host_places(shapes, competition):
  """Returns int64 arrays over all elements: the group, the order in it."""
  groups, orders = [], []
  for shape, slices in zip(shapes, _slices(shapes, competition), strict=True):
    group = np.reshape(competition.groups[slices.numbers], slices.shape)
    offset = np.reshape(competition.offsets[slices.numbers], slices.shape)
    inside = [1 if d == slices.axis else n for d, n in enumerate(shape)]
    order = np.arange(math.prod(inside)).reshape(inside) + offset
    groups.append(np.broadcast_to(group, shape).ravel())
    orders.append(np.broadcast_to(order, shape).ravel())
  return np.concatenate(groups), np.concatenate(orders)
