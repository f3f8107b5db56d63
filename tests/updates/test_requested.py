"""Networks with more weights than an int32 can count."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.components import distributions, leaves, scopes, wide_counts
from sparsejax.components.wide_counts import Limbs, WideCount
from sparsejax.updates import requested

STEPS = {"every_steps": 1, "end_step": 4}


def shapes(**leaves):
  return {
    name: {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}
    for name, shape in leaves.items()
  }


# Shapes alone: layers of fewer than 2^31 weights, stacks of more.
NETWORKS = {
  3_200_000_000: shapes(a=(40_000, 50_000), b=(24_000, 50_000)),
  8_192_000_000: shapes(**{f"block_{i}": (16384, 62500) for i in range(8)}),
  69_501_059_072: shapes(
    down=(80, 28672, 8192),
    gate=(80, 8192, 28672),
    up=(80, 8192, 28672),
    query_and_output=(80, 2, 8192, 8192),
    key_and_value=(80, 2, 8192, 1024),
    unembedding=(8192, 128_000 + 176),
  ),
}
METHODS = {
  "gmp": sparsejax.gmp(0.9, **STEPS),
  "gmp from 0.5": sparsejax.gmp(0.9, initial_sparsity=0.5, **STEPS),
  "granet": sparsejax.granet(0.9, initial_sparsity=0.8, total_steps=8, **STEPS),
  "rigl": sparsejax.rigl(0.9, **STEPS),
  "snfs": sparsejax.snfs(0.9, every_steps=1, total_steps=4),
  "optg": sparsejax.optg(
    0.9, steps_per_epoch=1, epochs=4, score_learning_rate=0.1
  ),
  "top_kast": sparsejax.top_kast(0.9, backward_sparsity=0.7),
}


def transform(method, **kwargs):
  return sparsejax.sparsify(
    optax.sgd(0.1, momentum=0.9),
    method,
    key=jax.random.key(0),
    sharded=True,
    **kwargs,
  )


def traced(method, params, **kwargs):
  """Returns the state that an update of shapes leads to."""
  tx = transform(method, **kwargs)
  state = jax.eval_shape(tx.init, params)
  _, after = jax.eval_shape(tx.update, params, state, params)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert all(
    x.shape == y.shape and x.dtype == y.dtype
    for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True)
  )
  return after


@pytest.mark.parametrize(
  ("size", "name"),
  [
    (3_200_000_000, "gmp from 0.5"),
    (8_192_000_000, "granet"),
    (69_501_059_072, "granet"),
    (69_501_059_072, "optg"),
    (69_501_059_072, "top_kast"),
    *(
      pytest.param(size, name, marks=pytest.mark.slow)
      for size in NETWORKS
      for name in METHODS
    ),
  ],
)
def test_shapes_of_any_size_are_initialized_and_updated(size, name):
  params = NETWORKS[size]
  assert sum(x.size for x in jax.tree.leaves(params)) == size
  state = traced(METHODS[name], params)
  assert isinstance(state.requested, WideCount)
  stack_is_a_layer = max(x.size for x in jax.tree.leaves(params)) >= 2**31
  assert isinstance(state.changes, WideCount) == stack_is_a_layer
  found = jax.eval_shape(sparsejax.stats, state)
  assert found["active"].high.shape == () and found["step"].dtype == jnp.int32


def test_requested_counts_beyond_an_int32_are_exact():
  params = NETWORKS[69_501_059_072]
  layout = leaves.find_layout(params, None, None)
  method = sparsejax.gmp(0.9, initial_sparsity=0.5, **STEPS)
  for numbers, sparsity in (
    (requested.first_requested(method, layout), 0.5),
    (requested.requested_table(method, layout)[-1], 0.9),
  ):
    want = math.floor(69_501_059_072 * (1 - sparsity) + 1e-6)
    assert np.maximum(numbers, 0).sum() == want
    found = requested.on_device(method, layout, numbers)
    assert np.asarray(found).tolist() == numbers.tolist()
    positive = wide_counts.maximum(found, 0)
    assert int(wide_counts.total(positive, Limbs())) == want


def test_slices_of_a_stack_are_layers_that_an_int32_counts():
  stack = shapes(a=(8, 16384, 62500))
  scope = scopes.layerwise(distributions.uniform)
  state = traced(
    sparsejax.gmp(0.9, scope=scope, **STEPS),
    stack,
    overrides={"a/kernel": sparsejax.Override(axis=0)},
  )
  assert state.requested.shape == (9,)
  assert state.changes.dtype == jnp.int32


SMALL = {
  "a": {"kernel": (6, 10), "bias": (10,)},
  "b": {"kernel": (3, 5, 8)},
  "c": {"kernel": (9, 7)},
}
SMALL_METHODS = {
  "gmp": sparsejax.gmp(0.8, initial_sparsity=0.4, end_step=3, every_steps=1),
  "granet": sparsejax.granet(
    0.8, initial_sparsity=0.4, end_step=3, every_steps=1, total_steps=4
  ),
  "gmp_kept": sparsejax.gmp(
    0.8, end_step=3, every_steps=1, storage=sparsejax.kept
  ),
  "snfs": sparsejax.snfs(0.7, every_steps=1, total_steps=4),
  "rigl": sparsejax.rigl(0.8, end_step=4, every_steps=1),
  "accset": sparsejax.accset(sparsity=0.6, steps_per_epoch=1, total_steps=4),
  "dsr": sparsejax.dsr(
    0.6, every_steps=1, end_step=4, prune_count=9, threshold=0.2
  ),
  "deep_r": sparsejax.deep_r(0.6, noise=1e-2),
  "optg": sparsejax.optg(
    0.8, steps_per_epoch=1, epochs=4, score_learning_rate=0.1
  ),
  "n of m": sparsejax.granet(
    0.5,
    end_step=3,
    every_steps=1,
    total_steps=4,
    granularity=sparsejax.n_of_m(1, 2),
  ),
  "at least": sparsejax.rigl(
    0.6, end_step=4, every_steps=1, granularity=sparsejax.at_least(rows=1)
  ),
  "alive": sparsejax.gmp(
    0.8,
    initial_sparsity=0.3,
    end_step=3,
    every_steps=1,
    scope=sparsejax.keep_alive(sparsejax.global_scope, 2),
  ),
}


def trained(method):
  """Returns the masks, counts and statistics of three steps."""
  rng = np.random.default_rng(0)
  # Rounded, so that many scores tie.
  params = {
    block: {
      name: jnp.asarray(rng.normal(size=shape).round(1), jnp.float32)
      for name, shape in leaves.items()
    }
    for block, leaves in SMALL.items()
  }
  overrides = {"b/*": sparsejax.Override(axis=0)}
  tx = sparsejax.sparsify(
    optax.sgd(0.05, momentum=0.9),
    method,
    key=jax.random.key(1),
    overrides=overrides,
  )
  state = tx.init(params)
  params, found = sparsejax.apply_masks(params, state), []
  update = jax.jit(tx.update)
  metric = {} if method.metric is None else {"metric": 0.5}
  for _ in range(3):
    grads = jax.tree.map(lambda p: jnp.round(jnp.sin(9 * p), 1), params)
    updates, state = update(grads, state, params, **metric)
    params = optax.apply_updates(params, updates)
    found.append(jax.tree.map(np.asarray, sparsejax.get_masks(state)))
    found.append([np.asarray(state.requested), np.asarray(state.changes)])
    found.append({k: int(x) for k, x in sparsejax.stats(state).items()})
  counted = sparsejax.summary(params, state)
  sparsejax.assert_sparse(params, state)
  return found, counted


@pytest.fixture
def limbs_of_six_bits(monkeypatch):
  """Divides counts from 41 on, as if an int32 ended at 40."""

  def divide():
    jax.clear_caches()
    monkeypatch.setattr(wide_counts, "LIMBS", Limbs(bits=6, most=40))

  yield divide
  jax.clear_caches()


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_METHODS)
def test_two_limbs_train_as_an_int32_does(name, limbs_of_six_bits):
  method = SMALL_METHODS[name]
  narrow, counted = trained(method)
  limbs_of_six_bits()
  wide, counted_wide = trained(method)
  jax.tree.map(np.testing.assert_array_equal, wide, narrow)
  assert counted_wide == counted
