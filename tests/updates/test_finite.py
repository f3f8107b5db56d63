"""One non-finite number is found anywhere in a tree."""

import jax
import jax.numpy as jnp
import pytest

from sparsejax.updates import finite

DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [5, finite._SMALL + 1])
def test_one_bad_number_is_enough(dtype, size):
  check = jax.jit(finite.all_finite)
  tree = {
    "a": jnp.ones((2, 3), jnp.float32),
    "b": jnp.full(size, -2.0, dtype).at[1].set(-0.0),
    "count": jnp.arange(3),
  }
  assert bool(check(tree))
  for bad in (jnp.inf, -jnp.inf, jnp.nan):
    assert not bool(check({**tree, "b": tree["b"].at[size - 2].set(bad)}))
    assert not bool(check({**tree, "a": tree["a"].at[1, 2].set(bad)}))


def test_the_largest_number_and_an_empty_array_are_finite():
  largest = jnp.finfo(jnp.float32).max
  tree = (jnp.array([largest, -largest, 1e-45]), jnp.zeros((0,)), 1.0)
  assert bool(finite.all_finite(tree))
