"""Multiply-adds of the papers' networks, and of other traced programs."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax
from oracles import architectures
from oracles.budgets import BUDGETS

from sparsejax.analysis import flops
from sparsejax.components import distributions
from sparsejax.models import MODELS

CIFAR, IMAGENET = (1, 32, 32, 3), (1, 224, 224, 3)


def float32(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


@functools.cache
def network(name, classes, image):
  """Returns the shapes of a built-in model's kernels, and its costs."""
  model = MODELS[name](classes)
  variables = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), float32(*image)
  )
  params = variables.pop("params")
  found = flops.multiply_adds(
    lambda p, x, state: model.apply({"params": p, **state}, x, train=False),
    params,
    float32(*image),
    variables,
  )
  shapes = {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
    for path, leaf in jax.tree.leaves_with_path(params)
  }
  return {name: shapes[name] for name in found.kernels}, found


def ratio(found, sparsities):
  active = math.fsum(
    macs * (1 - sparsities.get(name, 0.0))
    for name, macs in found.kernels.items()
  )
  return (found.others + active) / found.dense


RESNET50 = network("resnet50", 1000, IMAGENET)


# The papers' networks


@pytest.mark.parametrize(
  "name, classes, image, layers",
  [
    ("resnet20", 10, CIFAR, architectures.resnet20()),
    ("resnet50_cifar", 10, CIFAR, architectures.resnet50_cifar(10)),
    ("resnet50_cifar", 100, CIFAR, architectures.resnet50_cifar(100)),
    ("resnet50", 1000, IMAGENET, architectures.resnet50_imagenet()),
    ("vgg19", 10, CIFAR, architectures.vgg19(10)),
    ("vgg19", 100, CIFAR, architectures.vgg19(100)),
    ("mobilenet_v1", 1000, IMAGENET, architectures.mobilenet_v1()),
  ],
)
def test_models_are_the_networks_of_the_worked_numbers(
  name, classes, image, layers
):
  shapes, found = network(name, classes, image)
  assert list(shapes.values()) == [shape for shape, _ in layers.values()]
  assert list(found.kernels.values()) == [
    math.prod(shape) * positions for shape, positions in layers.values()
  ]
  assert found.others == 0


@pytest.mark.parametrize(
  "name, classes, image, macs",
  [
    ("resnet50", 1000, IMAGENET, 4_089_184_256),
    ("resnet50_cifar", 10, CIFAR, 1_297_829_888),
    ("resnet50_cifar", 100, CIFAR, 1_298_014_208),
    ("vgg19", 10, CIFAR, 398_136_320),
    ("vgg19_optg", 10, CIFAR, 398_136_320),
    ("resnet20", 10, CIFAR, 40_813_184),
    ("mobilenet_v1", 1000, IMAGENET, 568_740_352),
    ("resnet50_6n2", 10, CIFAR, 444_433_664),
  ],
)
def test_dense_costs_are_those_of_the_papers(name, classes, image, macs):
  assert network(name, classes, image)[1].dense == macs


def test_costs_of_resnet50_in_flops():
  shapes, found = RESNET50
  assert flops.FLOPS_PER_MAC * found.dense == 8_178_368_512
  backbone = found.dense - found.kernels["classifier/kernel"]
  assert flops.FLOPS_PER_MAC * backbone == 8_174_272_512
  # Typos in Table 10 of GraNet: once half of it, once a neighbor's.
  by_leaf = {name: 2 * macs for name, macs in found.kernels.items()}
  assert by_leaf["stage1_block0/conv1/kernel"] == 25_690_112
  assert by_leaf["stage4_block0/conv3/kernel"] == 102_760_448
  # RigL's counter adds an operation for each output of a layer, and the total
  # of Table 10 the average pooling.
  outputs = sum(
    macs * shape[-1] // math.prod(shape)
    for macs, shape in zip(found.kernels.values(), shapes.values(), strict=True)
  )
  assert outputs == 11_114_984
  assert 2 * found.dense + outputs == 8_189_483_496
  assert 2 * (found.dense + 7 * 7 * 2048) == 8_178_569_216
  run = flops.training([flops.Phase(32_000, found.dense)], dense=found.dense)
  assert flops.FLOPS_PER_MAC * 4096 * run == pytest.approx(3.216e18, rel=5e-4)


@pytest.mark.parametrize(
  "name, expected",
  [
    ("granet", 0.1629),
    ("granet from 0.5", 0.2026),
    ("erk", 0.2422),
    ("str", 0.0838),
    ("snfs", 0.3976),
    ("vd", 0.1939),
    ("gs", 0.1458),
  ],
)
def test_costs_of_the_budgets_that_were_learned(name, expected):
  shapes, found = RESNET50
  percent = dict(zip(shapes, BUDGETS[name], strict=True))
  sparsities = {name: value / 100 for name, value in percent.items()}
  assert ratio(found, sparsities) == pytest.approx(expected, abs=5.1e-5)


def test_erk_reproduces_the_column_of_granets_table_10():
  shapes, found = RESNET50
  sparsities = distributions.erk(shapes, 0.9)
  percent = [100 * sparsity for sparsity in sparsities.values()]
  assert percent == pytest.approx(BUDGETS["erk"], abs=0.5)
  # 90.07 is what the table prints: the mean of the rounded column.
  sizes = [math.prod(shape) for shape in shapes.values()]
  zeros = sum(n * s for n, s in zip(sizes, BUDGETS["erk"], strict=True))
  assert zeros / sum(sizes) == pytest.approx(90.07, abs=0.005)


@pytest.mark.parametrize(
  "name, classes, image, sparsity, expected",
  [
    ("resnet50", 1000, IMAGENET, 0.5, 0.7143),
    ("resnet50", 1000, IMAGENET, 0.8, 0.4138),
    ("resnet50", 1000, IMAGENET, 0.9, 0.2418),
    ("resnet50", 1000, IMAGENET, 0.99, 0.0243),
    ("resnet50_cifar", 10, CIFAR, 0.9, 0.2306),
    ("resnet50_cifar", 100, CIFAR, 0.98, 0.0454),
    ("vgg19", 10, CIFAR, 0.9, 0.2225),
    ("resnet20", 10, CIFAR, 0.9, 0.1773),
  ],
)
def test_inference_under_erk(name, classes, image, sparsity, expected):
  shapes, found = network(name, classes, image)
  erk = distributions.erk(shapes, sparsity)
  assert ratio(found, erk) == pytest.approx(expected, abs=5.1e-5)


@pytest.mark.parametrize(
  "sparsity, stem, expected",
  [(0.9, None, 0.1), (0.9, "stem/kernel", 0.1260), (0.8, "stem*", 0.2231)],
)
def test_inference_under_uniform(sparsity, stem, expected):
  shapes, found = RESNET50
  uniform = distributions.uniform(shapes, sparsity, stem=stem)
  assert ratio(found, uniform) == pytest.approx(expected, abs=5.1e-5)


# Training, method by method


@pytest.mark.parametrize(
  "sparsity, rigl, snfs, static",
  [(0.9, 0.2443, 0.4946, 0.2418), (0.8, 0.4157, 0.6092, 0.4138)],
)
def test_training_under_erk(sparsity, rigl, snfs, static):
  shapes, found = RESNET50
  sparse = ratio(found, distributions.erk(shapes, sparsity))
  # RigL takes 100 steps, then spends one on its mask update.
  cases = {
    rigl: [flops.Phase(101, sparse, dense_gradients=1)],
    snfs: [flops.Phase(1, sparse, dense_gradients=1)],
    static: [flops.Phase(7, sparse)],
  }
  for expected, phases in cases.items():
    steps = sum(phase.steps for phase in phases)
    found = flops.training(phases, dense=1.0) / (3 * steps)
    assert found == pytest.approx(expected, abs=5.1e-5)


@pytest.mark.parametrize("sparsity, expected", [(0.8, 0.5588), (0.9, 0.5037)])
def test_training_with_gradual_pruning_as_rigls_colab_counts_it(
  sparsity, expected
):
  shapes, found = RESNET50
  # Gale's settings at 33 points. The classifier is at 0.8 at all of them, at
  # those too where the network is dense.
  macs = []
  for step in range(0, 32_001, 1000):
    progress = min(max((step - 10_000) / 15_000, 0), 1)
    requested = dict.fromkeys(shapes, sparsity * (1 - (1 - progress) ** 3))
    requested |= {"stem/kernel": 0.0, "classifier/kernel": 0.8}
    macs.append(ratio(found, requested))
  phases = [flops.Phase(1, macs_then) for macs_then in macs]
  run = flops.training(phases, dense=1.0)
  assert run / (3 * 33) == pytest.approx(expected, abs=5.1e-5)


def test_training_with_a_dense_gradient_at_every_step():
  # DPF at 80 %, from the density of gradual pruning: (2 * .56 + 1) / 3.
  run = flops.training([flops.Phase(10, 0.56, dense_gradients=10)], dense=1.0)
  assert run / 30 == pytest.approx(0.707, abs=5e-4)


def test_training_with_granet_uniform_on_eight_intervals():
  densities = [1, 0.4796875, 0.2125, 0.1140625, *[0.1] * 4]
  every, dense = 4000, 1.0
  pruning = [flops.Phase(every, density) for density in densities]
  run = flops.training(pruning, dense=dense) / (3 * 8 * every)
  assert run == pytest.approx(0.27578125, abs=1e-12)
  regrowing = [phase._replace(dense_gradients=1) for phase in pruning]
  extra = flops.training(regrowing, dense=dense) - flops.training(
    pruning, dense=dense
  )
  # E[(f_D - f_S) / every], which is negligible.
  assert extra / (8 * every) == pytest.approx((1 - 0.27578125) / every)


def test_training_of_a_dense_network_costs_three_forward_passes():
  phases = [flops.Phase(3, 5.0), flops.Phase(4, 5.0, dense_gradients=2)]
  assert flops.training(phases, dense=5.0) == 3 * 7 * 5.0


# Operations between a parameter and a product


def kernel_macs(apply, params, *example):
  return flops.multiply_adds(apply, params, *example).kernels


def test_equivalent_products_cost_the_same():
  dense = kernel_macs(lambda p, x: x @ p["w"], {"w": float32(6, 5)}, ROW)
  assert dense == {"w": 30}
  ways = [
    lambda p, x: (p["w"].T @ x.T).T,
    lambda p, x: x @ p["w"].astype(jnp.bfloat16).reshape(3, 2, 5).reshape(6, 5),
    lambda p, x: x @ jnp.where(jnp.arange(30).reshape(6, 5) > 3, p["w"], 0),
    lambda p, x: jnp.einsum("bi,io->bo", x, jax.nn.relu(p["w"])),
    lambda p, x: jax.jit(lambda a, b: a @ b)(x, p["w"]),
    lambda p, x: jax.checkpoint(lambda a, b: a @ b)(x, p["w"]),
    lambda p, x: jax.vmap(lambda row: row @ p["w"])(x),
    lambda p, x: x @ (p["w"] / jnp.linalg.norm(p["w"], axis=0)),
    lambda p, x: custom_vjp(x, p["w"]),
    lambda p, x: lax.fori_loop(0, 3, lambda i, y: y + 1, x @ p["w"]),
  ]
  for way in ways:
    assert kernel_macs(way, {"w": float32(6, 5)}, ROW) == dense


ROW = float32(1, 6)


@jax.custom_vjp
def custom_vjp(x, w):
  return x @ w


custom_vjp.defvjp(
  lambda x, w: (x @ w, (x, w)),
  lambda saved, g: (g @ saved[1].T, saved[0].T @ g),
)


def test_a_kernel_costs_once_per_read():
  square = {"w": float32(6, 6)}
  assert kernel_macs(lambda p, x: x @ p["w"] @ p["w"], square, ROW) == {"w": 72}

  def scanned(p, x):
    return lax.scan(lambda y, _: (y @ p["w"], None), x, length=5)[0]

  assert kernel_macs(scanned, square, ROW) == {"w": 5 * 36}
  stacked = {"w": float32(4, 6, 6), "b": float32(4, 6)}

  def layers(p, x):
    def layer(y, one):
      return y @ one["w"] + one["b"], None

    return lax.scan(layer, x, p)[0]

  assert kernel_macs(layers, stacked, ROW) == {"w": 4 * 36}

  def nested(p, x):
    return lax.fori_loop(0, 3, lambda _, y: layers(p, y), x)

  assert kernel_macs(nested, stacked, ROW) == {"w": 3 * 4 * 36}


def test_a_weight_in_a_loop_carry_is_charged_to_its_leaf():
  def power(p, x):
    def double(carry, _):
      y, w = carry
      return (y @ w, 2 * w), None

    return lax.scan(double, (x, p["w"]), length=3)[0][0]

  assert kernel_macs(power, {"w": float32(6, 6)}, ROW) == {"w": 3 * 36}

  def data_in_its_place(p, x):
    def update(carry, _):
      y, w = carry
      return (y @ w, y.T @ y), None

    return lax.scan(update, (x, p["w"]), length=3)[0][0]

  found = flops.multiply_adds(data_in_its_place, {"w": float32(6, 6)}, ROW)
  assert found == flops.Costs({}, others=3 * (36 + 36))


@pytest.mark.parametrize(
  "options, macs",
  [
    ({}, 8 * 8 * 3 * 3 * 4 * 12),
    ({"strides": 2}, 4 * 4 * 3 * 3 * 4 * 12),
    ({"feature_group_count": 4}, 8 * 8 * 3 * 3 * 1 * 12),
    ({"feature_group_count": 2}, 8 * 8 * 3 * 3 * 2 * 12),
    ({"kernel_dilation": 2}, 8 * 8 * 3 * 3 * 4 * 12),
    ({"padding": "VALID"}, 6 * 6 * 3 * 3 * 4 * 12),
  ],
)
def test_convolutions(options, macs):
  model = nn.Conv(12, (3, 3), use_bias=True, **options)
  assert flax_macs(model, float32(1, 8, 8, 4)) == {"kernel": macs}


def flax_macs(model, *example):
  params = jax.eval_shape(
    lambda *x: model.init(jax.random.key(0), *x)["params"], *example
  )
  return kernel_macs(
    lambda p, *x: model.apply({"params": p}, *x), params, *example
  )


def test_a_transposed_convolution_skips_its_inserted_zeros():
  model = nn.ConvTranspose(12, (2, 2), strides=(2, 2))
  macs = flax_macs(model, float32(1, 8, 8, 4))
  assert macs == {"kernel": 8 * 8 * 2 * 2 * 4 * 12}


def test_a_convolution_by_shifts_costs_the_same():
  shapes, found = network("cnn", 10, CIFAR)
  expected = {"Conv_0/kernel": 32**2, "Conv_1/kernel": 16**2}
  for name, positions in expected.items():
    assert found.kernels[name] == math.prod(shapes[name]) * positions


def test_attention_has_products_without_a_kernel():
  model = nn.MultiHeadDotProductAttention(num_heads=2, deterministic=True)
  rows = float32(1, 7, 8)
  params = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x)["params"], rows
  )
  found = flops.multiply_adds(
    lambda p, x: model.apply({"params": p}, x), params, rows
  )
  assert found.kernels == {
    f"{name}/kernel": 7 * 8 * 8 for name in ("query", "key", "value", "out")
  }
  assert found.others == 2 * 7 * 7 * 8


def test_one_operand_of_several_leaves():
  pair = {"a": float32(6, 2), "b": float32(6, 3)}

  def side_by_side(p, x):
    return x @ jnp.concatenate([p["a"], p["b"]], axis=1)

  assert kernel_macs(side_by_side, pair, ROW) == {"a": 12, "b": 18}
  scaled = {"w": float32(6, 5), "scale": float32(1, 5)}
  found = kernel_macs(lambda p, x: x @ (p["w"] * p["scale"]), scaled, ROW)
  assert found == {"w": 30}
  factors = {"left": float32(6, 2), "right": float32(2, 5)}
  found = kernel_macs(lambda p, x: x @ (p["left"] @ p["right"]), factors, ROW)
  assert sum(found.values()) == 30


def test_a_slice_of_a_leaf_is_charged_to_the_leaf():
  found = kernel_macs(lambda p, x: x @ p["w"][1], {"w": float32(4, 6, 5)}, ROW)
  assert found == {"w": 30}


def test_masks_among_the_parameters_are_constants():
  params = {"w": float32(6, 5), "mask": jax.ShapeDtypeStruct((6, 5), bool)}
  found = kernel_macs(
    lambda p, x: x @ jnp.where(p["mask"], p["w"], 0), params, ROW
  )
  assert found == {"w": 30}


def test_a_lookup_table_costs_nothing_until_it_is_multiplied():
  params = {"table": float32(10, 6)}
  token = jax.ShapeDtypeStruct((1,), jnp.int32)
  assert kernel_macs(lambda p, i: p["table"][i], params, token) == {}
  tied = kernel_macs(lambda p, i: p["table"][i] @ p["table"].T, params, token)
  assert tied == {"table": 60}


def test_the_more_expensive_of_two_branches_counts():
  params = {"w": float32(6, 6), "v": float32(6, 6)}

  def either(p, x):
    return lax.cond(
      x.sum() > 0,
      lambda y: y @ p["w"] @ p["v"],
      lambda y: y @ p["w"],
      x,
    )

  assert kernel_macs(either, params, ROW) == {"w": 36, "v": 36}


def test_a_loop_of_unknown_length_is_refused_where_it_multiplies():
  params = {"w": float32(6, 6)}

  def until_large(p, x):
    return lax.while_loop(lambda y: y.sum() < 9, lambda y: y @ p["w"], x)

  with pytest.raises(ValueError, match="`while` loop.*Use `scan`"):
    flops.multiply_adds(until_large, params, ROW)

  def counted(p, x):
    return x @ lax.while_loop(lambda w: w.sum() < 9, lambda w: w + 1, p["w"])

  assert kernel_macs(counted, params, ROW) == {"w": 36}


def test_a_product_of_another_kind_is_refused():
  params = {"w": float32(2, 6, 5)}
  sizes = jnp.array([1, 1], jnp.int32)

  def experts(p, x):
    return lax.ragged_dot(x, p["w"], sizes)

  with pytest.raises(ValueError, match="product inside `ragged_dot_general`"):
    flops.multiply_adds(experts, params, float32(2, 6))
