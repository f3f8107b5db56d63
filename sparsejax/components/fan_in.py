"""Sparse kernels by output: where the active weights of a matrix are.

A kernel of K inputs and N outputs is stored in lanes of S slots: a slot holds
the input of one active weight, and an array of values of the same shape holds
the weight. Lane n belongs to output n. An output with more than S active
weights continues in extra lanes, whose owners are recorded. So S can be close
to the mean fan-in, and no output is ever full: outputs with f active weights
need `ceil(f / S) - 1` extra lanes each, together at most `floor(n / S)` for n
weights in total. With that many, every mask of n weights fits into the same
shapes, and a change of masks compiles nothing again.

Slots are filled from the first one on; `counts` says how many are. Weights lie
in the order of their inputs.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

from sparsejax.components.counts import INT32_MAX

_BLOCK = 128

UNROLL = 4
"""The number of slots is a multiple of this."""


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("indices", "counts", "owners"),
  meta_fields=("inputs", "outputs"),
)
@dataclasses.dataclass(frozen=True)
class Lanes:
  """The active weights of a matrix, by output.

  Attributes:
    indices: int32[S, M], the input of each slot; 0 where it is empty. M is the
      number of outputs N plus that of extra lanes E.
    counts: int32[M], how many slots of each lane are filled.
    owners: int32[E], the output of each extra lane, N where it is unused; the
      unused ones come last.
    inputs: K.
    outputs: N.
  """

  indices: Any  # In a tree map, no arrays.
  counts: Any
  owners: Any
  inputs: int
  outputs: int

  @property
  def filled(self) -> Bool[Array, "slots lanes"]:
    """Which slots hold a weight."""
    slot = jnp.arange(self.indices.shape[0], dtype=jnp.int32)
    return slot[:, None] < self.counts

  @property
  def output_of(self) -> Int[Array, " lanes"]:
    """int32[M], the output of each lane; N for an unused one."""
    first = jnp.arange(self.outputs, dtype=jnp.int32)
    return jnp.concatenate([first, self.owners])


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("lanes", "by_input", "slots"),
  meta_fields=("most",),
)
@dataclasses.dataclass(frozen=True)
class FanIn:
  """Where the active weights of a kernel of shape (K, N) are.

  Attributes:
    lanes: by output.
    most: how many active weights fit.
    by_input: the same weights by input, for the gradient of the inputs: lanes
      of the transposed matrix.
    slots: int32 like `by_input.indices`: where in the flat values the weight
      of each slot is.
  """

  lanes: Any  # `Lanes`, but in a tree map.
  most: int
  by_input: Any
  slots: Any

  @property
  def shape(self) -> tuple[int, int]:
    """Shape of the kernel."""
    return self.lanes.inputs, self.lanes.outputs

  @property
  def size(self) -> int:
    """Number of weights of the kernel, active or not."""
    return math.prod(self.shape)


class Capacity(NamedTuple):
  """The shapes of lanes; see `capacity`."""

  slots: int
  extra: int


def capacity(most: int, outputs: int, slots: int | None = None) -> Capacity:
  """Returns lanes that hold any mask of so many active weights.

  The slots are by default two standard deviations above the mean fan-in of
  random masks, so that few outputs need an extra lane.

  Args:
    most: number of active weights, at least 0.
    outputs: number of outputs N.
    slots: slots per lane, at least 1; rounded up to a multiple of `UNROLL`.
  """
  mean = most / max(outputs, 1)
  wanted = math.ceil(mean + 2 * math.sqrt(mean)) if slots is None else slots
  slots = UNROLL * max(1, -(-wanted // UNROLL))
  return Capacity(slots, most // slots)


@functools.partial(jax.jit, static_argnames=("most", "slots"))
def encode(
  mask: Bool[Array, "inputs outputs"],
  most: int,
  *,
  slots: int | None = None,
) -> FanIn:
  """Stores a mask in lanes; traceable, and the shapes follow from `most`.

  Args:
    mask: of the kernel.
    most: at least the number of active weights; static. All are stored.
    slots: slots per lane; see `capacity`.

  Raises:
    ValueError: for more than 2^31 - 1 weights.
  """
  inputs, outputs = mask.shape
  if mask.size > INT32_MAX:
    raise ValueError(
      f"`mask` must have at most {INT32_MAX} weights, got {mask.size}."
    )
  flat = _nonzero(mask.T.reshape(-1), most)
  to, of = flat // inputs, flat % inputs  # The output is N past the last one.
  size = capacity(most, outputs, slots)
  place = _place(to, outputs, size)
  lanes = _lanes(place, of, size, inputs, outputs)
  order = jnp.argsort(jnp.where(to < outputs, of, inputs), stable=True)
  where = place.slot * lanes.indices.shape[1] + place.lane
  of = jnp.where(to < outputs, of, inputs)[order]
  size = capacity(most, inputs, slots)
  place = _place(of, inputs, size)
  by_input = _lanes(place, to[order], size, outputs, inputs)
  slots_ = jnp.zeros(by_input.indices.shape, jnp.int32)
  slots_ = slots_.at[place.slot, place.lane].set(where[order], mode="drop")
  return FanIn(lanes, most, by_input, slots_)


@jax.jit
def values_of(
  kernel: Shaped[Array, "inputs outputs"], fan_in: FanIn
) -> Shaped[Array, "slots lanes"]:
  """Returns the active weights of a kernel; 0 in empty slots."""
  lanes = fan_in.lanes
  taken = kernel.at[lanes.indices, lanes.output_of].get(mode="clip")
  return jnp.where(lanes.filled, taken, jnp.zeros_like(taken))


@jax.jit
def kernel_of(
  values: Shaped[Array, "slots lanes"], fan_in: FanIn
) -> Shaped[Array, "inputs outputs"]:
  """Returns the kernel: exact zeros at inactive weights."""
  lanes = fan_in.lanes
  to = jnp.where(lanes.filled, lanes.output_of, lanes.outputs)
  kernel = jnp.zeros(fan_in.shape, values.dtype)
  return kernel.at[lanes.indices, to].set(values, mode="drop")


def restored(stored: Mapping[str, Any]) -> FanIn:
  """Returns what a checkpoint that was read without its structure holds.

  Args:
    stored: the arrays of a `FanIn` and of its `Lanes`, by the names of their
      attributes.
  """
  lanes, by_input = stored["lanes"], stored["by_input"]
  outputs, inputs = (
    len(arrays["counts"]) - len(arrays["owners"])
    for arrays in (lanes, by_input)
  )
  return FanIn(
    Lanes(**lanes, inputs=inputs, outputs=outputs),
    int(lanes["counts"].sum()),
    Lanes(**by_input, inputs=outputs, outputs=inputs),
    stored["slots"],
  )


@jax.jit
def mask_of(fan_in: FanIn) -> Bool[Array, "inputs outputs"]:
  """Returns the mask of the kernel."""
  return kernel_of(jnp.ones(fan_in.lanes.indices.shape, bool), fan_in)


def _nonzero(flags: Bool[Array, " n"], most: int) -> Int[Array, " most"]:
  """Returns int32[most], the indices of the ones in order, then `n`.

  As `jnp.nonzero`, which writes 8 bytes per flag: here the counts of blocks are
  summed up, and each index is found within its block.
  """
  blocks = jnp.pad(flags, (0, -len(flags) % _BLOCK)).reshape(-1, _BLOCK)
  counts = jnp.sum(blocks, axis=1, dtype=jnp.int32)
  ends = jnp.cumsum(counts)
  number = jnp.arange(most, dtype=jnp.int32)
  block = jnp.searchsorted(ends, number, side="right").astype(jnp.int32)
  before = (ends - counts).at[block].get(mode="clip")
  rank = (number - before).astype(jnp.uint8)
  ones = jnp.cumsum(blocks.at[block].get(mode="clip"), axis=1, dtype=jnp.uint8)
  place = jnp.argmax(ones > rank[:, None], axis=1).astype(jnp.int32)
  found = block * _BLOCK + place
  return jnp.where(block < len(counts), found, len(flags))


class _Place(NamedTuple):
  """Where entries go, int32 each; lane M, which is dropped, for padding."""

  slot: Array
  lane: Array
  counts: Array
  owners: Array


def _place(to: Int[Array, " n"], outputs: int, size: Capacity) -> _Place:
  """Finds slots and lanes for entries that are sorted by output."""
  fan_in = jnp.zeros(outputs, jnp.int32).at[to].add(1, mode="drop")
  start = jnp.cumsum(fan_in) - fan_in
  extra = jnp.maximum(fan_in - 1, 0) // size.slots
  before = jnp.cumsum(extra) - extra
  rank = jnp.arange(len(to), dtype=jnp.int32)
  rank -= start.at[to].get(mode="clip")
  part, slot = rank // size.slots, rank % size.slots
  later = before.at[to].get(mode="clip") + part - 1
  lanes = outputs + size.extra
  lane = jnp.where(part > 0, outputs + later, to)
  lane = jnp.where(to < outputs, lane, lanes).astype(jnp.int32)
  later = jnp.where((part > 0) & (to < outputs), later, size.extra)
  return _Place(
    slot,
    lane,
    jnp.zeros(lanes, jnp.int32).at[lane].add(1, mode="drop"),
    jnp.full(size.extra, outputs, jnp.int32)
    .at[later]
    .set(to.astype(jnp.int32), mode="drop"),
  )


def _lanes(
  place: _Place,
  of: Int[Array, " n"],
  size: Capacity,
  inputs: int,
  outputs: int,
) -> Lanes:
  indices = jnp.zeros((size.slots, len(place.counts)), jnp.int32)
  indices = indices.at[place.slot, place.lane].set(
    of.astype(jnp.int32), mode="drop"
  )
  return Lanes(indices, place.counts, place.owners, inputs, outputs)
