"""The papers' worked numbers, and those worked by hand from their rules."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import architectures, network, prune_and_regrow, pruning, ranking

import sparsejax
from sparsejax.components import counts as counting, distributions, schedules

RESNET50 = architectures.resnet50_imagenet()
RESNET50_C10 = architectures.resnet50_cifar(10)
RESNET50_C100 = architectures.resnet50_cifar(100)
VGG19 = architectures.vgg19(10)
RESNET20 = architectures.resnet20()
MOBILENET = architectures.mobilenet_v1()


def erk(layers, density):
  return distributions.erk(architectures.shapes(layers), 1 - density)


def densities(layers, density):
  return {name: 1 - s for name, s in erk(layers, density).items()}


# Sizes and counts


@pytest.mark.parametrize(
  "layers, leaves, size",
  [
    (RESNET50, 54, 25_502_912),
    (RESNET50_C10, 54, 23_467_712),
    (RESNET50_C100, 54, 23_652_032),
    (VGG19, 17, 20_024_000),
    (architectures.vgg19(100), 17, 20_070_080),
    (RESNET20, 22, 270_896),
    (MOBILENET, 28, 4_209_088),
  ],
)
def test_the_shapes_are_those_of_the_papers(layers, leaves, size):
  assert (len(layers), architectures.size(layers)) == (leaves, size)


def test_counts_tolerate_the_last_bit():
  assert int(20_024_000 * (1 - 0.9)) == 2_002_399
  assert counting.requested_count(20_024_000, 0.9) == 2_002_400
  assert 0.55 * 100 > 55
  shares = counting.share(
    jnp.array([100], jnp.int32),
    schedules.constant(0.55),
    jnp.int32(0),
    counting.ceil,
  )
  assert shares.tolist() == [55]


@pytest.mark.parametrize("size", [25_502_912, 23_467_712, 20_024_000, 270_896])
@pytest.mark.parametrize("percent", [0, 50, 80, 90, 95, 98, 99])
def test_counts_of_whole_percents_are_exact(size, percent):
  expected = size * (100 - percent) // 100
  assert counting.requested_count(size, percent / 100) == expected


# Distributions


@pytest.mark.parametrize(
  "density, expected",
  [
    (0.5, [0.777778, 0.291667, 1]),
    (0.2, [0.305556, 0.114583, 0.4125]),
    (0.1, [0.152778, 0.057292, 0.20625]),
  ],
)
def test_erk_of_the_toy(density, expected):
  found = densities(architectures.toy(), density)
  assert list(found.values()) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(
  "density, expected",
  [(0.1, [0.079568, 0.230189, 1]), (0.05, [0.038484, 0.111334, 0.918507])],
)
def test_erk_of_lenet(density, expected):
  found = densities(architectures.lenet_300_100(), density)
  assert list(found.values()) == pytest.approx(expected, abs=5e-7)


def test_erk_of_resnet50_is_the_column_of_granets_table_10():
  percent = {
    (7, 7, 3, 64): 57.997,
    (1, 1, 64, 64): 0,
    (3, 3, 64, 64): 82.266,
    (1, 1, 64, 256): 4.119,
    (1, 1, 256, 64): 4.119,
    (1, 1, 256, 128): 42.531,
    (3, 3, 128, 128): 91.332,
    (1, 1, 128, 512): 52.208,
    (1, 1, 512, 128): 52.208,
    (1, 1, 256, 512): 71.340,
    (1, 1, 512, 256): 71.340,
    (3, 3, 256, 256): 95.715,
    (1, 1, 256, 1024): 76.141,
    (1, 1, 1024, 256): 76.141,
    (1, 1, 512, 1024): 85.689,
    (1, 1, 1024, 512): 85.689,
    (3, 3, 512, 512): 97.870,
    (1, 1, 512, 2048): 88.080,
    (1, 1, 2048, 512): 88.080,
    (1, 1, 1024, 2048): 92.849,
    (2048, 1000): 92.739,
  }
  found = erk(RESNET50, 0.1)
  for name, (shape, _) in RESNET50.items():
    assert 100 * found[name] == pytest.approx(percent[shape], abs=5e-4), name
  size = architectures.size(RESNET50)
  zeros = sum(math.prod(RESNET50[name][0]) * found[name] for name in RESNET50)
  assert zeros / size == pytest.approx(0.9, rel=1e-12)
  classifier = 2048 * 1000
  backbone = zeros - classifier * found["classifier"]
  assert backbone / (size - classifier) == pytest.approx(0.89761, abs=5e-6)


def test_erk_densities_of_resnet50_on_cifar10():
  expected = {
    (3, 3, 3, 64): 1,
    (1, 1, 64, 64): 1,
    (2048, 10): 1,
    (3, 3, 64, 64): 0.171922,
    (1, 1, 64, 256): 0.929536,
    (1, 1, 256, 64): 0.929536,
    (1, 1, 256, 128): 0.557144,
    (3, 3, 128, 128): 0.084037,
    (1, 1, 128, 512): 0.463325,
    (1, 1, 512, 128): 0.463325,
    (1, 1, 256, 512): 0.277850,
    (1, 1, 512, 256): 0.277850,
    (3, 3, 256, 256): 0.041537,
    (1, 1, 256, 1024): 0.231301,
    (1, 1, 1024, 256): 0.231301,
    (1, 1, 512, 1024): 0.138745,
    (1, 1, 1024, 512): 0.138745,
    (3, 3, 512, 512): 0.020648,
    (1, 1, 512, 2048): 0.115560,
    (1, 1, 2048, 512): 0.115560,
    (1, 1, 1024, 2048): 0.069327,
  }
  found = densities(RESNET50_C10, 0.1)
  for name, (shape, _) in RESNET50_C10.items():
    assert found[name] == pytest.approx(expected[shape], abs=5e-7), name
  active = sum(math.prod(RESNET50_C10[name][0]) * found[name] for name in found)
  assert active == pytest.approx(2_346_771.2, rel=1e-12)


def test_erk_densities_and_counts_of_vgg19_on_cifar10():
  found = densities(VGG19, 0.1)
  expected = [1, 0.689393, 0.509328, 0.336980, 0.250805]
  expected += [0.166561] * 3 + [0.124438] + [0.082798] * 7 + [1]
  assert list(found.values()) == pytest.approx(expected, abs=5e-7)
  counts = [1728, 25414, 37552, 49690, 73966, *[98241] * 3, 146793]
  counts += [*[195345] * 7, 5120]
  sizes = [math.prod(shape) for shape, _ in VGG19.values()]
  shares = [d * n for d, n in zip(found.values(), sizes, strict=True)]
  assert [round(share) for share in shares] == counts
  exact = counting.apportion(sizes, [1 - d for d in found.values()], 2_002_400)
  assert sum(exact) == 2_002_400
  np.testing.assert_allclose(exact, counts, rtol=0, atol=1)


def test_erk_densities_of_resnet20():
  found = densities(RESNET20, 0.1)
  expected = {
    (3, 3, 3, 16): 0.982985,
    (3, 3, 16, 16): 0.280151,
    (3, 3, 16, 32): 0.199055,
    (1, 1, 16, 32): 1,
    (3, 3, 32, 32): 0.129017,
    (3, 3, 32, 64): 0.093998,
    (1, 1, 32, 64): 0.812806,
    (3, 3, 64, 64): 0.061744,
    (64, 10): 1,
  }
  for name, (shape, _) in RESNET20.items():
    assert found[name] == pytest.approx(expected[shape], abs=5e-7), name


@pytest.mark.parametrize(
  "layers, density, epsilon, dense",
  [
    (RESNET50, 0.1, 48.786097, {"layer1.0.conv1"}),
    (RESNET50_C10, 0.05, 23.402123, {"classifier"}),
    (RESNET50_C10, 0.02, 9.145105, set()),
    (RESNET50_C10, 0.5, 299.985042, 33),
    (RESNET50_C100, 0.1, 46.072626, {"stem", "layer1.0.conv1"}),
    (RESNET50_C100, 0.05, 23.001996, set()),
    (RESNET50_C100, 0.02, 9.200798, set()),
    (VGG19, 0.1, 189.655199, {"conv0", "classifier"}),
    (VGG19, 0.05, 94.502186, {"conv0", "classifier"}),
    (VGG19, 0.02, 37.410378, {"conv0", "classifier"}),
    (VGG19, 0.5, 991.003565, 6),
    (RESNET20, 0.1, 16.985986, {"blocks.3.shortcut", "fc"}),
    (RESNET20, 0.05, 8.203998, set()),
    (RESNET20, 0.02, 3.281599, set()),
    (RESNET20, 0.5, 101.055258, 11),
    (MOBILENET, 0.2, 62.032323, 16),
    (MOBILENET, 0.1, 29.018871, 15),
  ],
)
def test_erk_factors_and_dense_layers(layers, density, epsilon, dense):
  found = densities(layers, density)
  full = {name for name, d in found.items() if d == 1}
  assert (len(full) if isinstance(dense, int) else full) == dense
  for name, d in found.items():
    if name not in full:
      shape = layers[name][0]
      factor = d * math.prod(shape) / sum(shape)
      assert factor == pytest.approx(epsilon, abs=5e-7)


@pytest.mark.parametrize(
  "layers, sparsity, ratio",
  [
    (RESNET50, 0.5, 0.7143),
    (RESNET50, 0.8, 0.4138),
    (RESNET50, 0.9, 0.2418),
    (RESNET50, 0.95, 0.1217),
    (RESNET50, 0.965, 0.0852),
    (RESNET50, 0.98, 0.0487),
    (RESNET50, 0.99, 0.0243),
    (RESNET50_C10, 0.9, 0.2306),
    (RESNET50_C10, 0.95, 0.1156),
    (RESNET50_C10, 0.98, 0.0452),
    (RESNET50_C10, 0.5, 0.7033),
    (RESNET50_C100, 0.9, 0.2247),
    (RESNET50_C100, 0.95, 0.1136),
    (RESNET50_C100, 0.98, 0.0454),
    (VGG19, 0.9, 0.2225),
    (VGG19, 0.95, 0.1131),
    (VGG19, 0.98, 0.0475),
    (VGG19, 0.5, 0.7314),
    (RESNET20, 0.9, 0.1773),
  ],
)
def test_costs_under_erk(layers, sparsity, ratio):
  found = architectures.cost_ratio(layers, erk(layers, 1 - sparsity))
  assert found == pytest.approx(ratio, abs=5.1e-5)


@pytest.mark.parametrize(
  "sparsity, ratio", [(0.965, 0.1091), (0.95, 0.1438), (0.9, 0.2581)]
)
def test_costs_under_erk_with_a_dense_stem_in_the_budget(sparsity, ratio):
  found = distributions.erk(
    architectures.shapes(RESNET50), sparsity, dense="stem"
  )
  cost = architectures.cost_ratio(RESNET50, found)
  assert cost == pytest.approx(ratio, abs=5.1e-5)


@pytest.mark.parametrize(
  "sparsity, ratio, dense_stem",
  [
    (0.9, 0.1, 0.1260),
    (0.8, 0.2, 0.2231),
    (0.95, 0.05, 0.0774),
    (0.965, 0.035, 0.0628),
  ],
)
def test_costs_under_uniform(sparsity, ratio, dense_stem):
  shapes = architectures.shapes(RESNET50)
  for stem, expected in [(None, ratio), ("stem", dense_stem)]:
    found = distributions.uniform(shapes, sparsity, stem=stem)
    cost = architectures.cost_ratio(RESNET50, found)
    assert cost == pytest.approx(expected, abs=5.1e-5)


@pytest.mark.parametrize(
  "layers, sparsity, expected",
  [
    (RESNET50_C10, 0.9, 0.900087),
    (RESNET50_C10, 0.95, 0.950131),
    (RESNET50_C10, 0.98, 0.980157),
    (RESNET50_C100, 0.9, 0.900873),
    (RESNET50_C100, 0.98, 0.981572),
    (VGG19, 0.9, 0.900026),
    (VGG19, 0.98, 0.980046),
  ],
)
def test_uniform_compensates_for_a_capped_classifier(
  layers, sparsity, expected
):
  found = distributions.uniform(
    architectures.shapes(layers), sparsity, classifier="classifier"
  )
  assert found.pop("classifier") == pytest.approx(0.8)
  assert list(found.values()) == pytest.approx(
    [expected] * len(found), abs=5e-7
  )


def test_epsilon_of_the_set_mlp():
  shapes = {"l1": (3072, 4000), "l2": (4000, 1000), "l3": (1000, 4000)}
  found = distributions.er_epsilon(shapes, 0.0, epsilon=20.0)
  active = {n: (1 - s) * math.prod(shapes[n]) for n, s in found.items()}
  assert 1 - found["l1"] == pytest.approx(0.0115104167, abs=5e-11)
  assert 1 - found["l2"] == pytest.approx(0.025)
  assert active == pytest.approx({"l1": 141_440, "l2": 100_000, "l3": 100_000})
  sizes = [math.prod(shape) for shape in shapes.values()]
  assert counting.requested_count(sizes, list(found.values())) == 341_440


# Schedules


def cubic(initial, final, n):
  ramp = schedules.ramp(initial, final, end_step=n * 10, every_steps=10)
  assert len(ramp.sparsities) == n + 1
  return ramp.sparsities


def test_cubic():
  assert cubic(0.0, 0.9, 4) == pytest.approx(
    [0, 0.5203125, 0.7875, 0.8859375, 0.9], abs=1e-15
  )
  from_half = cubic(0.5, 0.9, 28)
  expected = {
    1: 0.541345,
    4: 0.648105,
    8: 0.754227,
    14: 0.85,
    21: 0.89375,
    27: 0.899982,
    28: 0.9,
  }
  assert {i: from_half[i] for i in expected} == pytest.approx(
    expected, abs=5e-7
  )
  assert cubic(0.0, 0.9, 38)[1] == pytest.approx(0.069199, abs=5e-7)
  assert cubic(0.0, 0.9, 38)[19] == pytest.approx(0.7875)
  assert cubic(0.5, 0.8, 75)[1] == pytest.approx(0.511841, abs=5e-7)
  assert cubic(0.5, 0.8, 75)[18] == pytest.approx(0.668307, abs=5e-7)


@pytest.mark.parametrize(
  "steps_per_epoch, epochs, every, n",
  [
    (352, 80, 1000, 28),
    (352, 110, 1000, 38),
    (391, 80, 1000, 31),
    (391, 110, 1000, 43),
    (10_009, 30, 4000, 75),
  ],
)
def test_update_indices_of_granet(steps_per_epoch, epochs, every, n):
  ramp = schedules.ramp(
    0.0, 0.9, end_step=epochs * steps_per_epoch, every_steps=every
  )
  assert len(ramp.sparsities) - 1 == n
  assert int(ramp.index(jnp.int32(every - 1))) == 0
  assert int(ramp.index(jnp.int32(every))) == 1
  assert int(ramp.index(jnp.int32(n * every))) == n
  assert int(ramp.index(jnp.int32(n * every + 10 * every))) == n


def test_density_of_granet_uniform_averages_over_the_intervals():
  sparsities = cubic(0.0, 0.9, 4)
  densities = [1 - s for s in [*sparsities[:4], *[sparsities[4]] * 4]]
  assert np.mean(densities) == pytest.approx(0.27578125, abs=1e-15)


def fraction_at(fraction, t):
  with jax.enable_x64(True):
    return float(fraction(jnp.float64(t)))


@pytest.mark.parametrize(
  "t, expected",
  [
    (1000, 0.499615),
    (14_080, 0.427509),
    (28_160, 0.2525),
    (42_240, 0.077491),
    (56_320, 0.005),
  ],
)
def test_cosine_of_granet(t, expected):
  found = fraction_at(schedules.cosine(0.5, 56_320, 0.005), t)
  assert found == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(
  "t, expected",
  [
    (0, 0.3),
    (100, 0.299988),
    (6250, 0.256066),
    (12_500, 0.15),
    (18_750, 0.043934),
    (25_000, 0),
  ],
)
def test_cosine_of_rigl(t, expected):
  found = fraction_at(schedules.cosine(0.3, 25_000), t)
  assert found == pytest.approx(expected, abs=5e-7)


def test_constant_fraction():
  assert fraction_at(schedules.constant(0.3), 7) == 0.3


@pytest.mark.parametrize(
  "alpha, expected",
  [
    (
      0.5,
      {
        -10: 0.006024,
        -5: 0.068272,
        -2: 0.242047,
        0: 0.45,
        2: 0.657953,
        5: 0.831728,
        10: 0.893976,
      },
    ),
    (1.0, {-5: 0.006024, -2: 0.107283, 2: 0.792717, 5: 0.893976}),
  ],
)
def test_sigmoid(alpha, expected):
  ramp = schedules.ramp(
    0.0,
    0.9,
    curve=schedules.sigmoid_curve(alpha),
    end_step=1600,
    every_steps=10,
  )
  found = {offset: ramp.sparsities[80 + offset] for offset in expected}
  assert found == pytest.approx(expected, abs=5e-7)
  assert ramp.sparsities[-1] == 0.9


def test_equal_remainders_go_to_the_first_layer():
  shapes = {
    "a": (1, 1, 6, 7),
    "b": (3, 3, 5, 6),
    "c": (6, 7),
    "d": (28, 19),
  }
  # 1.5 (in + out) per position: 19.5, 148.5, 19.5 and 70.5, 258 in total.
  sparsities = distributions.er_epsilon(shapes, 0.0, epsilon=1.5)
  sizes = [math.prod(shape) for shape in shapes.values()]
  total = counting.requested_count(sizes, list(sparsities.values()))
  counts = counting.apportion(sizes, list(sparsities.values()), total)
  assert total == 258
  assert list(counts) == [20, 149, 19, 70]


# Mask updates


def one_update(method, weights, gradients, first_masks=None):
  """Sparse weights and masks after one call whose step moves nothing."""
  params = {f"{i}": jnp.array(w) for i, w in enumerate(weights)}
  if first_masks is not None:
    first_masks = {f"{i}": jnp.array(m) for i, m in enumerate(first_masks)}
  tx = sparsejax.sparsify(
    optax.sgd(0.0, momentum=0.9),
    method,
    key=jax.random.key(0),
    masks=first_masks,
  )
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  grads = {f"{i}": jnp.array(g) for i, g in enumerate(gradients)}
  updates, state = tx.update(grads, state, params)
  params = optax.apply_updates(params, updates)
  return (
    [np.asarray(params[f"{i}"]) for i in range(len(weights))],
    [np.asarray(state.masks[f"{i}"]) for i in range(len(weights))],
  )


def one_oracle_update(events, weights, gradients, first_masks):
  leaves = network.make_leaves({f"{i}": w for i, w in enumerate(weights)})
  for leaf, mask in zip(leaves, first_masks, strict=True):
    leaf.mask = np.array(mask)
  for due, update in events:
    assert due(1)
    update(leaves, gradients, 1)
    for leaf in leaves:
      leaf.reset(~leaf.mask)
  return [leaf.weights for leaf in leaves], [leaf.mask for leaf in leaves]


def float32(*rows):
  return np.array(rows, np.float32)


def bools(*rows):
  return np.array(rows, bool)


def test_one_shot_keeps_the_largest_of_all_leaves():
  weights = [float32([3, -1], [0.5, 0.2]), float32([0.9, -4], [0.1, 0.3])]
  zeros = [np.zeros_like(w) for w in weights]
  dense = [np.ones(w.shape, bool) for w in weights]
  found = [
    one_update(sparsejax.one_shot(0.5, at_step=1), weights, zeros),
    one_oracle_update(pruning.one_shot(0.5, at_step=1), weights, zeros, dense),
  ]
  for sparse_weights, mask in found:
    np.testing.assert_array_equal(mask, [[[1, 1], [0, 0]]] * 2)
    np.testing.assert_array_equal(sparse_weights[0], float32([3, -1], [0, 0]))
    np.testing.assert_array_equal(sparse_weights[1], float32([0.9, -4], [0, 0]))


@pytest.mark.parametrize(("restart", "value"), [(False, -0.1), (True, 0.0)])
def test_prune_and_regrow_of_granet(restart, value):
  weights = [float32([0.9, -0.1, 0.3, 0], [0, -0.5, 0.05, 0])]
  first = [bools([1, 1, 1, 0], [0, 1, 1, 0])]
  gradients = [float32([0.1, 0.8, -0.2, 0.5], [-0.9, 0.05, 0.6, 0.3])]
  times = {"end_step": 1, "every_steps": 1, "total_steps": 1}
  method = sparsejax.granet(
    0.375,
    initial_sparsity=0.375,
    regrow_fraction=0.4,
    final_regrow_fraction=0.4,
    restart=restart,
    **times,
  )
  events = prune_and_regrow.granet(
    pruning.Gradual(0.375, 0.375, end_step=1, every=1),
    total_steps=1,
    first_fraction=0.4,
    last_fraction=0.4,
    key=jax.random.key(0),
  )
  found = [one_update(method, weights, gradients, first)]
  if not restart:
    found.append(one_oracle_update(events, weights, gradients, first))
  for sparse_weights, mask in found:
    np.testing.assert_array_equal(mask, [[[1, 1, 1, 0], [1, 1, 0, 0]]])
    np.testing.assert_array_equal(
      sparse_weights, [float32([0.9, value, 0.3, 0], [0, -0.5, 0, 0])]
    )


def test_set_prunes_the_weights_nearest_to_zero_of_each_sign():
  weights = [float32([-0.8, -0.4, -0.1, 0, 0], [0, 0.2, 0.3, 0.6, 0.9])]
  first = [weights[0] != 0]
  gradients = [np.zeros_like(weights[0])]
  method = sparsejax.sparse_evolution(
    sparsity=0.3, every_steps=1, total_steps=2
  )
  events = prune_and_regrow.sparse_evolution(
    every=1,
    total_steps=2,
    fraction=0.3,
    by_sign=True,
    key=jax.random.key(0),
  )
  survivors = float32([-0.8, -0.4, 0, 0, 0], [0, 0, 0, 0.6, 0.9])
  for sparse_weights, mask in [
    one_update(method, weights, gradients, first),
    one_oracle_update(events, weights, gradients, first),
  ]:
    np.testing.assert_array_equal(sparse_weights, [survivors])
    assert mask[0][survivors != 0].all()
    assert mask[0].sum() == 7


def test_the_counts_that_the_rules_need():
  assert ranking.ceil_tol(0.55 * 100) == 55
  assert ranking.floor_tol(20_024_000 * (1 - 0.9)) == 2_002_400
  assert ranking.largest_remainder([2.5, 2.5, 1.0], [9, 9, 9], 6) == [3, 2, 1]
  assert ranking.largest_remainder([0.4, 0.6, 1.0], [9, 9, 1], 2) == [0, 1, 1]
