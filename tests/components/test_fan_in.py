"""Kernels in lanes: masks and values survive, products equal dense ones."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiers
from hypothesis import given, settings, strategies as st

from sparsejax.components import fan_in, fan_in_product


def kernels(seed, inputs, outputs, sparsity, full=()):
  """Returns a sparse kernel and its mask; some columns may be full."""
  rng = np.random.default_rng(seed)
  mask = rng.random((inputs, outputs)) >= sparsity
  mask[:, list(full)] = True
  kernel = np.where(mask, rng.normal(size=mask.shape), 0)
  return jnp.asarray(kernel, jnp.float32), jnp.asarray(mask)


def normal(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


# Inputs, outputs, batch, sparsity, slots, full columns.
CASES = {
  "small": (7, 5, 3, 0.5, None, ()),
  "more lanes than a chunk": (33, 200, 20, 0.9, 4, (3, 70)),
  "few outputs": (64, 10, 17, 0.2, 4, ()),
  "empty": (5, 9, 2, 1.0, None, ()),
  "one full output": (300, 40, 16, 0.97, 4, (39,)),
  "one output": (40, 1, 20, 0.5, 4, ()),
  "dense": (12, 6, 5, 0.0, 8, ()),
}


@pytest.mark.parametrize("case", tiers.every(2, list(CASES)))
def test_products_and_gradients_equal_dense_ones(case):
  inputs, outputs, batch, sparsity, slots, full = CASES[case]
  kernel, mask = kernels(0, inputs, outputs, sparsity, full)
  x, weight = normal(1, inputs, batch), normal(2, outputs, batch)

  def dense(kernel, x):
    return jnp.sum(jnp.where(mask, kernel, 0).T @ x * weight)

  expected, grads = jax.value_and_grad(dense, (0, 1))(kernel, x)
  active = int(mask.sum())
  for most in (active, active + 5) if full else (active,):
    lanes = fan_in.encode(mask, most, slots=slots)
    values = fan_in.values_of(kernel, lanes)
    np.testing.assert_array_equal(fan_in.kernel_of(values, lanes), kernel)
    np.testing.assert_array_equal(fan_in.mask_of(lanes), mask)

    def sparse(values, x, lanes=lanes):
      return jnp.sum(fan_in_product.product(values, lanes, x) * weight)

    found, (of_values, of_x) = jax.jit(jax.value_and_grad(sparse, (0, 1)))(
      values, x
    )
    close = dict(rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(of_x, grads[1], **close)
    np.testing.assert_allclose(
      fan_in.kernel_of(of_values, lanes), grads[0], **close
    )
    assert not np.asarray(of_values)[~np.asarray(lanes.lanes.filled)].any()


@settings(max_examples=40, deadline=None)
@given(
  st.integers(0, 2**16),
  st.sampled_from([(23, 31), (1, 40), (40, 1)]),
  st.floats(0, 1),
  st.booleans(),
)
def test_any_mask_fits(seed, shape, sparsity, hub):
  kernel, mask = kernels(seed, *shape, sparsity, full=(0,) if hub else ())
  lanes = fan_in.encode(mask, math.prod(shape), slots=4)
  values = fan_in.values_of(kernel, lanes)
  np.testing.assert_array_equal(fan_in.mask_of(lanes), mask)
  np.testing.assert_array_equal(fan_in.kernel_of(values, lanes), kernel)
  assert int(lanes.lanes.filled.sum()) == int(mask.sum())


def test_all_weights_of_one_output_fit_where_random_ones_did():
  """The shapes follow from the count, so that nothing is compiled again."""
  encode = jax.jit(lambda mask: fan_in.encode(mask, 60))
  _, spread = kernels(0, 60, 30, 1.0)
  spread = spread.at[jnp.arange(60), jnp.arange(60) % 30].set(True)
  hub = jnp.zeros((60, 30), bool).at[:, 7].set(True)
  found = [encode(mask) for mask in (spread, hub)]
  assert jax.tree.structure(found[0]) == jax.tree.structure(found[1])
  shapes = [[x.shape for x in jax.tree.leaves(lanes)] for lanes in found]
  assert shapes[0] == shapes[1]
  np.testing.assert_array_equal(fan_in.mask_of(found[1]), hub)
  x = normal(0, 60, 20)
  product = fan_in_product.product(
    fan_in.values_of(jnp.where(hub, 2.0, 0.0), found[1]), found[1], x
  )
  np.testing.assert_allclose(product[7], 2 * x.sum(0), rtol=1e-4, atol=1e-4)
  assert not product[:7].any()


def test_too_many_weights_are_refused():
  mask = jax.ShapeDtypeStruct((2**16, 2**15), bool)
  with pytest.raises(ValueError, match="`mask` must have at most"):
    jax.eval_shape(lambda m: fan_in.encode(m, 10), mask)
