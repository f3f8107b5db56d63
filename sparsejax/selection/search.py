"""Exact selection of the highest scores, and the counts that it is requested.

Scores are ranked as unsigned integers in the order of the floats (`ranks`).
`select` keeps exactly the requested number in each competition, ties to the lower
index, by one of two backends that agree bit for bit:

* `threshold`: finds the k-th highest rank by counting how many reach a few
  probes a pass, then the index bound among the ties in the same way. It needs
  sums of counts only, so it neither sorts nor gathers: k may be traced, and
  over sharded arrays the only collective is an all-reduce of a few numbers.
* `top_k`: `lax.top_k` over the concatenated leaves, the reference.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int, UInt32

Backend = Literal["auto", "threshold", "top_k"]

_TOLERANCE = 1e-6
_DEVIATIONS = (-1.5, -0.5, 0.5, 1.5)  # probes around the expected bound
_QUARTERS = (0.25, 0.5, 0.75)
HIGHEST_RANK = np.uint32(0xFFFFFFFF)
_INT32_MAX = np.int32(2**31 - 1)
_SIGN = np.uint32(0x80000000)
_ZERO_RANK = _SIGN  # of the score 0.0
_NORMAL_RANK = np.uint32(0x80800000)  # of 2^-126, the least positive score
_LOWEST_RANK = np.uint32(0x007FFFFF)  # of -inf
_SMALLEST_NORMAL = np.float32(2.0**-126)
_FIRST_OF_RANKS = (np.arange(7) * (2**32 / 7)).astype(np.uint32)
_FIRST_OF_FLOATS = np.concatenate(
  [
    np.array([0, _NORMAL_RANK], np.uint32),
    (2.0 ** np.array([-12, -9, -7, -5, -3])).astype(np.float32).view(np.uint32)
    | _SIGN,
  ]
)
_MOST_OF_ZEROS = np.uint32(0x807FFFFF)  # bits of the float just above -2^-126


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
    least_groups: how many groups there are at least; the last may be empty.
      Where searches have as many groups, compilers find the same code in them.
  """

  axes: tuple[int | None, ...]
  groups: tuple[int, ...]
  offsets: tuple[int, ...]
  least_groups: int = 0

  @property
  def num_groups(self) -> int:
    """Number of competitions."""
    return max(max(self.groups, default=-1) + 1, self.least_groups)


def each_layer(axes: Sequence[int | None], num_layers: int) -> Competition:
  """Every layer on its own."""
  return Competition(tuple(axes), tuple(range(num_layers)), (0,) * num_layers)


def floor_tol(x: float) -> int:
  """Rounds down, forgiving 1e-6: 0.9999999 is 1 (host, float64)."""
  return math.floor(x + _TOLERANCE)


def requested_count(
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


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["inputs"],
  meta_fields=["make", "shape", "dtype"],
)
@dataclasses.dataclass(frozen=True)
class Recipe:
  """An array that is made wherever it is read, and never kept.

  Attributes:
    make: inputs -> the array.
    inputs: arrays.
    shape: of what is made.
    dtype: of what is made.
  """

  make: Callable[..., Array]
  inputs: tuple[Any, ...]
  shape: tuple[int, ...]
  dtype: Any = np.dtype(np.float32)


def recipe(make: Callable[..., Array], *inputs: Any) -> Recipe:
  """Returns the recipe for `make(*inputs)`, of trees of arrays.

  It holds those arrays alone that `make` computes with.
  """
  leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, inputs))
  traced = jax.make_jaxpr(lambda *x: make(*jax.tree.unflatten(treedef, x)))(
    *leaves
  ).jaxpr
  read = {id(x) for e in traced.eqns for x in e.invars}
  read |= {id(x) for x in traced.outvars}
  used = [id(x) in read for x in traced.invars]
  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]

  def from_used(*arrays):
    rest = iter(arrays)
    filled = [next(rest) if u else s for u, s in zip(used, shapes, strict=True)]
    return make(*jax.tree.unflatten(treedef, filled))

  (out,) = traced.outvars
  return Recipe(
    from_used,
    tuple(x for x, u in zip(leaves, used, strict=True) if u),
    out.aval.shape,
    out.aval.dtype,
  )


def made(x: Any) -> Any:
  """Returns the array of a recipe, and an array or None itself."""
  return x.make(*x.inputs) if isinstance(x, Recipe) else x


def canonical(scores: Float[Array, "*dims"]) -> Float32[Array, "*dims"]:
  """Returns float32 scores that every backend and platform ranks alike.

  NaN is -inf and a magnitude under 2^-126 is 0 (some platforms flush those).
  """
  x = scores.astype(jnp.float32)
  x = jnp.where(jnp.isnan(x), -jnp.inf, x)
  return jnp.where(jnp.abs(x) < _SMALLEST_NORMAL, np.float32(0), x)


def ranks(
  scores: Float[Array, "*dims"] | UInt32[Array, "*dims"] | Recipe,
) -> UInt32[Array, "..."]:
  """Returns uint32 that order as the canonical scores do; -0 is 0.

  uint32 scores are ranks already.
  """
  array = made(scores)
  if array.dtype == jnp.uint32:
    return array
  bits = lax.bitcast_convert_type(canonical(array), jnp.uint32)
  bits = jnp.where(bits == _SIGN, np.uint32(0), bits)
  return jnp.where(bits & _SIGN != 0, ~bits, bits | _SIGN)


def _score_of(rank: UInt32[Array, "*dims"]) -> Float32[Array, "*dims"]:
  """Returns the least score whose canonical one has at least a rank.

  NaN above +inf.
  """
  rank = jnp.maximum(rank, _LOWEST_RANK)
  gap = rank - _ZERO_RANK < np.uint32(0x00800000)  # 0 and the denormals
  rank = jnp.where(gap & (rank > _ZERO_RANK), _NORMAL_RANK, rank)
  gap = _ZERO_RANK - rank <= np.uint32(0x00800000)
  rank = jnp.where(gap & (rank < _ZERO_RANK), _ZERO_RANK, rank)
  bits = jnp.where(rank & _SIGN != 0, rank & ~_SIGN, ~rank)
  bits = jnp.where(rank == _ZERO_RANK, _MOST_OF_ZEROS, bits)
  return lax.bitcast_convert_type(bits, jnp.float32)


def count_active(
  masks: Sequence[Bool[Array, "..."]], competition: Competition
) -> Int[Array, " groups"]:
  """Returns int32 counts of the ones of each group."""
  return _group_counts([[mask, ~mask] for mask in masks], competition)[0]


def select(
  scores: Sequence[Float[Array, "..."] | UInt32[Array, "..."] | Recipe],
  counts: Int[Array | np.ndarray, " groups"],
  competition: Competition,
  *,
  valid: Sequence[Bool[Array, "..."] | Recipe | None] | None = None,
  shuffle: Callable[[], Sequence[UInt32[Array, "..."] | Recipe]] | None = None,
  backend: Backend = "auto",
) -> list[Bool[Array, "..."]]:
  """Keeps the highest scores of each competition, exactly as many as requested.

  Args:
    scores: one array per leaf, or the recipe for it; floats of any dtype, or
      uint32 ranks.
    counts: int32[num_groups], how many to keep; may be traced. None are kept of
      groups that it leaves out, the last.
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
  counts = jnp.pad(counts, (0, competition.num_groups - len(counts)))
  search = _top_k if backend == "top_k" else _threshold
  return search(list(scores), counts, competition, on, shuffle)


_Bounds = list[list[Array]]
"""For each array, ranks that broadcast over it."""


class _Field(NamedTuple):
  """What a search reads.

  Attributes:
    scores: floats or uint32 ranks, arrays or recipes.
    valid: who takes part; None where all do.
  """

  scores: Sequence[Array | Recipe]
  valid: Sequence[Array | Recipe | None]

  @property
  def shapes(self) -> list[tuple[int, ...]]:
    """Shapes of the arrays."""
    return [score.shape for score in self.scores]

  def at_least(self, bounds: _Bounds) -> list[list[Array]]:
    """Returns, for each array, which elements reach each of its bounds."""
    return [
      _reaching(made(score), made(valid), few)
      for score, valid, few in zip(self.scores, self.valid, bounds, strict=True)
    ]


def _around(field, level):
  """Returns for each array which elements are above a level, and reach it."""
  above = [jnp.where(b == HIGHEST_RANK, b, b + np.uint32(1)) for b in level]
  pairs = field.at_least([list(p) for p in zip(above, level, strict=True)])
  return [
    (higher & (b != HIGHEST_RANK), reach)
    for (higher, reach), b in zip(pairs, level, strict=True)
  ]


def _reaching(score, valid, bounds):
  """Returns which elements reach bounds, given as ranks that broadcast.

  Floats are compared as they are, which is exact: the bounds lie where
  canonical scores lie.
  """
  if score.dtype == jnp.uint32:
    flags = [score >= bound for bound in bounds]
    return flags if valid is None else [flag & valid for flag in flags]
  x = score.astype(jnp.float32)
  x = jnp.where(jnp.isnan(x), -jnp.inf, x)
  if valid is not None:
    x = jnp.where(valid, x, jnp.nan)  # reaches no bound
  return [x >= _score_of(bound) for bound in bounds]


def _joined(arrays, competition):
  """Returns arrays of rows as one, so that what is rarely run compiles once."""
  rows = all(
    axis == 0 and x.ndim == 2 and jax.typeof(x).sharding.mesh.size <= 1
    for x, axis in zip(arrays, competition.axes, strict=True)
  )
  if not rows or len(arrays) == 1:
    return arrays, competition
  length = math.gcd(*(x.shape[1] for x in arrays))
  cuts = np.repeat(
    [x.shape[1] // length for x in arrays], [x.shape[0] for x in arrays]
  )
  place = np.arange(cuts.sum()) - np.repeat(np.cumsum(cuts) - cuts, cuts)
  contest = Competition(
    (0,),
    tuple(np.repeat(competition.groups, cuts).tolist()),
    tuple((np.repeat(competition.offsets, cuts) + place * length).tolist()),
    competition.least_groups,
  )
  return [jnp.concatenate([x.reshape(-1, length) for x in arrays])], contest


def _apart(arrays, shapes):
  """Undoes `_joined`."""
  if len(arrays) == len(shapes):
    return arrays
  flat, parts, start = arrays[0].ravel(), [], 0
  for shape in shapes:
    stop = start + math.prod(shape)
    parts.append(flat[start:stop].reshape(shape))
    start = stop
  return parts


def _order(shapes, competition) -> list[Recipe]:
  """Returns ranks that fall from the first to the last of a group."""
  offsets = np.asarray(competition.offsets, np.uint32)

  def make(index, *, shape, axis):
    stride = 1
    for d in reversed(range(len(shape))):
      if d != axis:
        place = lax.broadcasted_iota(jnp.uint32, shape, d)
        index = index + place * np.uint32(stride)
        stride *= shape[d]
    return HIGHEST_RANK - np.uint32(1) - index

  return [
    Recipe(
      functools.partial(make, shape=shape, axis=slices.axis),
      (jnp.asarray(offsets[slices.numbers].reshape(slices.shape)),),
      shape,
      np.dtype(np.uint32),
    )
    for shape, slices in zip(shapes, _slices(shapes, competition), strict=True)
  ]


def _threshold(scores, counts, competition, valid, shuffle):
  field = _Field(scores, valid)
  shapes = field.shapes
  floats = [score.dtype != jnp.uint32 for score in scores]
  first = _FIRST_OF_FLOATS if all(floats) else _FIRST_OF_RANKS
  found, above, reached = _kth_highest(field, counts, competition, first)
  # What follows makes the scores again and shares nothing with another search.
  field = lax.optimization_barrier(field)
  missing = counts - above
  # Those that are higher are known only where the search went on to the end.
  ambiguous = (missing > 0) & (missing < reached - above)
  level = _spread(found, shapes, competition)

  def tied():
    return [reach & ~higher for higher, reach in _around(field, level)]

  def last_tie():
    """The place in its group of the last of the ties that are kept."""
    return _kth_first(*_joined(tied(), competition), missing)

  def by_index():
    last = lax.cond(jnp.any(ambiguous), last_tie, lambda: jnp.zeros_like(found))
    last = jnp.where(missing > 0, last, HIGHEST_RANK)
    last = jnp.where(ambiguous | (missing <= 0), last, 0)
    return [
      higher | (reach & (made(order) >= b))
      for (higher, reach), order, b in zip(
        _around(field, level),
        _order(shapes, competition),
        _spread(last, shapes, competition),
        strict=True,
      )
    ]

  def at_random():
    drawn = [
      jnp.where(b == _ZERO_RANK, made(bits), 0)
      for bits, b in zip(shuffle(), level, strict=True)
    ]
    ties, contest = _joined(tied(), competition)
    drawn, _ = _joined(drawn, competition)
    kept = _threshold(drawn, missing, contest, ties, None)
    return [
      higher | k
      for (higher, _), k in zip(
        _around(field, level), _apart(kept, shapes), strict=True
      )
    ]

  if shuffle is None:
    return by_index()
  among_zeros = jnp.any(ambiguous & (found == _ZERO_RANK))
  return lax.cond(among_zeros, at_random, by_index)


def _kth_highest(field, counts, competition, first):
  """Finds, in each group, a bound that exactly k elements reach, if there is.

  Otherwise the largest bound that at least k reach. Each pass counts at a few
  probes: where the bound would be if ranks were evenly spread between the
  nearest known counts, some deviations of that guess to both sides of it, and
  quarters of the interval, which alone would end within 16 passes.

  Args:
    field: what is searched. It goes through a barrier at every pass, so that
      the compiler does not keep what is made of it: making it anew is cheaper
      than to write and read it.
    counts: int32[groups], k.
    competition: the groups.
    first: uint32[probes], the probes of the first pass.

  Returns:
    uint32[groups], the bound; int32[groups], how many are known to reach more
    than it; and how many reach it (the largest int32 where none was counted).
  """

  def unsettled(state):
    _, low, high, _, reached = state
    return jnp.any((low < high) & (reached != counts))

  def narrow(state):
    i, low, high, above, reached = state
    seen, i = lax.optimization_barrier((field, i))
    guesses = _probes(low, high, above, reached, counts)
    start = jnp.broadcast_to(first[:, None], guesses.shape)
    probes = jnp.where(i == 0, start, guesses)
    spread = _spread(probes, field.shapes, competition)
    flags = seen.at_least([list(some) for some in spread])
    total = _group_counts(flags, competition)
    enough = total >= counts
    low = jnp.maximum(low, jnp.max(jnp.where(enough, probes, 0), axis=0))
    reached = jnp.minimum(
      reached, jnp.min(jnp.where(enough, total, _INT32_MAX), axis=0)
    )
    below = jnp.where(enough | (probes == 0), HIGHEST_RANK, probes - 1)
    high = jnp.minimum(high, jnp.min(below, axis=0))
    above = jnp.maximum(above, jnp.max(jnp.where(enough, 0, total), axis=0))
    # Where even the lowest bound is not reached by k, all are kept.
    none = (probes == 0) & ~enough
    none = jnp.any(none, axis=0)
    high = jnp.where(none, 0, high)
    reached = jnp.where(none, above, reached)
    return i + 1, low, jnp.maximum(low, high), above, reached

  nothing = counts < 1
  start = (
    jnp.uint32(0),
    jnp.where(nothing, HIGHEST_RANK, np.uint32(0)),
    jnp.full(len(counts), HIGHEST_RANK),
    jnp.zeros(len(counts), jnp.int32),
    jnp.full(len(counts), _INT32_MAX),
  )
  _, low, _, above, reached = lax.while_loop(unsettled, narrow, start)
  return low, above, reached


@functools.partial(jax.jit, static_argnums=1)
def _kth_first(ties, competition, counts):
  """Finds the rank by `_order` of the k-th of some ties, in each group."""
  order = _order([flags.shape for flags in ties], competition)
  field = _Field(order, ties)
  return _kth_highest(field, counts, competition, _FIRST_OF_RANKS)[0]


def _probes(low, high, above, reached, counts):
  """Returns uint32[probes, groups], each in (low, high]."""
  width = high - low
  wide = width.astype(jnp.float32)
  inside = jnp.maximum(reached - above, 1).astype(jnp.float32)
  share = (reached - counts).astype(jnp.float32) + 0.5
  share = jnp.clip(share / inside, 0, 1)
  spread = jnp.maximum(share * (1 - share), 1 / inside) / inside
  deviation = jnp.sqrt(spread)
  places = [share + x * deviation for x in _DEVIATIONS]
  places += [jnp.full_like(share, x) for x in _QUARTERS]
  last = jnp.maximum(width, 1) - 1
  far = [jnp.clip(wide * place, 0, 4294967040.0) for place in places]
  offsets = [jnp.minimum(x.astype(jnp.uint32), last) for x in far]
  # The last few are counted one by one.
  few = width <= len(places)
  offsets = [
    jnp.where(few, jnp.minimum(np.uint32(i), last), offset)
    for i, offset in enumerate(offsets)
  ]
  return low + np.uint32(1) + jnp.stack(offsets)


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
  """Returns, for each array, what broadcasts its groups' values over it.

  Args:
    values: [groups], or [n, groups], which gives n arrays for each array.
    shapes: of the arrays.
    competition: the groups.
  """
  groups = np.asarray(competition.groups)
  if values.shape[-1] == 1:  # or what is made of it would be made per element
    values = jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, 1)])
  values = values[..., groups]
  return [
    values[..., slices.numbers].reshape(*values.shape[:-1], *slices.shape)
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
  if num_groups == len(np.unique(groups)) == len(groups):
    return counts[:, np.argsort(groups)]
  if num_groups == 1:
    return jnp.sum(counts, axis=1, keepdims=True, dtype=jnp.int32)
  # Along the first axis: `zeros.at[:, groups].add(counts)` is compiled wrongly
  # by XLA's CPU backend where counts are a 7 x 7 square (jax 0.10.2).
  return jax.ops.segment_sum(counts.T, groups, num_groups).T


def _concatenate(arrays, axis=0):
  return jnp.concatenate(arrays, axis) if len(arrays) > 1 else arrays[0]


def _top_k(scores, counts, competition, valid, shuffle):
  rank = [ranks(made(score)) for score in scores]
  valid = [made(v) for v in valid]
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
    drawn = jnp.where(
      everything == _ZERO_RANK, flat(map(made, shuffle())), drawn
    )
  chosen = jnp.zeros(everything.size, bool)
  for g in range(competition.num_groups):
    members = np.flatnonzero(group == g)
    if not members.size:
      continue
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
