"""Resets of the inner state, and which optimizers act elementwise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.components import leaves
from sparsejax.updates import inner_state

PARAMS = {"kernel": jnp.ones((8, 6)), "bias": jnp.zeros(6)}


@pytest.mark.parametrize(
  ("inner", "elementwise"),
  [
    (optax.sgd(0.1), True),
    (optax.sgd(0.1, momentum=0.9, nesterov=True), True),
    (optax.adamw(1e-3), True),
    (optax.adagrad(1e-3), True),  # its initial state is not 0, but stays
    (optax.rmsprop(1e-3, initial_scale=1.0), False),  # this one decays
    (optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), False),
    (optax.chain(optax.clip(1.0), optax.sgd(0.1)), True),
    (optax.adafactor(1e-3, min_dim_size_to_factor=4), False),
    (optax.contrib.muon(1e-3), False),
    (optax.lbfgs(1e-3), False),
    (optax.MultiSteps(optax.adam(1e-3), 2).gradient_transformation(), True),
    (optax.MultiSteps(optax.adam(1e-3), 9).gradient_transformation(), False),
  ],
)
def test_is_elementwise(inner, elementwise):
  inner = optax.with_extra_args_support(inner)
  assert inner_state.is_elementwise(inner, PARAMS) == elementwise
  inside = jax.jit(lambda p: p + inner_state.is_elementwise(inner, PARAMS))
  assert int(inside(0)) == elementwise


def test_is_elementwise_runs_under_a_transfer_guard():
  inner = optax.with_extra_args_support(optax.adam(2e-3))
  with jax.transfer_guard("disallow"):
    assert inner_state.is_elementwise(inner, PARAMS)


def test_reset_restores_the_initial_value_of_inactive_weights():
  inner = optax.adagrad(1e-3, initial_accumulator_value=0.25)
  state = inner.init(PARAMS)
  _, state = inner.update(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
  keep = {
    "kernel": jnp.zeros((8, 6), bool).at[0].set(True),
    "bias": optax.MaskedNode(),
  }
  sums = inner_state.reset(inner, state, keep, PARAMS)[0].sum_of_squares
  assert (sums["kernel"][0] == 1.25).all()
  assert (sums["kernel"][1:] == 0.25).all()
  assert (sums["bias"] == 1.25).all()


LEAVES = {"a": jnp.ones((2, 3)), "b": jnp.ones(3), "c": jnp.ones((3, 2))}
GRADS = {
  name: jnp.arange(1.0, 1 + x.size).reshape(x.shape)
  for name, x in LEAVES.items()
}


@pytest.mark.parametrize(
  "inner, expected",
  [
    (optax.sgd(0.1, momentum=0.9), lambda g: g),
    (optax.chain(optax.clip(9.0), optax.trace(0.5)), lambda g: g),
    (optax.lion(0.1), lambda g: 0.01 * g),
    # With the second moment, as in the code of SNFS.
    (optax.adam(0.1), lambda g: 0.1 * g / (np.sqrt(0.001 * g**2) + 1e-8)),
    (optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9), lambda g: g),
    (optax.masked(optax.trace(0.9), {"a": 1, "b": 0, "c": 1}), lambda g: g),
    (
      optax.partition(
        {1: optax.sgd(0.1, momentum=0.9), 2: optax.trace(0.5)},
        {"a": 1, "b": 1, "c": 2},
      ),
      lambda g: g,
    ),
  ],
)
def test_momentum_of_any_optimizer(inner, expected):
  layout = leaves.find_layout(LEAVES, None, None)
  _, state = inner.update(GRADS, inner.init(LEAVES), LEAVES)
  found = inner_state.momentum(state, layout)
  for x, name in zip(found, ("a", "c"), strict=True):
    np.testing.assert_allclose(x, expected(np.asarray(GRADS[name])), rtol=1e-5)


@pytest.mark.parametrize("inner", [optax.sgd(0.1), optax.adagrad(0.1)])
def test_an_optimizer_without_momentum_is_refused(inner):
  method = sparsejax.snfs(0.5, every_steps=2, total_steps=8)
  tx = sparsejax.sparsify(inner, method, key=jax.random.key(0))
  with pytest.raises(ValueError, match="got none for a, c"):
    tx.init(LEAVES)
  own = sparsejax.snfs(0.5, every_steps=2, total_steps=8, momentum=0.9)
  sparsejax.sparsify(inner, own, key=jax.random.key(0)).init(LEAVES)


def test_snfs_ends_with_trained_weights():
  # The authors' code updates no masks after the last epoch.
  params = {"kernel": jnp.linspace(-1, 1, 40).reshape(5, 8)}
  method = sparsejax.snfs(0.5, every_steps=10, total_steps=20)
  tx = sparsejax.sparsify(
    optax.sgd(0.1, momentum=0.9), method, key=jax.random.key(0)
  )
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  for step in range(20):
    grads = {"kernel": jax.random.normal(jax.random.key(step), (5, 8))}
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    if step == 9:  # What regrew moves with its momentum at once.
      fresh = sparsejax.get_masks(state)["kernel"] & (params["kernel"] == 0)
      assert fresh.any()
      trace = optax.tree.get(state.inner_state, "trace")["kernel"]
      assert bool((trace[fresh] != 0).all())
  assert int(state.last_update) == 10
  assert int((params["kernel"] != 0).sum()) == 20


def test_the_probe_fits_into_half_precision():
  # Warnings are errors, and so is an overflow.
  for inner in (optax.sgd(0.1, momentum=0.9), optax.adam(0.1)):
    half = jax.tree.map(lambda x: x.astype(jnp.float16), LEAVES)
    inner_state.is_elementwise(optax.with_extra_args_support(inner), half)
