"""Which optimizers move each weight by nothing but itself."""

import jax
import jax.numpy as jnp
import optax
import pytest

from sparsejax.updates import inner_state

PARAMS = {"kernel": jnp.ones((8, 6)), "bias": jnp.zeros(6)}


@pytest.mark.parametrize(
  ("inner", "alone"),
  [
    (optax.sgd(0.1), True),
    (optax.sgd(0.1, momentum=0.9, nesterov=True), True),
    (optax.adamw(1e-3), True),
    (optax.adagrad(1e-3), True),  # its first statistics are not 0, but stay
    (optax.rmsprop(1e-3, initial_scale=1.0), False),  # these decay
    (optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), False),
    (optax.chain(optax.clip(1.0), optax.sgd(0.1)), True),
    (optax.adafactor(1e-3, min_dim_size_to_factor=4), False),
    (optax.contrib.muon(1e-3), False),
    (optax.lbfgs(1e-3), False),
    (optax.MultiSteps(optax.adam(1e-3), 2).gradient_transformation(), True),
    (optax.MultiSteps(optax.adam(1e-3), 9).gradient_transformation(), False),
  ],
)
def test_is_elementwise(inner, alone):
  inner = optax.with_extra_args_support(inner)
  assert inner_state.is_elementwise(inner, PARAMS) == alone
  inside = jax.jit(lambda p: p + inner_state.is_elementwise(inner, PARAMS))
  assert int(inside(0)) == alone


def test_is_found_out_under_a_transfer_guard():
  inner = optax.with_extra_args_support(optax.adam(2e-3))
  with jax.transfer_guard("disallow"):
    assert inner_state.is_elementwise(inner, PARAMS)


def test_reset_takes_the_first_value_where_off():
  inner = optax.adagrad(1e-3, initial_accumulator_value=0.25)
  state = inner.init(PARAMS)
  _, state = inner.update(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
  keep = {
    "kernel": jnp.zeros((8, 6), bool).at[0].set(True),
    "bias": optax.MaskedNode(),
  }
  stats = inner_state.reset(inner, state, keep, PARAMS)[0].sum_of_squares
  assert (stats["kernel"][0] == 1.25).all()
  assert (stats["kernel"][1:] == 0.25).all()
  assert (stats["bias"] == 1.25).all()
