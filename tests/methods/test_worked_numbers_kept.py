"""Numbers of OptG, DPF, DNW, Top-KAST, STR and SR-STE, worked by hand.

They check both the library and the oracles that it is compared with elsewhere.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import kept, n_of_m, network, optg, pruning, soft_threshold

import sparsejax


def float32(*values):
  return np.array(values, np.float32)


def plain_sgd(learning_rate):
  return network.MomentumSGD(learning_rate, momentum=0.0, weight_decay=0.0)


class Found(NamedTuple):
  """One layer after some steps of plain SGD, and its implementation."""

  sparse_weights: np.ndarray
  latent: np.ndarray
  mask: np.ndarray
  source: Any


def oracle_steps(build, weights, gradients, *, learning_rate=1.0, mask=None):
  """The oracle's layer after one call per gradient."""
  [leaf] = leaves = network.make_leaves({"kernel": weights})
  oracle = build(leaves, plain_sgd(learning_rate))
  if mask is not None:
    leaf.mask = mask
  for gradient in gradients:
    oracle.step([gradient])
  sparse_weights = (
    oracle.sparse_weights(leaf)
    if hasattr(oracle, "sparse_weights")
    else leaf.sparse_weights
  )
  return Found(sparse_weights, leaf.weights, leaf.mask, oracle)


def library_steps(method, weights, gradients, *, learning_rate=1.0, mask=None):
  """The library's layer after one call per gradient."""
  params = {"kernel": jnp.asarray(weights)}
  masks = None if mask is None else {"kernel": jnp.asarray(mask)}
  tx = sparsejax.sparsify(optax.sgd(learning_rate), method, masks=masks)
  state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
  params = sparsejax.apply_masks(params, state)
  for gradient in gradients:
    grads = {"kernel": jnp.asarray(gradient)}
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
  layer = (params, state.latent, state.masks)
  return Found(*(np.asarray(tree["kernel"]) for tree in layer), state)


def assert_found(found, *, sparse_weights, latent, mask):
  np.testing.assert_array_equal(found.mask.ravel(), mask)
  np.testing.assert_allclose(
    found.sparse_weights.ravel(), sparse_weights, rtol=1e-6, atol=1e-9
  )
  np.testing.assert_allclose(found.latent.ravel(), latent, rtol=1e-6)


def square(*values):
  return float32(*values).reshape(-1, 2)


def test_dpf_revives_a_weight_that_learned_while_inactive():
  weights = square(4, 3, 2, 1)
  gradients = [square(0, 0, 0, -4), square(0, -2, 0, 0)]
  gradual = pruning.Gradual(0.0, 0.5, end_step=2, every=1)
  method = sparsejax.dpf(0.5, end_step=2, every_steps=1)
  for found in [
    oracle_steps(
      lambda leaves, sgd: kept.dpf(leaves, sgd, gradual), weights, gradients
    ),
    library_steps(method, weights, gradients),
  ]:
    assert_found(
      found, sparse_weights=[0, 5, 0, 5], latent=[4, 5, 2, 5], mask=[0, 1, 0, 1]
    )


def test_dpf_follows_the_weights_at_its_final_sparsity():
  weights = square(4, 3, 2, 1)
  gradients = [np.zeros_like(weights), square(0, 0, -3, 0)]
  gradual = pruning.Gradual(0.0, 0.5, end_step=1, every=1)
  method = sparsejax.dpf(0.5, end_step=1, every_steps=1)
  for found in [
    oracle_steps(
      lambda leaves, sgd: kept.dpf(leaves, sgd, gradual), weights, gradients
    ),
    library_steps(method, weights, gradients),
  ]:
    assert_found(
      found, sparse_weights=[4, 0, 5, 0], latent=[4, 3, 5, 1], mask=[1, 0, 1, 0]
    )


def test_dnw_ranks_after_every_step():
  weights, gradients = square(3, -2, 1, 0.5), [square(0, 0, -2, 0)]
  for found in [
    oracle_steps(
      lambda leaves, sgd: kept.dnw(leaves, sgd, 0.5), weights, gradients
    ),
    library_steps(sparsejax.dnw(0.5), weights, gradients),
  ]:
    assert_found(
      found,
      sparse_weights=[3, 0, 3, 0],
      latent=[3, -2, 3, 0.5],
      mask=[1, 0, 1, 0],
    )


def test_top_kast_decays_exploration_weights_more():
  weights = square(3, 4, 0.6, 0.8, 0.5, 0.1, 0, 0)
  gradients = [square(0, 0, 0, 0, 9, 9, 9, 9)]
  sets = {"sparsity": 0.75, "backward_sparsity": 0.5, "penalty": 0.5}
  by_oracle = oracle_steps(
    lambda leaves, sgd: kept.TopKAST(leaves, sgd, **sets),
    weights,
    gradients,
    learning_rate=0.1,
  )
  by_library = library_steps(
    sparsejax.top_kast(**sets), weights, gradients, learning_rate=0.1
  )
  for found, backward in [
    (by_oracle, by_oracle.source.backward),
    (by_library, by_library.source.accumulators["backward"]),
  ]:
    # 0.5 (3, 4) / 5 on A; 0.5 (0.6, 0.8) / (0.25 x 1) on the rest of B.
    assert_found(
      found,
      sparse_weights=[2.97, 3.96, 0, 0, 0, 0, 0, 0],
      latent=[2.97, 3.96, 0.48, 0.64, 0.5, 0.1, 0, 0],
      mask=[1, 1, 0, 0, 0, 0, 0, 0],
    )
    learns = np.asarray(backward["kernel"]).ravel()
    np.testing.assert_array_equal(learns, [1, 1, 0, 1, 1, 0, 0, 0])


def test_top_kast_updates_all_weights_that_it_uses():
  # Budgets of whole weights: (3, 8) are active, and the wider set has (2, 9).
  params = {
    "one": jnp.arange(1.0, 11.0).reshape(5, 2),
    "two": jnp.arange(1.0, 35.0).reshape(17, 2),
  }
  method = sparsejax.top_kast(0.75, backward_sparsity=0.74)
  tx = sparsejax.sparsify(optax.sgd(0.0), method)
  state = jax.jit(tx.init)(params)
  _, after = jax.jit(tx.update)(params, state, params)
  for found in [state, after]:
    assert [int(found.masks[n].sum()) for n in params] == [3, 8]
    assert [int(found.accumulators["backward"][n].sum()) for n in params] == [
      3,
      9,
    ]
    for name in params:
      assert (found.accumulators["backward"][name] | ~found.masks[name]).all()


@pytest.mark.parametrize(
  "group, mask",
  [
    ([0.1, -0.4, 0.3, 0.2], [0, 1, 1, 0]),
    ([0.5, 0.5, -0.5, 0.1], [1, 1, 0, 0]),
  ],
)
def test_two_of_four(group, mask):
  weights = columns(group)
  first = library_steps(sparsejax.sr_ste(n=2, m=4), weights, [])
  for found in [n_of_m.largest_of_groups(weights, 2, 4), first.mask]:
    np.testing.assert_array_equal(found, np.stack([mask] * 2, 1))


def columns(values):
  return np.stack([float32(*values)] * 2, 1)


def test_groups_lie_along_the_input_axis():
  weights = np.zeros((2, 2, 4, 3), np.float32)
  weights[0, 1, 3, 2] = 1.0
  expected = np.zeros(weights.shape, bool)
  expected[:, :, :1] = True
  expected[0, 1, 0, 2], expected[0, 1, 3, 2] = False, True
  for m, mask in [(4, expected), (3, np.ones_like(expected))]:
    first = library_steps(sparsejax.sr_ste(n=1, m=m), weights, [])
    for found in [n_of_m.largest_of_groups(weights, 1, m), first.mask]:
      np.testing.assert_array_equal(found, mask)


def test_sr_ste_decays_inactive_weights():
  weights, gradients = columns([0.5, 0.4, 0.3, 0.2]), [columns([0, 0, -0.5, 0])]
  for found in [
    oracle_steps(
      lambda leaves, sgd: n_of_m.sr_ste(
        leaves, sgd, n_of_m.by_groups(2, 4), decay=0.5
      ),
      weights,
      gradients,
    ),
    library_steps(sparsejax.sr_ste(n=2, m=4, decay=0.5), weights, gradients),
  ]:
    assert_found(
      found,
      sparse_weights=np.repeat([0.5, 0, 0.65, 0], 2),
      latent=np.repeat([0.5, 0.4, 0.65, 0.1], 2),
      mask=np.repeat([1, 0, 1, 0], 2),
    )


def test_the_soft_threshold_and_its_slopes():
  weights = float32(0.5, -0.003, 0.02, -0.2)
  assert soft_threshold.sigmoid(-5.0) == pytest.approx(0.00669285, abs=5e-9)
  sparse_weights = [0.493307, 0, 0.013307, -0.193307]
  np.testing.assert_allclose(
    soft_threshold.softened(weights, -5.0), sparse_weights, atol=5e-7
  )
  through, slope = soft_threshold.slopes(weights, -5.0, float32(1, 2, -1, 0.5))
  np.testing.assert_array_equal(through, [1, 0, -1, 0.5])
  assert slope == pytest.approx(0.00332403, abs=5e-9)


def test_a_step_under_a_soft_threshold():
  # The sparse weights from above; the gradient of s is 0.00332403.
  sparse_weights = square(0.49330715, 0, 0.01330715, -0.19330715)
  gradients = [square(1, 2, -1, 0.5)]
  by_oracle = oracle_steps(
    lambda leaves, sgd: soft_threshold.SoftThreshold(
      leaves, sgd, threshold=-5.0, threshold_sgd=plain_sgd(100.0)
    ),
    sparse_weights,
    gradients,
    learning_rate=0.1,
  )
  by_library = library_steps(
    sparsejax.soft_threshold(
      initial_threshold=-5.0, threshold_tx=optax.sgd(100.0)
    ),
    sparse_weights,
    gradients,
    learning_rate=0.1,
  )
  s = -5.0 - 0.332403
  margin = 1 / (1 + math.exp(-s))
  thresholds = by_library.source.accumulators["threshold"].values
  for found, threshold in [
    (by_oracle, by_oracle.source.thresholds["kernel"].weights),
    (by_library, thresholds["kernel"]),
  ]:
    assert float(threshold) == pytest.approx(s, abs=5e-7)
    np.testing.assert_array_equal(found.mask.ravel(), [1, 0, 1, 1])
    latent = np.array([0.4, 0, 0.12, -0.25])
    np.testing.assert_allclose(found.latent.ravel(), latent, atol=1e-8)
    np.testing.assert_allclose(
      found.sparse_weights.ravel(), latent - margin * np.sign(latent), atol=5e-8
    )


def test_far_below_zero_a_threshold_moves_by_its_decay_alone():
  weights = square(0.5, -0.003, 0.02, -0.2)
  gradients = [square(1, 2, -1, 0.5)]
  assert soft_threshold.sigmoid(-3200.0) == 0.0
  by_library = library_steps(
    sparsejax.soft_threshold(
      initial_threshold=-3200.0,
      threshold_learning_rate=0.5,
      threshold_weight_decay=0.01,
    ),
    weights,
    gradients,
  )
  by_oracle = oracle_steps(
    lambda leaves, sgd: soft_threshold.SoftThreshold(
      leaves,
      sgd,
      threshold=-3200.0,
      threshold_sgd=network.MomentumSGD(0.5, 0.9, 0.01, nesterov=False),
    ),
    weights,
    gradients,
  )
  thresholds = by_library.source.accumulators["threshold"].values
  for found, threshold in [
    (by_oracle, by_oracle.source.thresholds["kernel"].weights),
    (by_library, thresholds["kernel"]),
  ]:
    assert float(threshold) == pytest.approx(-3184.0)  # 3200 (1 - 0.5 x 0.01)
    assert found.mask.all()
    np.testing.assert_array_equal(found.sparse_weights, weights - gradients[0])


def scores_of(found):
  if isinstance(found.source, optg.OptG):
    return found.source.scores["kernel"].ravel()
  return np.asarray(
    found.source.accumulators["scores"].values["kernel"]
  ).ravel()


def test_scores_and_weights_of_optg_move_by_the_gradient_of_the_sparse_net():
  weights = square(1, -2, 0.5, 3)
  gradients = [square(0.2, -0.3, 0.4, -0.1)]
  mask = np.array([[1, 0], [1, 1]], bool)
  length = {"sparsity": 0.5, "epochs": 2, "steps_per_epoch": 10}
  learning_rate = 0.1 * (1 + math.exp(0.5))  # 0.1 in epoch 0
  for found in [
    oracle_steps(
      lambda leaves, sgd: optg.OptG(
        leaves,
        sgd,
        learning_rate=lambda t: learning_rate,
        momentum=0.0,
        **length,
      ),
      weights,
      gradients,
      mask=mask,
    ),
    library_steps(
      sparsejax.optg(
        score_learning_rate=learning_rate, score_momentum=0.0, **length
      ),
      weights,
      gradients,
      mask=mask,
    ),
  ]:
    np.testing.assert_allclose(
      scores_of(found), [-0.02, -0.06, -0.02, 0.03], rtol=1e-6
    )
    assert_found(
      found,
      sparse_weights=[0.8, 0, 0.1, 3.1],
      latent=[0.8, -2, 0.1, 3.1],
      mask=[1, 0, 1, 1],
    )


def test_optg_refreshes_in_the_first_call_of_an_epoch():
  # With fixed weights, the scores move along -G w: (-0.2, -0.6, -0.2, 0.3).
  weights = square(1, -2, 0.5, 3)
  gradient = square(0.2, -0.3, 0.4, -0.1)
  length = {"sparsity": 0.5, "epochs": 2, "steps_per_epoch": 2}
  method = sparsejax.optg(score_learning_rate=0.1, **length)
  for calls, mask in [(2, [1, 1, 1, 1]), (3, [1, 0, 0, 1])]:
    for found in [
      oracle_steps(
        lambda leaves, sgd: optg.OptG(
          leaves, sgd, learning_rate=lambda t: 0.1, **length
        ),
        weights,
        [gradient] * calls,
        learning_rate=0.0,
      ),
      library_steps(method, weights, [gradient] * calls, learning_rate=0.0),
    ]:
      sparse_weights = weights.ravel() * mask
      assert_found(
        found, sparse_weights=sparse_weights, latent=weights.ravel(), mask=mask
      )


@pytest.mark.parametrize(
  "k, learning_rate, score_learning_rate, digits",
  [
    (70, 0.059755, 4.00e-4, 5e-7),
    (75, 0.054901, 4.165e-3, 5e-7),
    (80, 0.05, 0.025, 1e-15),
    (85, 0.045099, 0.04168, 5e-6),
    (120, 0.014645, 0.01464, 5.1e-6),
  ],
)
def test_the_learning_rate_of_the_scores(
  k, learning_rate, score_learning_rate, digits
):
  found = learning_rate * optg.sigmoid_of_epoch(k, 0.5, 160)
  assert found == pytest.approx(score_learning_rate, abs=digits)


def test_optg_is_dense_for_half_of_the_run():
  curve = [optg.sigmoid_of_epoch(k, 0.5, 160) for k in range(160)]
  assert np.mean(curve) == pytest.approx(0.497, abs=5e-4)
  rise = 2 * math.log(9)
  for alpha, epochs in [(0.5, 8.8), (1.0, 4.4)]:
    assert rise / alpha == pytest.approx(epochs, abs=0.02)
    for sign, share in [(-1, 0.1), (1, 0.9)]:
      k = 80 + sign * rise / (2 * alpha)
      assert optg.sigmoid_of_epoch(k, alpha, 160) == pytest.approx(share)
