"""Random bits: one key per step, leaf and purpose, 32 bits per weight."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from sparsejax.method import Key, Layout
from sparsejax.selection.packing import Packing

FIRST_MASKS, PRUNE, REGROW, STEP = 0, 1, 2, 3  # purposes

_WORD = np.uint32(32)
_ROTATIONS = np.array([[13, 15, 26, 6], [17, 29, 16, 24]], np.uint32)
_PARITY = np.uint32(0x1BD11BDA)


def leaf_key(key: Key, step: Any, index: Any, purpose: int) -> Key:
  """Returns the key of one step, one leaf (among all leaves), one purpose."""
  for data in (step, index, purpose):
    key = jax.random.fold_in(key, data)
  return key


def leaf_keys(
  layout: Layout, key: Key | None, step: Any, purpose: int
) -> list[Key | None]:
  """Returns the key of every sparse leaf, None without a key."""
  if key is None:
    return [None] * len(layout.leaves)
  return [leaf_key(key, step, leaf.index, purpose) for leaf in layout.leaves]


def bits(
  layout: Layout, packing: Packing, key: Key, step: Any, purpose: int
) -> list[UInt32[Array, "..."]]:
  """Returns 32 random bits for every weight, packed.

  In every packing they are those of `jax.random.bits` with the leaf's key.
  """
  by_row = (
    packing.rows is not None
    and str(jax.random.key_impl(key)) == "threefry2x32"
    and jax.threefry_partitionable.value
    and all(leaf.axis in (None, 0) for leaf in layout.leaves)
    and all(math.prod(leaf.shape) <= 2**32 for leaf in layout.leaves)
  )
  if by_row:
    return _bits_of_rows(layout, packing, key, step, purpose)
  arrays = []
  for leaf in layout.leaves:
    from_key = leaf_key(key, step, leaf.index, purpose)
    arrays.append(jax.random.bits(from_key, leaf.shape, jnp.uint32))
  return packing.pack(arrays)


def _bits_of_rows(layout, packing, key, step, purpose):
  """Threefry of (leaf key, index in the leaf), as in `jax.random.bits`."""
  counts = [leaf.num_layers for leaf in layout.leaves]
  leaf_of_layer = np.repeat(np.arange(len(counts)), counts)
  slice_of_layer = np.concatenate([np.arange(count) for count in counts])
  first = slice_of_layer * np.asarray(layout.sizes)
  begin = (first[packing.layers] + packing.offsets).astype(np.uint32)[:, None]
  high, low = _leaf_words(layout, key, step, purpose)
  high, low = (w[leaf_of_layer[packing.layers], None] for w in (high, low))
  found, start = [], 0
  for height, length in packing.rows:
    which = slice(start, start + height)
    start += height
    index = jnp.arange(length, dtype=jnp.uint32) + jnp.asarray(begin[which])
    a, b = _threefry(high[which], low[which], np.uint32(0), index)
    found.append(a ^ b)
  return found


def _leaf_words(layout, key, step, purpose):
  """Returns the words of `leaf_key`, uint32[leaves] each."""
  indices = np.array([leaf.index for leaf in layout.leaves], np.uint32)
  words = jax.random.key_data(key)
  words = words[0], words[1]
  for data in (step, jnp.asarray(indices), np.uint32(purpose)):
    words = _threefry(*words, np.uint32(0), jnp.asarray(data, jnp.uint32))
  return words


def _threefry(high, low, a, b):
  """The block cipher Threefry-2x32 of (a, b) under a key, elementwise.

  Written out, because jax.random stores the words in memory between the rounds
  and takes some twenty kernels to compile. This is one kernel, a loop over
  registers, 20 times as fast on a CPU.
  """
  keys = (high, low, high ^ low ^ _PARITY)
  a, b = a + keys[0], b + keys[1]
  for i in range(5):
    for rotation in _ROTATIONS[i % 2]:
      a = a + b
      b = a ^ ((b << rotation) | (b >> (_WORD - rotation)))
    a = a + keys[(i + 1) % 3]
    b = b + keys[(i + 2) % 3] + np.uint32(i + 1)
  return a, b
