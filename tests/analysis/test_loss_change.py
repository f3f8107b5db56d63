"""The change of the loss where weights are removed, alone and together."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.analysis import loss_change

PARAMS = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.ones(2)}
REMOVED = {
  "kernel": jnp.array([[True, False], [True, True]]),
  "bias": optax.MaskedNode(),
}


def loss_fn(params):
  """Not additive: products of weights."""
  kernel = params["kernel"]
  return jnp.sum(kernel**2) + kernel[0, 0] * kernel[1, 1] + params["bias"].sum()


def test_by_hand():
  found = loss_change.of_removal(
    loss_fn, PARAMS, REMOVED, sample=9, key=jax.random.key(0)
  )
  # 1 + 4 + .25 + 9 + 3 + 2 = 19.25; without the three, 4 + 2.
  assert found.actual == 6.0 - 19.25
  # g = [[2 + 3, .], [1, 6 + 1]], so -(5 x 1 + 1 x .5 + 7 x 3).
  assert found.first_order == -26.5
  # -(1 + 3), -.25 and -(9 + 3): the product is lost twice.
  assert found.alone == -16.25
  assert found.interaction == 3.0
  assert found.removed == 3


def test_a_sample_estimates_the_sum():
  rng = np.random.default_rng(0)
  params = {"kernel": jnp.asarray(rng.normal(size=(40, 50)), jnp.float32)}
  removed = {"kernel": jnp.asarray(rng.random((40, 50)) < 0.5)}
  loss = lambda p: jnp.sum(jnp.tanh(p["kernel"]) ** 2)  # noqa: E731
  exact = -(np.tanh(np.asarray(params["kernel"], np.float64)) ** 2)
  exact = exact[np.asarray(removed["kernel"])].sum()
  found = loss_change.of_removal(
    loss, params, removed, sample=300, key=jax.random.key(1)
  )
  assert found.actual == pytest.approx(exact, rel=1e-4)
  # An additive loss has no interaction, but for the sample.
  assert found.alone == pytest.approx(exact, rel=0.1)


def test_scores_of_optg_accumulate_the_first_order_changes():
  """Equations 10 and 12: the score is eta times the sum along the way."""
  target = jax.random.normal(jax.random.key(1), (6, 5))
  params = {"kernel": jax.random.normal(jax.random.key(0), (6, 5))}
  method = sparsejax.supermask(
    0.5, score_learning_rate=0.01, score_momentum=0.0
  )
  tx = sparsejax.sparsify(optax.sgd(0.1), method)
  state = tx.init(params)
  latent, first = params, jnp.abs(params["kernel"])
  params = sparsejax.apply_masks(params, state)
  summed = jnp.zeros_like(first)
  for _ in range(20):
    grads = jax.grad(lambda p: jnp.sum((p["kernel"] - target) ** 2))(params)
    summed += loss_change.first_order(latent, grads)["kernel"]
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  scores = state.accumulators["scores"].values["kernel"]
  np.testing.assert_allclose(scores - first, 0.01 * summed, atol=1e-5)


def test_an_empty_set_changes_nothing():
  none = {"kernel": jnp.zeros((2, 2), bool), "bias": optax.MaskedNode()}
  found = loss_change.of_removal(
    loss_fn, PARAMS, none, sample=3, key=jax.random.key(0)
  )
  assert found == loss_change.LossChange(0.0, 0.0, 0.0, 0)


@pytest.mark.parametrize("given", [{"sample": -1}, {"sample": 3}])
def test_what_is_refused(given):
  with pytest.raises(ValueError, match="`sample` must be 0, or"):
    loss_change.of_removal(loss_fn, PARAMS, REMOVED, **given)
