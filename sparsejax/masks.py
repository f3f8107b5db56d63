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
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

Backend = Literal["auto", "threshold", "top_k"]

_TOLERANCE = 1e-6
_RANK_BITS = 32
_BITS_PER_PASS = 3
HIGHEST_RANK = np.uint32(0xFFFFFFFF)
_INT32_MAX = np.int32(2**31 - 1)
_SIGN = np.uint32(0x80000000)
_ZERO_RANK = _SIGN  # rank of the score 0.0


@dataclasses.dataclass(frozen=True)
class Competition:
  """Who competes with whom, for a list of arrays.

  Attributes:
    axes: for each array, the axis along which every slice is a layer, or None
      for an array that is one layer.
    groups: int[layers]; the competition that each layer is in, 0, 1, ...
      Layers count in array order, slices in axis order.
    offsets: int[layers]; what is added to the row-major index in the layer to
      give its rank among equal scores of its group.
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
  sizes: Sequence[int], sparsities: Sequence[float], total: int
) -> np.ndarray:
  """Returns int64 counts per layer that sum to `total`, by largest remainder.

  Args:
    sizes: weights per layer.
    sparsities: fraction of zeros per layer, in [0, 1].
    total: the sum to reach; layers gain or lose one weight each in the order of
      their remainders, ties to the earlier layer, never beyond [0, size].
  """
  whole = np.asarray(sizes, np.int64)
  exact = whole * (1 - np.asarray(sparsities, np.float64))
  counts = np.clip(np.floor(exact + _TOLERANCE).astype(np.int64), 0, whole)
  order = np.argsort(-(exact - counts), kind="stable")
  while counts.sum() != total:
    step = 1 if counts.sum() < total else -1
    ordered = order if step > 0 else order[::-1]
    room = (counts < whole) if step > 0 else (counts > 0)
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


def ranks(
  scores: Float[Array, "*dims"] | UInt32[Array, "*dims"],
) -> UInt32[Array, "*dims"]:
  """Returns uint32 that order as the canonical scores do.

  Canonical is float32 with NaN as -inf, -0 as +0, and magnitudes under 2^-126
  as 0, so that every backend and platform ranks alike (some flush denormals).
  uint32 scores are ranks already.
  """
  if scores.dtype == jnp.uint32:
    return scores
  x = scores.astype(jnp.float32)
  bits = lax.bitcast_convert_type(x, jnp.uint32)
  magnitude = bits & ~_SIGN
  nan = magnitude > np.uint32(0x7F800000)
  tiny = magnitude < np.uint32(0x00800000)
  bits = jnp.where(nan, np.uint32(0xFF800000), bits)
  bits = jnp.where(tiny, np.uint32(0), bits)
  return jnp.where(bits & _SIGN != 0, ~bits, bits | _SIGN)


def shuffle_zeros(
  rank: UInt32[Array, "*dims"], bits: UInt32[Array, "*dims"]
) -> UInt32[Array, "*dims"]:
  """Orders scores of exactly 0 at random, below every positive score.

  Canonical scores leave the 2^23 ranks above 0 free (they would be denormal),
  so the upper 23 random bits fit there.
  """
  return jnp.where(rank == _ZERO_RANK, _ZERO_RANK + (bits >> 9), rank)


def count_active(
  masks: Sequence[Bool[Array, "..."]], axes: Sequence[int | None]
) -> Int[Array, " layers"]:
  """Returns int32 counts of the ones of each layer."""
  return _concatenate(
    [_count([mask], axis)[0] for mask, axis in zip(masks, axes, strict=True)]
  )


def select(
  scores: Sequence[Float[Array, "..."] | UInt32[Array, "..."]],
  counts: Int[Array | np.ndarray, " groups"],
  competition: Competition,
  *,
  valid: Sequence[Bool[Array, "..."]] | None = None,
  backend: Backend = "auto",
) -> list[Bool[Array, "..."]]:
  """Keeps the highest scores of each competition, exactly as many as asked.

  Args:
    scores: one array per leaf; floats of any dtype, or uint32 ranks.
    counts: int32[num_groups], how many to keep; may be traced.
    competition: the groups.
    valid: positions that take part; all of them where None.
    backend: `auto` takes the faster one as measured; both give the same bits.

  Returns:
    Masks with exactly `min(count, valid positions)` ones in each group; among
    equal scores the earlier leaf, then the lower row-major index is kept.
  """
  if not scores:
    return []
  rank = [ranks(s) for s in scores]
  where = [None] * len(rank) if valid is None else valid
  counts = jnp.asarray(counts, jnp.int32)
  if backend == "top_k":
    return _select_by_top_k(rank, counts, competition, where)
  return _select_by_threshold(rank, counts, competition, where)


def _select_by_threshold(rank, counts, competition, valid):
  rank = [
    r if v is None else jnp.where(v, r, 0)
    for r, v in zip(rank, valid, strict=True)
  ]
  found, above, reached = _kth_highest(
    lambda bounds: [
      [r >= b for b in bound] for r, bound in zip(rank, bounds, strict=True)
    ],
    counts,
    competition,
    rank,
  )
  missing = counts - above
  bounds = _spread(found, rank, competition)
  tied = [
    (r == b) if v is None else (r == b) & v
    for r, b, v in zip(rank, bounds, valid, strict=True)
  ]
  order = _order_ranks(rank, competition)

  def first_ties():
    latest, _, _ = _kth_highest(
      lambda bounds: [
        [t & (o >= b) for b in bound]
        for t, o, bound in zip(tied, order, bounds, strict=True)
      ],
      missing,
      competition,
      rank,
    )
    return jnp.where(missing > 0, latest, HIGHEST_RANK)

  latest = lax.cond(
    jnp.any((missing > 0) & (missing < reached - above)),
    first_ties,
    lambda: jnp.where(missing > 0, np.uint32(0), HIGHEST_RANK),
  )
  return [
    (r > b) | (t & (o >= last))
    for r, b, t, o, last in zip(
      rank,
      bounds,
      tied,
      order,
      _spread(latest, rank, competition),
      strict=True,
    )
  ]


def _kth_highest(at_least, counts, competition, arrays):
  """Finds, in each group, the largest bound that k elements reach.

  Args:
    at_least: for each array a list of bounds that broadcast over it -> for each
      array the list of bools, which elements reach them.
    counts: int32[groups], k.
    competition: the groups.
    arrays: gives the shapes.

  Returns:
    uint32[groups], the bound; int32[groups], how many reach more than it; and
    how many reach it (the largest int32 where none was counted).
  """
  groups = np.asarray(competition.groups)
  steps = np.arange(1, 2**_BITS_PER_PASS, dtype=np.uint32)
  passes = -(-_RANK_BITS // _BITS_PER_PASS)

  def narrow(i, state):
    found, above, reached = state
    shift = jnp.uint32(_BITS_PER_PASS * (passes - 1)) - i * _BITS_PER_PASS
    offsets = jnp.asarray(steps) << shift
    fits = (offsets >> shift) == steps  # the first pass has fewer bits left
    candidates = [found + offset for offset in offsets]
    spread = [_spread(c, arrays, competition) for c in candidates]
    counted = [
      jnp.stack(_count(flags, axis))
      for flags, axis in zip(
        at_least(list(zip(*spread, strict=True))),
        competition.axes,
        strict=True,
      )
    ]
    total = _group_sums(_concatenate(counted, 1), groups, len(counts))
    total = jnp.where(fits[:, None], total, 0)
    enough = total >= jnp.maximum(counts, 1)
    enough |= (counts < 1) & fits[:, None]
    higher = jnp.sum(enough, axis=0, dtype=jnp.uint32)
    above = jnp.maximum(above, jnp.max(jnp.where(enough, 0, total), axis=0))
    reached = jnp.minimum(
      reached, jnp.min(jnp.where(enough, total, _INT32_MAX), axis=0)
    )
    return found + (higher << shift), above, reached

  start = (
    jnp.zeros(len(counts), jnp.uint32),
    jnp.zeros(len(counts), jnp.int32),
    jnp.full(len(counts), _INT32_MAX),
  )
  return lax.fori_loop(jnp.uint32(0), jnp.uint32(passes), narrow, start)


def _order_ranks(arrays, competition):
  """Returns uint32 arrays that fall from the first to the last of a group."""
  out, start = [], 0
  for array, axis in zip(arrays, competition.axes, strict=True):
    size = 1 if axis is None else array.shape[axis]
    offsets = np.asarray(competition.offsets[start : start + size], np.uint32)
    start += size
    if axis is not None:
      offsets = offsets.reshape(
        [size if d == axis else 1 for d in range(array.ndim)]
      )
    index, stride = jnp.asarray(offsets).reshape(offsets.shape), 1
    for d in reversed(range(array.ndim)):
      if d != axis:
        position = lax.broadcasted_iota(jnp.uint32, array.shape, d)
        index = index + position * np.uint32(stride)
        stride *= array.shape[d]
    out.append(HIGHEST_RANK - np.uint32(1) - index)
  return out


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


def _group_sums(counts, groups, num_groups):
  """Sums int32[n, layers] over the layers of each group: int32[n, groups]."""
  if num_groups == len(groups):
    return counts[:, np.argsort(groups)]
  sums = jnp.zeros((counts.shape[0], num_groups), jnp.int32)
  return sums.at[:, groups].add(counts)


def _spread(values, arrays, competition):
  """Returns, for each array, what broadcasts its groups' values over it."""
  values = values[np.asarray(competition.groups)]
  out, start = [], 0
  for array, axis in zip(arrays, competition.axes, strict=True):
    size = 1 if axis is None else array.shape[axis]
    shape = [size if d == axis else 1 for d in range(array.ndim)]
    out.append(values[start : start + size].reshape(shape))
    start += size
  return out


def _concatenate(arrays, axis=0):
  return jnp.concatenate(arrays, axis) if len(arrays) > 1 else arrays[0]


def _select_by_top_k(rank, counts, competition, valid):
  group, order = _host_places(rank, competition)
  everything = jnp.concatenate([r.ravel() for r in rank])
  on = jnp.concatenate(
    [
      jnp.ones(r.size, bool) if v is None else v.ravel()
      for r, v in zip(rank, valid, strict=True)
    ]
  )
  chosen = jnp.zeros(everything.size, bool)
  for g in range(competition.num_groups):
    members = np.flatnonzero(group == g)
    members = members[np.argsort(order[members])]
    best = jnp.asarray(members)[lax.top_k(everything[members], len(members))[1]]
    taking = on[best] & (jnp.cumsum(on[best]) <= counts[g])
    chosen = chosen.at[best].set(taking)
  sizes = np.cumsum([r.size for r in rank])[:-1]
  return [
    part.reshape(r.shape)
    for part, r in zip(jnp.split(chosen, sizes), rank, strict=True)
  ]


def _host_places(arrays, competition):
  """Returns int64 arrays over all elements: the group, the order in it."""
  groups, orders, start = [], [], 0
  for array, axis in zip(arrays, competition.axes, strict=True):
    shape = (1, *array.shape) if axis is None else array.shape
    axis = axis or 0
    layers = slice(start, start + shape[axis])
    start = layers.stop
    along = [-1 if d == axis else 1 for d in range(len(shape))]
    group = np.reshape(competition.groups[layers], along)
    offset = np.reshape(competition.offsets[layers], along)
    inside = [1 if d == axis else size for d, size in enumerate(shape)]
    order = np.arange(math.prod(inside)).reshape(inside) + offset
    groups.append(np.broadcast_to(group, shape).ravel())
    orders.append(order.ravel())
  return np.concatenate(groups), np.concatenate(orders)
