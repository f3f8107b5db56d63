"""Networks with more weights than counts on the device can hold."""

import jax
import jax.numpy as jnp
import optax
import pytest

import sparsejax
from sparsejax.components import distributions, scopes

# 8 billion weights, in layers of fewer than 2^31: shapes, no arrays.
HUGE = {
  f"block_{i}": {"kernel": jax.ShapeDtypeStruct((16384, 62500), jnp.float32)}
  for i in range(8)
}
STACK = {"kernel": jax.ShapeDtypeStruct((8, 16384, 62500), jnp.float32)}
STEPS = {"every_steps": 1, "end_step": 4}


def transform(method, **kwargs):
  return sparsejax.sparsify(
    optax.sgd(0.1, momentum=0.9),
    method,
    key=jax.random.key(0),
    sharded=True,
    **kwargs,
  )


@pytest.mark.parametrize(
  "method",
  [
    sparsejax.gmp(0.9, **STEPS),
    sparsejax.gmp(0.9, initial_sparsity=0.5, **STEPS),
    sparsejax.granet(0.9, initial_sparsity=0.8, total_steps=8, **STEPS),
  ],
  ids=["gmp", "gmp from 0.5", "granet"],
)
def test_too_many_weights_that_compete_are_refused_at_init(method):
  message = "`scope` lets 8192000000 weights of 8 layers compete; counts on"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(transform(method).init, HUGE)


def test_a_stack_that_is_one_layer_is_refused_and_its_slices_are_not():
  scope = scopes.layerwise(distributions.uniform)
  method = sparsejax.gmp(0.9, scope=scope, **STEPS)
  message = "8192000000 weights of 1 layers compete.*Override\\(axis="
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(transform(method).init, STACK)
  by_slice = {"kernel": sparsejax.Override(axis=0)}
  state = jax.eval_shape(transform(method, overrides=by_slice).init, STACK)
  assert state.requested.shape == (9,)


def test_layers_that_compete_by_themselves_may_be_more_together():
  tx = transform(sparsejax.rigl(0.9, **STEPS))
  state = jax.eval_shape(tx.init, HUGE)
  jax.eval_shape(tx.update, HUGE, state, HUGE)


def test_weights_that_move_between_layers_are_refused():
  tx = transform(sparsejax.snfs(0.9, every_steps=1, total_steps=4))
  state = jax.eval_shape(tx.init, HUGE)
  with pytest.raises(ValueError, match="8192000000 sparse weights that move"):
    jax.eval_shape(tx.update, HUGE, state, HUGE)


def test_stats_are_refused_and_say_what_counts():
  state = jax.eval_shape(transform(sparsejax.static(0.9)).init, HUGE)
  with pytest.raises(ValueError, match="Use `summary`, on the host"):
    jax.eval_shape(sparsejax.stats, state)
