"""Counts beyond 2^31 - 1, in two int32 limbs.

JAX has no int64 unless it is enabled for the whole program, and float32 is
wrong from 2^24 on. So where more weights compete than an int32 can count, a
count is a `WideCount`; where not, it is a plain int32 array, and the functions
of this module are those of `jnp`. Which of the two it is depends on sizes
alone, so that programs of smaller networks know nothing of this.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

INT32_MAX = 2**31 - 1
"""The largest number in one int32."""

_WORD = 31  # bits of a count in an int32


class Limbs(NamedTuple):
  """How counts are divided.

  Attributes:
    bits: of the lower limb, at most 30.
    most: the largest number that one int32 counts up to.
  """

  bits: int = 30
  most: int = INT32_MAX


LIMBS = Limbs()
"""How counts are divided where there are more than an int32 can count."""


def limbs_for(largest: int) -> Limbs | None:
  """Returns how counts up to a number are divided; None for plain int32."""
  return LIMBS if largest > LIMBS.most else None


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["high", "low"],
  meta_fields=["bits"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class WideCount:
  """Whole numbers `high 2^bits + low`, with operators as arrays have.

  `int(count)` and `np.asarray(count)`, an int64 array, are exact.

  Attributes:
    high: int32[...]; negative for a negative number.
    low: int32[...] in [0, 2^bits).
    bits: of `low`, at most 30.
  """

  high: Any
  low: Any
  bits: int = 30

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of the numbers."""
    return self.high.shape

  def __len__(self) -> int:  # noqa: D105
    return len(self.high)

  def __getitem__(self, index: Any) -> "WideCount":  # noqa: D105
    return self._map(lambda limb: limb[index])

  def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
    """Returns int64 numbers on the host."""
    del copy  # It is always one.
    high, low = (np.asarray(x, np.int64) for x in (self.high, self.low))
    whole = np.asarray((high << self.bits) + low)
    return whole.astype(dtype or np.int64)

  def __int__(self) -> int:  # noqa: D105
    return int(np.asarray(self))

  def __add__(self, other: Any) -> "WideCount":  # noqa: D105
    other = self._same(other)
    return _carried(self.high + other.high, self.low + other.low, self.bits)

  def __sub__(self, other: Any) -> "WideCount":  # noqa: D105
    other = self._same(other)
    return _carried(self.high - other.high, self.low - other.low, self.bits)

  def __rsub__(self, other: Any) -> "WideCount":  # noqa: D105
    return self._same(other) - self

  __radd__ = __add__

  def __lt__(self, other: Any) -> Array:  # noqa: D105
    other = self._same(other)
    lower = (self.high == other.high) & (self.low < other.low)
    return (self.high < other.high) | lower

  def __gt__(self, other: Any) -> Array:  # noqa: D105
    return self._same(other) < self

  def __ge__(self, other: Any) -> Array:  # noqa: D105
    return ~(self < other)

  def __le__(self, other: Any) -> Array:  # noqa: D105
    return ~(self > other)

  def _map(self, f: Callable[[Array], Array]) -> "WideCount":
    return WideCount(f(self.high), f(self.low), self.bits)

  def _same(self, other: Any) -> "WideCount":
    return _widened(other, self.bits)


Counted: TypeAlias = Int[Array, "..."] | WideCount
"""Counts on the device."""


def on_device(numbers: Any, limbs: Limbs | None) -> Counted:
  """Returns counts as int32, or divided into limbs.

  Args:
    numbers: counts on the host, int64[...], or on the device.
    limbs: how they are divided; None for int32, which must hold them.
  """
  if limbs is not None:
    return jax.tree.map(jnp.asarray, _widened(numbers, limbs.bits))
  if isinstance(numbers, WideCount):
    return (numbers.high << numbers.bits) + numbers.low
  return jnp.asarray(numbers, jnp.int32)


def like(numbers: Any, other: Counted) -> Counted:
  """Returns counts on the host as those of another array are on the device."""
  if isinstance(other, WideCount):
    return _widened(numbers, other.bits)
  return jnp.asarray(numbers, jnp.int32)


def zeros(shape: int | tuple[int, ...], limbs: Limbs | None) -> Counted:
  """Returns counts that are 0."""
  return on_device(jnp.zeros(shape, jnp.int32), limbs)


def where(condition: Bool[Array, "..."], x: Any, y: Any) -> Any:
  """Returns `jnp.where` of two counts."""
  if not isinstance(x, WideCount) and not isinstance(y, WideCount):
    return jnp.where(condition, x, y)
  bits = x.bits if isinstance(x, WideCount) else y.bits
  x, y = _widened(x, bits), _widened(y, bits)
  return WideCount(
    jnp.where(condition, x.high, y.high),
    jnp.where(condition, x.low, y.low),
    bits,
  )


def minimum(x: Any, y: Any) -> Any:
  """Returns the lower of two counts."""
  if not isinstance(x, WideCount) and not isinstance(y, WideCount):
    return jnp.minimum(x, y)
  return where(x < y, x, y)


def maximum(x: Any, y: Any) -> Any:
  """Returns the higher of two counts."""
  if not isinstance(x, WideCount) and not isinstance(y, WideCount):
    return jnp.maximum(x, y)
  return where(x > y, x, y)


def clip(x: Any, least: Any, most: Any) -> Any:
  """Returns counts within bounds; the upper one where they contradict."""
  if isinstance(x, WideCount) or isinstance(most, WideCount):
    return minimum(maximum(x, least), most)
  return jnp.clip(x, least, most)


def equal(x: Counted, y: Any) -> Bool[Array, "..."]:
  """Returns which counts are equal."""
  if not isinstance(x, WideCount):
    return x == y
  y = _widened(y, x.bits)
  return (x.high == y.high) & (x.low == y.low)


def differ(x: Counted, y: Any) -> Bool[Array, "..."]:
  """Returns which counts are not equal."""
  return ~equal(x, y) if isinstance(x, WideCount) else x != y


def lowest(x: Any, axis: int = 0) -> Any:
  """Returns the lowest counts along an axis."""
  return _extreme(x, axis, jnp.min, INT32_MAX)


def highest(x: Any, axis: int = 0) -> Any:
  """Returns the highest counts along an axis."""
  return _extreme(x, axis, jnp.max, -1)


def upper_bound(limbs: Limbs | None) -> Any:
  """Returns the largest count."""
  most = np.int32(INT32_MAX)
  if limbs is None:
    return most
  return WideCount(most, np.int32(2**limbs.bits - 1), limbs.bits)


def largest_like(counts: Counted) -> int:
  """Returns a number above all sizes that fits into counts like others."""
  return 2**52 if isinstance(counts, WideCount) else INT32_MAX


def quotient(x: Counted, divisors: Sequence[int]) -> Int[Array, "..."]:
  """Returns `x // divisors` as int32, which must be able to hold it."""
  if not isinstance(x, WideCount):
    return x // jnp.asarray(divisors, jnp.int32)
  with jax.enable_x64(True):
    found = as_float64(x) / jnp.asarray(divisors, jnp.float64)
    return lax.convert_element_type(jnp.floor(found), jnp.int32)


def concatenate(counts: Sequence[Counted], axis: int = 0) -> Any:
  """Returns counts one after another, wide if one of them is."""
  return _together(lambda limbs: jnp.concatenate(limbs, axis), counts)


def stack(counts: Sequence[Counted]) -> Any:
  """Returns counts along a new first axis, wide if one of them is."""
  return _together(jnp.stack, counts)


def as_float32(x: Counted) -> Float[Array, "..."]:
  """Returns the nearest float32, or one next to it."""
  if isinstance(x, WideCount):
    scale = np.float32(2**x.bits)
    return x.high.astype(jnp.float32) * scale + x.low.astype(jnp.float32)
  return x.astype(jnp.float32)


def as_float64(x: Any) -> Float[Array, "..."]:
  """Returns float64, exact up to 2^53; the caller enables it."""
  if isinstance(x, WideCount):
    high, low = (
      lax.convert_element_type(limb, jnp.float64) for limb in (x.high, x.low)
    )
    return high * float(2**x.bits) + low
  return lax.convert_element_type(x, jnp.float64)


def as_int64(x: Any) -> Int[Array, "..."]:
  """Returns int64; the caller enables it."""
  if isinstance(x, WideCount):
    high, low = (
      lax.convert_element_type(limb, jnp.int64) for limb in (x.high, x.low)
    )
    return (high << x.bits) + low
  return lax.convert_element_type(x, jnp.int64)


def from_int64(x: Int[Array, "..."], other: Counted) -> Counted:
  """Returns int64 as counts like another; the caller enables it."""
  if not isinstance(other, WideCount):
    return lax.convert_element_type(x, jnp.int32)
  limbs = (x >> other.bits, x & (2**other.bits - 1))
  high, low = (lax.convert_element_type(limb, jnp.int32) for limb in limbs)
  return WideCount(high, low, other.bits)


def from_float64(x: Float[Array, "..."], other: Counted) -> Counted:
  """Returns whole float64 numbers as counts like another.

  The caller enables float64.
  """
  if not isinstance(other, WideCount):
    return lax.convert_element_type(x, jnp.int32)
  high = jnp.floor(x / float(2**other.bits))
  low = x - high * float(2**other.bits)
  return WideCount(
    lax.convert_element_type(high, jnp.int32),
    lax.convert_element_type(low, jnp.int32),
    other.bits,
  )


def total(x: Counted, limbs: Limbs | None) -> Counted:
  """Returns the sum of all counts, which are at least 0."""
  if limbs is None and not isinstance(x, WideCount):
    return jnp.sum(x, dtype=jnp.int32)
  limbs = LIMBS if limbs is None else limbs
  number = max(math.prod(x.shape), 1)
  return added(x, number, limbs, lambda x: jnp.sum(x, dtype=jnp.int32))


def added(
  counts: Counted,
  number: int,
  limbs: Limbs,
  add: Callable[[Int[Array, "..."]], Int[Array, "..."]],
) -> WideCount:
  """Sums counts of at least 0 that may together exceed an int32.

  The bits of a count are divided into pieces so short that an int32 holds the
  sum of as many pieces as there are counts.

  Args:
    counts: what is summed up.
    number: how many counts go into one sum, at most.
    limbs: how the sum is divided.
    add: sums int32 up, without looking for an overflow.

  Returns:
    The sums, of the shape that `add` returns.
  """
  if isinstance(counts, WideCount):
    low = added(counts.low, number, limbs, add)
    return WideCount(low.high + add(counts.high), low.low, limbs.bits)
  width = max(1, min(limbs.bits, _WORD - (number - 1).bit_length()))
  pieces = []
  for start in range(0, _WORD, width):
    piece = (counts >> start) & np.int32(2 ** min(width, _WORD - start) - 1)
    pieces.append(_shifted(add(piece), start, limbs.bits))
  return functools.reduce(WideCount.__add__, pieces)


def partial_axes(
  shape: tuple[int, ...], kept: Iterable[int], most: int
) -> tuple[int, ...]:
  """Returns axes along which the ones of a bool array are counted apart.

  Together with those `kept`, they leave at most `most` elements for one int32;
  of all such sets it is one with the fewest counts.
  """
  kept = tuple(kept)
  others = [d for d in range(len(shape)) if d not in kept]
  size = math.prod(shape[d] for d in others)
  sets = [
    some
    for length in range(len(others) + 1)
    for some in itertools.combinations(others, length)
    if size <= most * math.prod(shape[d] for d in some)
  ]
  return min(sets, key=lambda some: math.prod(shape[d] for d in some))


def ones(
  flags: Bool[Array, "..."], kept: Sequence[int], limbs: Limbs | None
) -> Counted:
  """Counts the ones of a bool array along all axes but those kept."""
  others = [d for d in range(flags.ndim) if d not in kept]
  apart: tuple[int, ...] = ()
  if limbs is not None:
    apart = partial_axes(flags.shape, kept, limbs.most)
  summed = tuple(d for d in others if d not in apart)
  parts = jnp.sum(flags, axis=summed, dtype=jnp.int32)
  if limbs is None or not apart:
    return on_device(parts, limbs)
  left = [d for d in range(flags.ndim) if d not in summed]
  axes = tuple(i for i, d in enumerate(left) if d in apart)
  number = math.prod(flags.shape[d] for d in apart)
  return added(
    parts, number, limbs, lambda x: jnp.sum(x, axis=axes, dtype=jnp.int32)
  )


def _widened(x: Any, bits: int) -> WideCount:
  """Returns numbers on the host or the device as two limbs."""
  if isinstance(x, WideCount):
    return x
  if not isinstance(x, jax.Array):
    x = np.asarray(x, np.int64)
    low = (x & (2**bits - 1)).astype(np.int32)
    return WideCount((x >> bits).astype(np.int32), low, bits)
  return WideCount(x >> bits, x & np.int32(2**bits - 1), bits)


def _carried(high: Array, low: Array, bits: int) -> WideCount:
  """Returns limbs whose lower one may be out of range, also negative."""
  return WideCount(high + (low >> bits), low & np.int32(2**bits - 1), bits)


def _shifted(x: Int[Array, "..."], places: int, bits: int) -> WideCount:
  """Returns `x 2^places` of an int32 of at least 0."""
  if places >= bits:
    return WideCount(x << (places - bits), jnp.zeros_like(x), bits)
  low = (x & np.int32(2 ** (bits - places) - 1)) << places
  return WideCount(x >> (bits - places), low, bits)


def _extreme(x: Any, axis: int, reduce: Callable[..., Array], none: int) -> Any:
  if not isinstance(x, WideCount):
    return reduce(x, axis=axis)
  high = reduce(x.high, axis=axis)
  is_extreme = x.high == jnp.expand_dims(high, axis)
  low = reduce(jnp.where(is_extreme, x.low, np.int32(none)), axis=axis)
  return WideCount(high, low, x.bits)


def _together(join: Callable[..., Array], counts: Sequence[Counted]) -> Any:
  bits = {x.bits for x in counts if isinstance(x, WideCount)}
  if not bits:
    return join(counts)
  wide = [_widened(x, max(bits)) for x in counts]
  return WideCount(
    join([x.high for x in wide]), join([x.low for x in wide]), max(bits)
  )
