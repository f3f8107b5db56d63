"""Networks whose sparse products run in lanes give the same outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import sparsejax
from sparsejax import models
from sparsejax.components import fan_in, trees
from sparsejax.export import sparse_apply as module
from sparsejax.export.sparse_apply import sparse_apply


def always(kernel, rows):
  del kernel, rows  # Products in lanes, whatever the time.
  return 2.0


class Attention(nn.Module):
  """A layer of a transformer, with projections to several heads."""

  @nn.compact
  def __call__(self, x):
    y = nn.LayerNorm()(x)
    x += nn.MultiHeadDotProductAttention(num_heads=4)(y, y)
    y = nn.gelu(nn.Dense(48)(nn.LayerNorm()(x)))
    return {"out": nn.Dense(16)(y), "hidden": y}


def sparse_params(params, sparsity):
  """Returns parameters whose kernels are random and sparse, and their masks."""
  rng = np.random.default_rng(0)
  masks = jax.tree.map(
    lambda x: (
      jnp.asarray(rng.random(x.shape) >= sparsity)
      if x.ndim > 1
      else optax.MaskedNode()
    ),
    params,
  )
  return params, masks


def transformer():
  model, x = Attention(), jax.random.normal(jax.random.key(0), (3, 5, 16))
  params = model.init(jax.random.key(1), x)["params"]
  return lambda p, x: model.apply({"params": p}, x), params, x


def test_a_transformer_gives_the_same_outputs():
  apply, params, x = transformer()
  params, masks = sparse_params(params, 0.8)
  program = sparse_apply(apply, params, masks, x, gain=always)
  sparse = trees.where(masks, params)
  expected, found = apply(sparse, x), program(x)
  assert found.keys() == expected.keys()
  for key, value in expected.items():
    np.testing.assert_allclose(found[key], value, atol=1e-5)
  assert len(program.products) == 6
  assert {product.rows for product in program.products} == {15}
  assert all(product.in_lanes for product in program.products)
  names = {name for product in program.products for name in product.names}
  assert all(name.endswith("/kernel") for name in names)


def test_it_exports_with_any_batch():
  apply, params, x = transformer()
  params, masks = sparse_params(params, 0.8)
  (batch,) = jax.export.symbolic_shape("batch")
  like = jax.ShapeDtypeStruct((batch, 5, 16), jnp.float32)
  program = sparse_apply(apply, params, masks, like, gain=always)
  exported = jax.export.export(jax.jit(program.apply))(program.weights, like)
  restored = jax.export.deserialize(exported.serialize())
  fixed = sparse_apply(apply, params, masks, x, gain=always)
  for key, value in fixed(x).items():
    found = restored.call(program.weights, x)[key]
    np.testing.assert_allclose(found, value, atol=1e-5)


def test_only_what_is_faster_runs_in_lanes():
  params = {
    "a": jnp.eye(32),
    "b": jnp.eye(32),
    "c": jnp.ones((32, 4)),
    "scale": jnp.full(32, 2.0),
  }

  def apply(params, x):
    hidden = x @ (params["a"] * params["scale"])
    return params["c"].T @ (params["b"].T @ hidden.T)

  asked = []

  def gain(kernel, rows):
    asked.append((kernel.shape, rows))
    return 3.0 if kernel[0, 0] == 2 else 1.05

  x = jax.random.normal(jax.random.key(0), (6, 32))
  program = sparse_apply(apply, params, None, x, gain=gain)
  np.testing.assert_allclose(program(x), apply(params, x), rtol=1e-5)
  assert asked == [((32, 32), 6)] * 2  # The dense kernel is not timed.
  assert [p.names for p in program.products] == [("a", "scale"), ("b",)]
  assert [p.in_lanes for p in program.products] == [True, False]
  assert program.products[0].sparsity == 1 - 1 / 32
  # The scale is part of the kernel, so that only three arrays remain.
  assert sum(w.size for w in program.weights) < 3 * 32 * 32


def test_what_runs_in_a_loop_stays():
  params = {"w": jnp.eye(8)}

  def apply(params, x):
    return jax.lax.fori_loop(0, 3, lambda _, x: x @ params["w"] + 1, x)

  x = jnp.ones((2, 8))
  program = sparse_apply(apply, params, None, x, gain=always)
  assert program.products == ()
  np.testing.assert_allclose(program(x), apply(params, x))


def test_a_timing_is_a_ratio():
  kernel = np.zeros((64, 64), np.float32)
  kernel[0] = 1
  assert 0 < module.measured_gain(kernel, 4) < np.inf


@pytest.mark.parametrize("shape", [(3,), (2, 5)])
def test_sparse_dense_equals_a_dense_layer(shape):
  layer = models.SparseDense(7)
  x = jax.random.normal(jax.random.key(0), (*shape, 9))
  params = layer.init(jax.random.key(1), x)["params"]
  assert jax.tree.map(jnp.shape, params) == {"bias": (7,), "kernel": (9, 7)}
  dense = nn.Dense(7).apply({"params": params}, x)
  np.testing.assert_allclose(layer.apply({"params": params}, x), dense)

  mask = jnp.abs(params["kernel"]) > 0.3
  lanes = fan_in.encode(mask, int(mask.sum()))
  values = fan_in.values_of(params["kernel"], lanes)
  found = layer.apply(
    {"params": params | {"kernel": values}, "masks": {"kernel": lanes}}, x
  )
  kernel = jnp.where(mask, params["kernel"], 0)
  expected = nn.Dense(7).apply({"params": params | {"kernel": kernel}}, x)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_masks_of_a_sparse_state_are_taken():
  params = {"kernel": jnp.ones((30, 20)), "bias": jnp.zeros(20)}
  tx = sparsejax.sparsify(
    optax.sgd(0.1), sparsejax.static(0.9), key=jax.random.key(0)
  )
  state = tx.init(params)
  x = jnp.ones((2, 30))
  program = sparse_apply(
    lambda p, x: x @ p["kernel"] + p["bias"],
    params,  # Dense: the masks decide.
    sparsejax.get_masks(state),
    x,
    gain=always,
  )
  expected = sparsejax.get_masks(state)["kernel"].sum(0)
  np.testing.assert_allclose(program(x)[0], expected)
