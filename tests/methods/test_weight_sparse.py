"""Weight-sparse training: minima, biases, and what it finds on the digits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.data import digits

SIZES = (64, 64, 10)


def network(key):
  keys = jax.random.split(key, len(SIZES))
  return [
    {
      "kernel": jax.random.normal(k, (n, m)) / np.sqrt(n),
      "bias": jnp.zeros(m),
    }
    for k, n, m in zip(keys, SIZES, SIZES[1:], strict=False)
  ]


def logits(params, x):
  for layer in params[:-1]:
    x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
  return x @ params[-1]["kernel"] + params[-1]["bias"]


def normalized(images):
  images = np.asarray(images, np.float32).reshape(len(images), -1)
  return jnp.asarray(images / images.max() * 2 - 1)


def everything(name, leaf):
  del name, leaf
  return True


def train(method, *, steps, select=None, learning_rate=1e-2):
  """Returns parameters, state and test accuracy after some steps of AdamW."""
  data = digits()
  x, y = normalized(data.train.images), jnp.asarray(data.train.labels)
  tx = sparsejax.sparsify(
    optax.adamw(optax.cosine_decay_schedule(learning_rate, steps)),
    method,
    key=jax.random.key(1),
    select=select,
  )

  def step(carry, key):
    params, state = carry
    chosen = jax.random.randint(key, (64,), 0, len(x))

    def loss(params):
      return optax.softmax_cross_entropy_with_integer_labels(
        logits(params, x[chosen]), y[chosen]
      ).mean()

    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return (optax.apply_updates(params, updates), state), None

  params = network(jax.random.key(0))
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  keys = jax.random.split(jax.random.key(2), steps)
  (params, state), _ = jax.jit(lambda c: jax.lax.scan(step, c, keys))(
    (params, state)
  )
  found = jnp.argmax(logits(params, normalized(data.test.images)), -1)
  accuracy = float(jnp.mean(found == jnp.asarray(data.test.labels)))
  return params, state, accuracy


def test_it_beats_static_masks_at_one_in_32():
  """Both have the same number of active weights in each matrix."""
  sparsity, steps = 31 / 32, 400
  _, state, accuracy = train(
    sparsejax.weight_sparse(sparsity, end_step=200, min_per_neuron=0),
    steps=steps,
  )
  _, other, static = train(
    sparsejax.static(sparsity, distribution=sparsejax.uniform), steps=steps
  )
  assert int(sparsejax.stats(state)["active"]) == int(
    sparsejax.stats(other)["active"]
  )
  assert accuracy > static + 0.1, (accuracy, static)


def test_rows_and_columns_keep_a_minimum_and_biases_are_sparse():
  params, state, _ = train(
    sparsejax.weight_sparse(0.8, end_step=5, min_per_neuron=2),
    steps=8,
    select=everything,
  )
  sparsejax.assert_sparse(params, state)
  for layer in sparsejax.get_masks(state):
    assert layer["kernel"].sum(0).min() >= 2
    assert layer["kernel"].sum(1).min() >= 2
    assert 0 < layer["bias"].sum() < layer["bias"].size
  found = sparsejax.summary(params, state)
  assert found.active == found.requested == int(found.total * 0.2 + 1e-6)


def test_minima_that_need_more_than_the_sparsity_leaves_are_refused():
  tx = sparsejax.sparsify(
    optax.adam(1e-2), sparsejax.weight_sparse(63 / 64, end_step=5)
  )
  with pytest.raises(ValueError, match="sparsity"):
    tx.init(network(jax.random.key(0)))


def test_the_number_of_weights_falls_along_a_line():
  method = sparsejax.weight_sparse(0.8, end_step=8, every_steps=2)
  assert method.prune is not None
  np.testing.assert_allclose(
    method.prune.schedule.sparsities, [0, 0.2, 0.4, 0.6, 0.8]
  )
  due = [int(method.prune.schedule.when(jnp.int32(t))) for t in range(12)]
  assert due[1:] == list(range(1, 12))
