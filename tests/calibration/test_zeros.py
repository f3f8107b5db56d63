"""Zeros survive what comes after pruning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import calibrated, tiers

import sparsejax
from sparsejax import calibration


@pytest.fixture(scope="module")
def pruned():
  """Returns apply, a pruned network, and a batch."""
  matrices, batches = calibrated.draw()
  apply, params, _ = calibrated.plain(matrices, True)
  found = sparsejax.prune_with_calibration(
    apply, params, batches, comparison=calibration.n_of_m(2, 4)
  )
  return apply, found, jnp.asarray(batches[0])


def state_of(pruned, inner=None):
  tx = sparsejax.sparsify(
    inner or optax.sgd(0.1), sparsejax.dense(), masks=pruned.masks
  )
  return tx, tx.init(pruned.params)


OPTIMIZERS = {
  "adamw": lambda: optax.adamw(1e-2),
  "muon": lambda: optax.contrib.muon(1e-2),
  "lion": lambda: optax.lion(1e-3),
  "momentum": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
  "adafactor": lambda: optax.adafactor(1e-2),
}


@pytest.mark.parametrize(
  "name", tiers.some(OPTIMIZERS, lambda name: name == "adamw")
)
def test_masked_fine_tuning(pruned, name):
  apply, network, x = pruned
  tx, state = state_of(network, OPTIMIZERS[name]())
  params = network.params

  @jax.jit
  def step(params, state):
    grads = jax.grad(lambda p: jnp.mean((apply(p, x) - 1) ** 2))(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  for _ in range(3):
    params, state = step(params, state)
  sparsejax.assert_sparse(params, state)
  moved = jax.tree.map(
    lambda p, q: bool((p != q).any()), params, network.params
  )
  assert all(jax.tree.leaves(moved))


def test_adapters_merge_under_the_masks(pruned):
  _, network, _ = pruned
  _, state = state_of(network)
  random = np.random.default_rng(0)
  a = random.normal(size=(8, 2)).astype(np.float32)
  b = random.normal(size=(2, 16)).astype(np.float32)
  deltas = {"first": 0.5 * a @ b, "blocks": None, "last": None}
  merged = calibration.merge_adapters(network.params, deltas, network.masks)
  sparsejax.assert_sparse(merged, state)
  want = np.where(
    network.masks["first"], network.params["first"] + 0.5 * a @ b, 0
  )
  np.testing.assert_allclose(merged["first"], want, rtol=1e-6)
  for name in ("blocks", "last"):
    np.testing.assert_array_equal(merged[name], network.params[name])
  by_zeros = calibration.merge_adapters(network.params, deltas)
  np.testing.assert_array_equal(by_zeros["first"], merged["first"])
  with pytest.raises(
    ValueError, match=r"`deltas` must have the shape \(8, 16\)"
  ):
    calibration.merge_adapters(network.params, deltas | {"first": a})


def test_quantized_zeros_stay_zero(pruned):
  _, network, _ = pruned
  _, state = state_of(network)
  quantized = jax.tree.map(calibration.fake_quantize, network.params)
  sparsejax.assert_sparse(quantized, state)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantized_weights_are_integers_times_a_scale(bits):
  random = np.random.default_rng(1)
  weights = random.normal(size=(6, 3)).astype(np.float32)
  weights[:, 2] = 0
  got = np.asarray(calibration.fake_quantize(jnp.asarray(weights), bits=bits))
  most = 2 ** (bits - 1) - 1
  for column, want in zip(got.T[:2], weights.T, strict=False):
    scale = np.abs(want).max() / most
    np.testing.assert_allclose(
      column, np.round(want / scale) * scale, rtol=1e-6
    )
  assert not got[:, 2].any()


def test_gradients_pass_straight_through():
  weights = jnp.array([[0.3, -1.0], [0.0, 0.2]])
  slope = jax.grad(lambda w: jnp.sum(3 * calibration.fake_quantize(w)))(weights)
  np.testing.assert_array_equal(slope, np.full((2, 2), 3.0))
  with pytest.raises(ValueError, match="`bits` must be in"):
    calibration.fake_quantize(weights, bits=1)
