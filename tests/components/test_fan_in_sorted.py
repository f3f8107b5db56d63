"""Products in sorted lanes equal dense ones, and the groups cost least."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from sparsejax.components import fan_in_sorted


def kernel_of(seed, inputs, outputs, sparsity):
  """Returns a random kernel whose sparsity differs between outputs."""
  rng = np.random.default_rng(seed)
  spread = rng.uniform(sparsity, 1, outputs)
  mask = rng.random((inputs, outputs)) >= spread
  return np.where(mask, rng.normal(size=mask.shape), 0).astype(np.float32)


@given(
  seed=st.integers(0, 99),
  shape=st.tuples(st.integers(1, 40), st.integers(1, 200)),
  sparsity=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
  examples=st.sampled_from([1, 12, 32]),
)
@settings(max_examples=4, deadline=None)
def test_products_equal_dense_ones(seed, shape, sparsity, examples):
  kernel = kernel_of(seed, *shape, sparsity)
  lanes = fan_in_sorted.encode(kernel, examples)
  x = jax.random.normal(jax.random.key(seed), (shape[0], 5))
  found = fan_in_sorted.product(lanes, x)
  np.testing.assert_allclose(found, kernel.T @ x, atol=1e-4)
  stored = sum(int((values != 0).sum()) for values in lanes.values)
  assert stored == np.count_nonzero(kernel)


@pytest.mark.parametrize("made_for", [1, 32])
@pytest.mark.parametrize("examples", [1, 9, 30])
def test_any_batch_may_be_multiplied(made_for, examples):
  kernel = kernel_of(0, 50, 130, 0.5)
  lanes = fan_in_sorted.encode(kernel, made_for)
  x = jax.random.normal(jax.random.key(0), (50, examples))
  found = jax.jit(fan_in_sorted.product)(lanes, x)
  np.testing.assert_allclose(found, kernel.T @ x, atol=1e-4)


def test_gradients_equal_dense_ones():
  kernel = kernel_of(0, 30, 20, 0.5)
  lanes = fan_in_sorted.encode(kernel, 4)
  x, weight = (
    jax.random.normal(jax.random.key(i), (n, 4)) for i, n in ((0, 30), (1, 20))
  )

  def weighted(x):
    return (fan_in_sorted.product(lanes, x) * weight).sum()

  np.testing.assert_allclose(jax.grad(weighted)(x), kernel @ weight, atol=1e-4)


@pytest.mark.parametrize(
  "inputs, dtype", [(2**16, jnp.uint16), (2**16 + 1, jnp.int32)]
)
def test_inputs_have_16_bits_where_they_fit(inputs, dtype):
  kernel = np.zeros((inputs, 3), np.float32)
  kernel[-1] = (1, 2, 0)
  lanes = fan_in_sorted.encode(kernel, 2)
  assert {indices.dtype for indices in lanes.indices} == {jnp.dtype(dtype)}
  x = jnp.arange(2.0 * inputs).reshape(inputs, 2)
  expected = np.outer((1, 2, 0), x[-1])
  np.testing.assert_array_equal(fan_in_sorted.product(lanes, x), expected)


def test_the_groups_cost_least():
  rng = np.random.default_rng(0)
  fan_in = -np.sort(-rng.geometric(0.02, 7 * 64 - 5))
  found = fan_in_sorted.groups(fan_in, 4)

  def cost(bounds):
    pairs = itertools.pairwise(bounds)
    return sum(-(-fan_in[a] // 4) * 4 * (b - a + 100) for a, b in pairs)

  inner = range(64, len(fan_in), 64)
  least = min(
    cost((0, *some, len(fan_in)))
    for n in range(len(inner) + 1)
    for some in itertools.combinations(inner, n)
  )
  assert len(found) > 1
  assert cost((0, *(stop for _, _, stop in found))) == least
  for slots, start, stop in found:
    assert slots % 4 == 0 and slots >= fan_in[start:stop].max()
