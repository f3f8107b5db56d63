"""Resets of the inner state, and which optimizers act elementwise."""

import jax
import jax.numpy as jnp
import optax
import pytest

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
