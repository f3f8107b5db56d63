"""Bitmasks restore every mask, in an eighth of the bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.selection import bitmasks

SHAPES = ((), (5,), (16,), (7, 7, 3, 64), (1, 1, 64, 32), (100, 3), (3, 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_packing_round_trips(shape):
  mask = np.random.default_rng(0).random(shape) < 0.3
  packed = jax.jit(bitmasks.pack)(jnp.asarray(mask))
  assert packed.shape == bitmasks.packed_shape(shape)
  assert packed.dtype == jnp.uint8
  np.testing.assert_array_equal(bitmasks.unpack(packed, shape), mask)


def test_neighbors_share_a_byte_least_bit_first():
  mask = jnp.array([[1, 0], [0, 0], [1, 1]], bool)
  assert bitmasks.pack(mask).tolist() == [[5, 4]]


def test_kernels_take_an_eighth_of_the_bytes():
  for shape in ((3, 3, 512, 512), (2048, 1000), (1, 1, 64, 256)):
    assert 8 * np.prod(bitmasks.packed_shape(shape)) == np.prod(shape)
