"""Numbers of OptG, DPF, DNW, Top-KAST, STR and SR-STE, worked by hand.

Every case is judged twice: the oracle by the numbers, and the library.
"""

import math

import numpy as np
import pytest
from oracles import kept, n_of_m, network, optg, pruning, soft_threshold


def float32(*values):
  return np.array(values, np.float32)


def plain_sgd(learning_rate):
  return network.MomentumSGD(learning_rate, momentum=0.0, weight_decay=0.0)


def oracle_steps(build, weights, gradients, learning_rate=1.0):
  """The oracle after one call per gradient, on one sparse leaf."""
  [leaf] = leaves = network.make_leaves({"kernel": weights.reshape(-1, 2)})
  oracle = build(leaves, plain_sgd(learning_rate))
  for gradient in gradients:
    oracle.step([gradient.reshape(-1, 2)])
  return oracle, leaf


def assert_leaf(leaf, *, held, latent, mask):
  np.testing.assert_array_equal(leaf.mask.ravel(), mask)
  np.testing.assert_allclose(leaf.held.ravel(), held, rtol=1e-6)
  np.testing.assert_allclose(leaf.weights.ravel(), latent, rtol=1e-6)


def test_dpf_revives_a_weight_that_learned_while_it_was_off():
  gradients = [float32(0, 0, 0, -4), float32(0, -2, 0, 0)]
  gradual = pruning.Gradual(0.0, 0.5, end_step=2, every=1)
  _, leaf = oracle_steps(
    lambda leaves, sgd: kept.dpf(leaves, sgd, gradual),
    float32(4, 3, 2, 1),
    gradients,
  )
  assert_leaf(leaf, held=[0, 5, 0, 5], latent=[4, 5, 2, 5], mask=[0, 1, 0, 1])


def test_dnw_ranks_after_every_step():
  gradients = [float32(0, 0, -2, 0)]
  _, leaf = oracle_steps(
    lambda leaves, sgd: kept.dnw(leaves, sgd, 0.5),
    float32(3, -2, 1, 0.5),
    gradients,
  )
  assert_leaf(
    leaf, held=[3, 0, 3, 0], latent=[3, -2, 3, 0.5], mask=[1, 0, 1, 0]
  )


def test_top_kast_shrinks_what_only_explores():
  weights = float32(3, 4, 0.6, 0.8, 0.5, 0.1, 0, 0)
  gradients = [float32(0, 0, 0, 0, 9, 9, 9, 9)]
  oracle, leaf = oracle_steps(
    lambda leaves, sgd: kept.TopKAST(
      leaves, sgd, sparsity=0.75, backward_sparsity=0.5, penalty=0.5
    ),
    weights,
    gradients,
    learning_rate=0.1,
  )
  # 0.5 (3, 4) / 5 on A; 0.5 (0.6, 0.8) / (0.25 x 1) on the rest of B.
  assert_leaf(
    leaf,
    held=[2.97, 3.96, 0, 0, 0, 0, 0, 0],
    latent=[2.97, 3.96, 0.48, 0.64, 0.5, 0.1, 0, 0],
    mask=[1, 1, 0, 0, 0, 0, 0, 0],
  )
  backward = oracle.backward["kernel"].ravel()
  np.testing.assert_array_equal(backward, [1, 1, 0, 1, 1, 0, 0, 0])


@pytest.mark.parametrize(
  "group, mask",
  [
    ([0.1, -0.4, 0.3, 0.2], [0, 1, 1, 0]),
    ([0.5, 0.5, -0.5, 0.1], [1, 1, 0, 0]),
  ],
)
def test_two_of_four(group, mask):
  weights = np.stack([float32(*group)] * 2, 1)
  found = n_of_m.largest_of_groups(weights, 2, 4)
  np.testing.assert_array_equal(found, np.stack([mask] * 2, 1))


def test_groups_lie_along_the_input_axis():
  weights = np.zeros((1, 2, 4, 3), np.float32)
  weights[0, 1, 3, 2] = 1.0
  expected = np.zeros(weights.shape, bool)
  expected[:, :, :1] = True
  expected[0, 1, 0, 2], expected[0, 1, 3, 2] = False, True
  np.testing.assert_array_equal(
    n_of_m.largest_of_groups(weights, 1, 4), expected
  )
  assert n_of_m.largest_of_groups(weights, 1, 3).all()  # 4 channels enter.


def test_sr_ste_decays_what_is_off():
  column = float32(0.5, 0.4, 0.3, 0.2)
  [leaf] = leaves = network.make_leaves({"kernel": np.stack([column] * 2, 1)})
  oracle = n_of_m.sr_ste(
    leaves, plain_sgd(1.0), n_of_m.by_groups(2, 4), decay=0.5
  )
  oracle.step([np.stack([float32(0, 0, -0.5, 0)] * 2, 1)])
  assert_leaf(
    leaf,
    held=np.repeat([0.5, 0, 0.65, 0], 2),
    latent=np.repeat([0.5, 0.4, 0.65, 0.1], 2),
    mask=np.repeat([1, 0, 1, 0], 2),
  )


def test_the_soft_threshold_and_its_slopes():
  weights = float32(0.5, -0.003, 0.02, -0.2)
  assert soft_threshold.sigmoid(-5.0) == pytest.approx(0.00669285, abs=5e-9)
  held = [0.493307, 0, 0.013307, -0.193307]
  np.testing.assert_allclose(
    soft_threshold.softened(weights, -5.0), held, atol=5e-7
  )
  through, slope = soft_threshold.slopes(weights, -5.0, float32(1, 2, -1, 0.5))
  np.testing.assert_array_equal(through, [1, 0, -1, 0.5])
  assert slope == pytest.approx(0.00332403, abs=5e-9)


def test_far_below_zero_a_threshold_moves_by_its_decay_alone():
  weights = float32(0.5, -0.003, 0.02, -0.2)
  assert soft_threshold.sigmoid(-3200.0) == 0.0
  _, slope = soft_threshold.slopes(weights, -3200.0, float32(1, 2, -1, 0.5))
  assert slope == 0.0


def test_scores_and_weights_of_optg_move_by_the_gradient_of_the_sparse_net():
  weights, gradient = float32(1, -2, 0.5, 3), float32(0.2, -0.3, 0.4, -0.1)
  [leaf] = leaves = network.make_leaves({"kernel": weights.reshape(2, 2)})
  oracle = optg.OptG(
    leaves,
    plain_sgd(1.0),
    sparsity=0.5,
    epochs=2,
    steps_per_epoch=10,
    learning_rate=lambda t: 0.1 * (1 + math.exp(0.5)),
    momentum=0.0,
  )
  leaf.mask = np.array([[1, 0], [1, 1]], bool)
  oracle.step([gradient.reshape(2, 2)])
  np.testing.assert_allclose(
    oracle.scores["kernel"].ravel(), [-0.02, -0.06, -0.02, 0.03], rtol=1e-6
  )
  assert_leaf(
    leaf,
    held=[0.8, 0, 0.1, 3.1],
    latent=[0.8, -2, 0.1, 3.1],
    mask=[1, 0, 1, 1],
  )


def test_optg_refreshes_in_the_first_call_of_an_epoch():
  # Held still, the scores go along -G w: (-0.2, -0.6, -0.2, 0.3).
  weights, gradient = float32(1, -2, 0.5, 3), float32(0.2, -0.3, 0.4, -0.1)

  def build(leaves, sgd):
    return optg.OptG(
      leaves,
      sgd,
      sparsity=0.5,
      epochs=2,
      steps_per_epoch=2,
      learning_rate=lambda t: 0.1,
    )

  for calls, mask in [(2, [1, 1, 1, 1]), (3, [1, 0, 0, 1])]:
    _, leaf = oracle_steps(build, weights, [gradient] * calls, 0.0)
    assert_leaf(leaf, held=weights * mask, latent=weights, mask=mask)


@pytest.mark.parametrize(
  "k, weights_rate, scores_rate, digits",
  [
    (70, 0.059755, 4.00e-4, 5e-7),
    (75, 0.054901, 4.165e-3, 5e-7),
    (80, 0.05, 0.025, 1e-15),
    (85, 0.045099, 0.04168, 5e-6),
    (120, 0.014645, 0.01464, 5.1e-6),
  ],
)
def test_the_learning_rate_of_the_scores(k, weights_rate, scores_rate, digits):
  found = weights_rate * optg.sigmoid_of_epoch(k, 0.5, 160)
  assert found == pytest.approx(scores_rate, abs=digits)


def test_optg_is_dense_for_half_of_the_run():
  curve = [optg.sigmoid_of_epoch(k, 0.5, 160) for k in range(160)]
  assert np.mean(curve) == pytest.approx(0.497, abs=5e-4)
  rise = 2 * math.log(9)
  for alpha, epochs in [(0.5, 8.8), (1.0, 4.4)]:
    assert rise / alpha == pytest.approx(epochs, abs=0.02)
    for sign, share in [(-1, 0.1), (1, 0.9)]:
      k = 80 + sign * rise / (2 * alpha)
      assert optg.sigmoid_of_epoch(k, alpha, 160) == pytest.approx(share)
