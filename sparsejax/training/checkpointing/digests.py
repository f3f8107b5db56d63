"""Digests: a checksum of an array's bits, independent of its sharding.

A digest is an integer sum that XLA computes on the devices that hold the array,
so it is the same for every sharding and device count, and nothing is gathered
or copied to the host.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def leaf_name(path: tuple[Any, ...]) -> str:
  """Joins a leaf's path with slashes, like `params/dense/kernel`."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def tree_digests(tree: PyTree) -> dict[str, int]:
  """Compute the digest of every leaf; blocks until they are known.

  Args:
    tree: tree of arrays of any dtype, including typed keys.

  Returns:
    Leaf name -> integer in [0, 2^32).
  """
  leaves = jax.tree.leaves_with_path(tree)
  digests = jax.device_get([digest(leaf) for _, leaf in leaves])
  return {
    leaf_name(path): int(value)
    for (path, _), value in zip(leaves, digests, strict=True)
  }


@jax.jit
def digest(array: jax.Array) -> jax.Array:
  """Sum a hash of each element's bits and index, modulo 2^32.

  The hash is a bijection of the bits (murmur3's finalizer), so changing one
  32-bit word always changes the sum; changing several goes unnoticed once in
  2^32. The order of an integer sum does not matter, nor does the sharding.

  Args:
    array: any shape and dtype.

  Returns:
    uint32[].
  """
  bits = _words(array)
  mixed = bits ^ (_flat_index(bits.shape) * jnp.uint32(0x9E3779B1))
  mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)
  mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
  return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)


def _words(array: jax.Array) -> jax.Array:
  """Returns the bits as uint32, with a last axis of 2 for 64-bit elements."""
  if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
    array = jax.random.key_data(array)
  if jnp.iscomplexobj(array):
    array = jnp.stack([array.real, array.imag])
  if array.dtype == jnp.bool_:
    return array.astype(jnp.uint32)
  width = min(jax.dtypes.itemsize_bits(array.dtype), 32)
  words = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{width}"))
  return words.astype(jnp.uint32)


def _flat_index(shape: tuple[int, ...]) -> jax.Array:
  """Returns row-major indices modulo 2^32, without a reshape that gathers."""
  index = jnp.zeros(shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(len(shape))):
    iota = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    index += iota * jnp.uint32(stride % 2**32)
    stride *= shape[axis]
  return index
