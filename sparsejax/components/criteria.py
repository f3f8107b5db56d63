"""Criteria: what each weight of a leaf is worth, from what is seen of it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, UInt32

from sparsejax.method import Key, Scores, Seen

Plane = Literal["out", "hw", "flat"]

_ROUNDS = 8  # of growth next to active weights
_LEVEL_BITS = 4  # of a rank that say how near or how often; bits the rest


@dataclasses.dataclass(frozen=True)
class Elementwise:
  """A criterion that looks at one position at a time and draws nothing.

  So it may be computed on the leaves in any packing.

  Attributes:
    score: the criterion.
  """

  score: Callable[[Seen], Scores]

  def __call__(self, seen: Seen) -> Scores:
    """Scores whatever arrays `seen` holds."""
    return self.score(seen)


@Elementwise
def magnitude(seen: Seen) -> Scores:
  """Scores a weight by `|w|`, in float32."""
  return jnp.abs(seen.param.astype(jnp.float32))


@Elementwise
def gradient(seen: Seen) -> Scores:
  """Scores a position by `|dL/dw|` of the dense gradient, in float32."""
  return jnp.abs(seen.grad.astype(jnp.float32))


@functools.cache
def remembered(name: str) -> Elementwise:
  """Scores a position by its number in a memory, in float32.

  Args:
    name: of the memory, whose leaves have the shapes of the weights.
  """
  return Elementwise(lambda seen: _recalled(seen, name).astype(jnp.float32))


@functools.cache
def remembered_magnitude(name: str) -> Elementwise:
  """Scores a position by the absolute value of its number in a memory."""
  return Elementwise(
    lambda seen: jnp.abs(_recalled(seen, name).astype(jnp.float32))
  )


def random(seen: Seen) -> Scores:
  """Scores every position by 32 random bits."""
  return jax.random.bits(_key(seen), seen.param.shape, jnp.uint32)


def never_active_first(seen: Seen) -> Scores:
  """Ranks positions that were never on above all others, at random in each.

  Needs the memory `ever_active`; `sparsejax.never_active_first` brings it.

  References:
    Liu et al., `Do we actually need dense over-parameterization?
    <https://arxiv.org/abs/2102.02887>`_, 2021, code (`random_unfired`).
  """
  never = ~_recalled(seen, "ever_active")
  return (never.astype(jnp.uint32) << 31) | (random(seen) >> 1)


@functools.cache
def near_active(plane: Plane = "out") -> Callable[[Seen], Scores]:
  """Ranks positions next to an active weight first, at random among them.

  Positions with an active neighbour among the 8 around them come first; then
  those next to these, as if they were active, and so on for 8 rounds; all
  others come last. There is nothing beyond the edges.

  Args:
    plane: what is a plane, see `active_neighbours`.

  References:
    Scholte, Regrowing strategies for dynamic sparse training, Twente 2022,
    regrowth by one activated neighbour.
  """
  checked = _plane(plane)

  def score(seen: Seen) -> Scores:
    level = jnp.zeros(seen.mask.shape, jnp.uint32)
    reached = seen.mask
    for round_ in range(_ROUNDS):
      wider = reached | (active_neighbours(reached, checked) > 0)
      first = wider & ~reached
      level = jnp.where(first, jnp.uint32(_ROUNDS - round_), level)
      reached = wider
    return _ranked(level, seen)

  return score


@functools.cache
def most_active_neighbours(plane: Plane = "out") -> Callable[[Seen], Scores]:
  """Ranks positions by how many of the 8 around are active, ties at random.

  Args:
    plane: what is a plane, see `active_neighbours`.

  References:
    Scholte, Regrowing strategies for dynamic sparse training, Twente 2022,
    regrowth by most activated neighbours.
  """
  checked = _plane(plane)

  def score(seen: Seen) -> Scores:
    count = active_neighbours(seen.mask, checked)
    return _ranked(count.astype(jnp.uint32), seen)

  return score


def active_neighbours(
  mask: Bool[Array, "*dims"], plane: Plane = "out"
) -> Int[Array, "*dims"]:
  """Counts the active ones of the 8 positions around each, in a plane.

  Args:
    mask: of one leaf, at least two dimensions, the output last.
    plane: "out" for the plane of inputs and outputs at each tap of a
      convolution, "hw" for that of its taps for each pair of input and output,
      "flat" for all inputs and taps as rows and the outputs as columns. A
      matrix is one plane in all of them.

  Returns:
    int32 in [0, 8]; beyond the edges nothing is active.
  """
  if mask.ndim < 2:
    raise ValueError(
      f"`mask` must have at least two dimensions, got shape {mask.shape}:"
      " neighbours are counted in a plane."
    )
  shape = mask.shape
  if plane == "flat":
    mask = mask.reshape(-1, shape[-1])
  axes = (0, 1) if plane == "hw" else (mask.ndim - 2, mask.ndim - 1)
  window = [3 if d in axes else 1 for d in range(mask.ndim)]
  around = lax.reduce_window(
    mask.astype(jnp.int32), 0, lax.add, window, [1] * mask.ndim, "SAME"
  )
  return (around - mask).reshape(shape)


def _ranked(level: UInt32[Array, "*dims"], seen: Seen) -> Scores:
  return (level << (32 - _LEVEL_BITS)) | (random(seen) >> _LEVEL_BITS)


def _plane(plane: Plane) -> Plane:
  if plane not in ("out", "hw", "flat"):
    raise ValueError(f"`plane` must be 'out', 'hw' or 'flat', got {plane!r}.")
  return plane


def _recalled(seen: Seen, name: str) -> Array:
  if name not in seen.memory:
    raise ValueError(
      f"`memory` has no {name!r}, which a criterion of the method reads. Give a"
      " criterion that brings it: sparsejax.never_active_first,"
      " sparsejax.momentum, or a sparsejax.memories.Recalling."
    )
  return seen.memory[name]


def _key(seen: Seen) -> Key:
  if seen.key is None:
    raise ValueError(
      "`key` must be given to a method that draws at random, got None. Pass"
      " key=jax.random.key(0) to `sparsify`."
    )
  return seen.key
