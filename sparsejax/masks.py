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
_HIGHEST = np.uint32(0xFFFFFFFF)
_SIGN = np.uint32(0x80000000)
_ZERO_RANK = _SIGN  # rank of the score 0.0
_SMALLEST_NORMAL = np.float32(2.0**-126)


@dataclasses.dataclass(frozen=True)
class Competition:
  """Who competes with whom: for each leaf, its layers and their groups.

  Attributes:
    axes: for each leaf, the axis along which each slice is a layer, or None.
    groups: int[num_layers]; the competition that each layer is in, 0, 1, ...
      Layers count in leaf order, slices in axis order.
  """

  axes: tuple[int | None, ...]
  groups: tuple[int, ...]

  @property
  def num_groups(self) -> int:
    """Number of competitions."""
    return max(self.groups, default=-1) + 1


def each_layer(axes: Sequence[int | None], num_layers: int) -> Competition:
  """Every layer on its own."""
  return Competition(tuple(axes), tuple(range(num_layers)))


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
  sizes = np.asarray(sizes, np.int64)
  exact = sizes * (1 - np.asarray(sparsities, np.float64))
  counts = np.clip(np.floor(exact + _TOLERANCE).astype(np.int64), 0, sizes)
  order = np.argsort(-(exact - counts), kind="stable")
  while counts.sum() != total:
    step = 1 if counts.sum() < total else -1
    ordered = order if step > 0 else order[::-1]
    room = (counts < sizes) if step > 0 else (counts > 0)
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
) -> Int[Array, "layers"]:
  """Returns int32 counts of the ones of each layer."""
  return _concatenate(
    [_count([mask], axis)[0] for mask, axis in zip(masks, axes, strict=True)]
  )


def select(
  scores: Sequence[Float[Array, "..."] | UInt32[Array, "..."]],
  counts: Int[Array, "groups"],
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
  if valid is None:
    valid = [None] * len(rank)
  counts = jnp.asarray(counts, jnp.int32)
  if backend == "top_k":
    return _select_by_top_k(rank, counts, competition, valid)
  return _select_by_threshold(rank, counts, competition, valid)


def _select_by_threshold(rank, counts, competition, valid):
  axes = competition.axes
  groups = np.asarray(competition.groups)
  rank = [r if v is None else jnp.where(v, r, 0) for r, v in zip(rank, valid)]
  threshold = _kth_highest(rank, counts, competition)[groups]
  bounds = _spread(threshold, rank, axes)
  above = [r > b for r, b in zip(rank, bounds)]
  tied = [
    (r == b) if v is None else (r == b) & v
    for r, b, v in zip(rank, bounds, valid)
  ]
  both = [
    jnp.stack(_count([a, t], axis)) for a, t, axis in zip(above, tied, axes)
  ]
  num_above, num_tied = jnp.concatenate(both, axis=1)
  quota = _tie_quota(counts, num_above, num_tied, groups)
  first = _spread(_tie_bounds(tied, quota, num_tied, axes), rank, axes)
  return [
    a | (t & (_index_ranks(t.shape) >= f))
    for a, t, f in zip(above, tied, first)
  ]


def _kth_highest(rank, counts, competition):
  """Returns uint32[num_groups]: the largest t with at least k ranks >= t."""
  groups = np.asarray(competition.groups)
  num_groups = competition.num_groups
  steps = np.arange(1, 2**_BITS_PER_PASS, dtype=np.uint32)
  passes = -(-_RANK_BITS // _BITS_PER_PASS)

  def narrow(i, found):
    shift = jnp.uint32(_BITS_PER_PASS * (passes - 1)) - i * _BITS_PER_PASS
    offsets = jnp.asarray(steps) << shift
    fits = (offsets >> shift) == steps  # the first pass has fewer bits left
    candidates = found + offsets[:, None]  # [steps, groups]
    spread = [_spread(c[groups], rank, competition.axes) for c in candidates]
    counted = _concatenate(
      [
        jnp.stack(_count([r >= s[leaf] for s in spread], axis))
        for leaf, (r, axis) in enumerate(zip(rank, competition.axes))
      ],
      axis=1,
    )
    total = _group_sums(counted, groups, num_groups)
    enough = (total >= counts) & fits[:, None]
    return found + (jnp.sum(enough, axis=0, dtype=jnp.uint32) << shift)

  start = jnp.zeros(num_groups, jnp.uint32)
  return lax.fori_loop(jnp.uint32(0), jnp.uint32(passes), narrow, start)


def _tie_quota(counts, above, tied, groups):
  """Returns int32[layers]: how many of its ties each layer keeps."""
  missing = counts - _group_sums(above[None], groups, len(counts))[0]
  order = np.argsort(groups, kind="stable")
  first = np.searchsorted(groups[order], np.arange(len(counts)))
  before = jnp.cumsum(tied[order]) - tied[order]
  before -= before[first][groups[order]]
  before = before[np.argsort(order)]
  return jnp.clip(missing[groups] - before, 0, tied)


def _tie_bounds(tied, quota, num_tied, axes):
  """Returns uint32[layers]: keep the ties whose index rank is at least this."""
  every = jnp.where(quota > 0, np.uint32(0), _HIGHEST)

  def search():
    rank = [jnp.where(t, _index_ranks(t.shape), 0) for t in tied]
    found = _kth_highest(rank, quota, each_layer(axes, len(quota)))
    return jnp.where((quota > 0) & (quota < num_tied), found, every)

  ambiguous = jnp.any((quota > 0) & (quota < num_tied))
  return lax.cond(ambiguous, search, lambda: every)


def _index_ranks(shape):
  """Returns uint32 ranks that fall along the row-major index, below highest."""
  index = jnp.zeros(shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(len(shape))):
    index += lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride)
    stride *= shape[axis]
  return _HIGHEST - np.uint32(1) - index


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
    lambda x, y: tuple(a + b for a, b in zip(x, y)),
    dims,
  )
  return [jnp.atleast_1d(c) for c in counted]


def _group_sums(counts, groups, num_groups):
  """Sums int32[n, layers] over the layers of each group: int32[n, groups]."""
  if num_groups == len(groups):
    return counts[:, np.argsort(groups)]
  sums = jnp.zeros((counts.shape[0], num_groups), jnp.int32)
  return sums.at[:, groups].add(counts)


def _spread(values, arrays, axes):
  """Returns one array per leaf that broadcasts each layer's value over it."""
  out, start = [], 0
  for array, axis in zip(arrays, axes, strict=True):
    if axis is None:
      out.append(values[start])
      start += 1
    else:
      size = array.shape[axis]
      shape = [size if d == axis else 1 for d in range(array.ndim)]
      out.append(values[start : start + size].reshape(shape))
      start += size
  return out


def _concatenate(arrays, axis=0):
  return jnp.concatenate(arrays, axis) if len(arrays) > 1 else arrays[0]


def _select_by_top_k(rank, counts, competition, valid):
  flat, layers, on = [], [], []
  start = 0
  for r, v, axis in zip(rank, valid, competition.axes):
    size = 1 if axis is None else r.shape[axis]
    shape = [size if d == axis else 1 for d in range(r.ndim)]
    layer = np.arange(start, start + size).reshape(shape)
    layers.append(np.broadcast_to(layer, r.shape).ravel())
    flat.append(r.ravel())
    on.append(jnp.ones(r.size, bool) if v is None else v.ravel())
    start += size
  groups = np.asarray(competition.groups)[np.concatenate(layers)]
  everything, on = jnp.concatenate(flat), jnp.concatenate(on)
  chosen = jnp.zeros(everything.size, bool)
  for group in range(competition.num_groups):
    members = jnp.asarray(np.flatnonzero(groups == group))
    order = members[lax.top_k(everything[members], len(members))[1]]
    taking = on[order] & (jnp.cumsum(on[order]) <= counts[group])
    chosen = chosen.at[order].set(taking)
  sizes = np.cumsum([r.size for r in rank])[:-1]
  return [
    part.reshape(r.shape) for part, r in zip(jnp.split(chosen, sizes), rank)
  ]
