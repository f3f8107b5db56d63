"""Random bits: one key per step, leaf and purpose, 32 bits per weight."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from sparsejax.method import Key, Layout
from sparsejax.selection.packing import Packing

_WORD = np.uint32(32)
_ROTATIONS = np.array([[13, 15, 26, 6], [17, 29, 16, 24]], np.uint32)
_PARITY = np.uint32(0x1BD11BDA)

FIRST_MASKS, PRUNE, REGROW, STEP = 0, 1, 2, 3  # purposes


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

  They are those of `jax.random.bits` with the key of the leaf, in any packing.

  Args:
    layout: the sparse leaves.
    packing: how they are packed.
    key: the typed key of the run.
    step: int32.
    purpose: one of this module.
  """
  by_row = (
    packing.rows is not None
    and str(jax.random.key_impl(key)) == "threefry2x32"
    and jax.threefry_partitionable.value
    and all(leaf.axis in (None, 0) for leaf in layout.leaves)
  )
  if by_row:
    return _bits_of_rows(layout, packing, key, step, purpose)
  return packing.pack(
    [
      jax.random.bits(
        leaf_key(key, step, leaf.index, purpose), leaf.shape, jnp.uint32
      )
      for leaf in layout.leaves
    ]
  )


def _bits_of_rows(layout, packing, key, step, purpose):
  """Threefry of (leaf key, index in the leaf), as `jax.random.bits` has it."""
  leaf_of_layer = np.repeat(
    np.arange(len(layout.leaves)), [x.num_layers for x in layout.leaves]
  )
  first = np.concatenate(
    [
      np.arange(x.num_layers) * np.prod(x.layer_shape, dtype=np.int64)
      for x in layout.leaves
    ]
  )
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

  Written out, for jax.random keeps the words between the rounds in memory,
  where this is one loop over registers, 20 times as fast on a CPU, and takes
  some twenty kernels to compile where this takes one.
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
