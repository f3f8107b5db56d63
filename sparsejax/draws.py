"""Random bits: one key per step, leaf and purpose, one draw per weight."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from sparsejax.base import Key
from sparsejax.packing import Packing
from sparsejax.trees import Layout

_WORD = np.uint32(32)
_TURNS = np.array([[13, 15, 26, 6], [17, 29, 16, 24]], np.uint32)
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

  They are those of `jax.random.bits` with the key of the leaf, whatever the
  packing.

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
  index = jnp.asarray([leaf.index for leaf in layout.leaves])
  keys = jax.vmap(leaf_key, (None, None, 0, None))(key, step, index, purpose)
  words = jax.random.key_data(keys)[leaf_of_layer[packing.layers]]
  found, start = [], 0
  for height, length in packing.rows:
    which = slice(start, start + height)
    start += height
    high, low = words[which, :1], words[which, 1:]
    found.append(_words_of_rows(length, high, low, jnp.asarray(begin[which])))
  return found


def _words_of_rows(length, high, low, begin):
  """Both words of the block cipher at (0, index), one xor the other.

  Written out, for jax.random keeps the words between the rounds in memory,
  where this is one loop over registers, 20 times as fast on a CPU.
  """
  keys = (high, low, high ^ low ^ _PARITY)
  a = jnp.broadcast_to(keys[0], (len(begin), length))
  b = begin + jnp.arange(length, dtype=jnp.uint32) + keys[1]
  for i in range(5):
    for turn in _TURNS[i % 2]:
      a = a + b
      b = a ^ ((b << turn) | (b >> (_WORD - turn)))
    a = a + keys[(i + 1) % 3]
    b = b + keys[(i + 2) % 3] + np.uint32(i + 1)
  return a ^ b
