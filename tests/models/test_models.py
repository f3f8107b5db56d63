"""Shapes, parameter counts, initialization and layers of the models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiers

from sparsejax.components import leaves as leaves_lib
from sparsejax.models import MODELS, cnn, layers, mlp, set_mlp
from sparsejax.models.cnn import _convolve
from sparsejax.models.residual_blocks import zero_padding
from sparsejax.models.set_mlp import SReLU

DIGITS = (8, 8, 1)
CIFAR = (32, 32, 3)
IMAGENET = (224, 224, 3)


def image_spec(shape, count=2):
  return jax.ShapeDtypeStruct((count, *shape), jnp.float32)


@functools.cache
def variables(model, shape):
  return jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), image_spec(shape)
  )


def shapes(model, shape=DIGITS):
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
    for path, leaf in jax.tree.leaves_with_path(
      variables(model, shape)["params"]
    )
  }


def test_mlp_on_digits_is_64_256_256_10():
  assert shapes(mlp(10)) == {
    "Dense_0/bias": (256,),
    "Dense_0/kernel": (64, 256),
    "Dense_1/bias": (256,),
    "Dense_1/kernel": (256, 256),
    "Dense_2/bias": (10,),
    "Dense_2/kernel": (256, 10),
  }


def test_cnn_has_a_kernel_for_each_stage():
  found = shapes(cnn(10, channels=(4, 6)))
  assert found["Conv_0/kernel"] == (3, 3, 1, 4)
  assert found["Conv_1/kernel"] == (3, 3, 4, 6)
  assert found["Dense_0/kernel"] == (6, 10)


@pytest.mark.parametrize(
  "name, classes, shape, layers, sparse, parameters",
  [
    ("resnet20", 10, CIFAR, 22, 270_896, 272_474),
    ("resnet50_cifar", 10, CIFAR, 54, 23_467_712, 23_520_832),
    ("resnet50_cifar", 100, CIFAR, 54, 23_652_032, 23_705_152),
    ("resnet50", 1000, IMAGENET, 54, 25_502_912, 25_557_032),
    ("resnet50_6n2", 10, CIFAR, 50, 3_006_560, 3_013_792),
    ("resnet50_6n2", 100, CIFAR, 50, 3_018_080, 3_025_312),
    ("vgg19", 10, CIFAR, 17, 20_024_000, 20_035_018),
    ("vgg19", 100, CIFAR, 17, 20_070_080, 20_081_188),
    ("vgg19_optg", 10, CIFAR, 17, 20_024_000, 20_035_018),
    ("vgg_c", 10, CIFAR, 16, 11_307_712, 11_323_466),
    ("vgg_d", 10, CIFAR, 16, 15_239_872, 15_255_626),
    ("mobilenet_v1", 1000, IMAGENET, 28, 4_209_088, 4_230_976),
    ("set_mlp", 10, CIFAR, 4, 20_328_000, 20_337_010),
  ],
)
def test_parameter_counts_match_the_papers(
  name, classes, shape, layers, sparse, parameters
):
  params = variables(MODELS[name](classes), shape)["params"]
  layout = leaves_lib.layout(params, leaves_lib.select_leaves(params, None))
  assert len(layout.leaves) == layers
  assert sum(layout.sizes) == sparse
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


@pytest.mark.parametrize(
  "name",
  # Transformers: tests/models/test_transformer.py.
  tiers.every(
    3, sorted(set(MODELS) - {"mlp", "cnn", "set_mlp", "transformer", "vit"})
  ),
)
def test_bfloat16_keeps_float32_parameters_and_running_averages(name):
  model = MODELS[name](10, dtype="bfloat16")
  found = variables(model, CIFAR)
  norms = sum(leaf.endswith("/scale") for leaf in shapes(model, CIFAR))
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(found)} == {"float32"}
  traced = jax.make_jaxpr(
    lambda v, x: model.apply(v, x, train=True, mutable="batch_stats")
  )(found, image_spec(CIFAR))
  kernels = [
    eqn.invars[1].aval.dtype
    for eqn in traced.eqns
    if eqn.primitive.name in ("conv_general_dilated", "dot_general")
  ]
  assert set(map(str, kernels)) == {"bfloat16"}
  logits, changed = traced.out_avals[0], traced.out_avals[1:]
  assert logits.dtype == jnp.float32
  assert [str(leaf.dtype) for leaf in changed] == ["float32"] * 2 * norms
  with pytest.raises(ValueError, match="`dtype` must be one of"):
    MODELS[name](10, dtype="float8")


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"transformer"}))
def test_models_return_float32_logits(name):
  model = MODELS[name](7)
  logits = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0],
    image_spec(CIFAR),
  )
  assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_im2col_matches_the_convolution(size, stride):
  x = jax.random.normal(jax.random.key(0), (2, size, size, 3))
  kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
  strides = (stride, stride)
  expected = jax.lax.conv_general_dilated(
    x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  found = _convolve(x, kernel, strides, "SAME")
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ("factory", "name", "value"),
  [
    (mlp, "hidden", ()),
    (mlp, "hidden", (8, 0)),
    (cnn, "channels", (0,)),
    (set_mlp, "hidden", (8, 0)),
  ],
)
def test_invalid_sizes_raise(factory, name, value):
  with pytest.raises(ValueError, match=f"`{name}` must be positive"):
    factory(10, **{name: value})


@pytest.mark.parametrize(
  "init, deviation",
  [
    (layers.kaiming_fan_in, (2 / (9 * 64)) ** 0.5),
    (layers.kaiming_fan_out, (2 / (9 * 128)) ** 0.5),
    (layers.torch_kernel, (1 / 3 / (9 * 64)) ** 0.5),
  ],
)
def test_initializers_match_pytorch(init, deviation):
  kernel = init(jax.random.key(0), (3, 3, 64, 128))
  assert np.std(kernel) == pytest.approx(deviation, rel=0.01)
  if init is layers.torch_kernel:
    assert np.abs(kernel).max() == pytest.approx((9 * 64) ** -0.5, rel=1e-3)


def test_bias_initializer_matches_pytorch():
  bias = layers.torch_bias(64)(jax.random.key(0), (10_000,))
  assert np.abs(bias).max() == pytest.approx(1 / 8, rel=1e-2)
  assert np.abs(bias).max() <= 1 / 8


def test_padding_is_symmetric_at_stride_2():
  x = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0].set(1.0)
  conv = layers.convolution(
    1,
    3,
    stride=2,
    kernel_init=lambda key, shape, dtype: jnp.arange(9.0).reshape(shape),
    dtype=jnp.float32,
    name="conv",
  )
  out, _ = conv.init_with_output(jax.random.key(0), x)
  # The first window is centered on the first pixel, where the kernel is 4.
  assert out[0, :, :, 0].tolist() == [[4.0, 0.0], [0.0, 0.0]]


def test_zero_padding_shortcut_pads_both_sides():
  x = jnp.ones((1, 4, 4, 2))
  out = zero_padding(
    x, 5, 2, train=True, kernel_init=layers.torch_kernel, dtype=jnp.float32
  )
  assert out.shape == (1, 2, 2, 5)
  assert out[0, 0, 0].tolist() == [0, 1, 1, 0, 0]


def test_set_mlp_names_its_layers():
  assert shapes(set_mlp(10, hidden=(6, 5))) == {
    "hidden_0/bias": (6,),
    "hidden_0/kernel": (64, 6),
    "hidden_1/bias": (5,),
    "hidden_1/kernel": (6, 5),
    "output/bias": (10,),
    "output/kernel": (5, 10),
  }
  with_srelu = shapes(set_mlp(10, hidden=(6, 5), activation="srelu"))
  assert with_srelu["srelu_1/a_left"] == (5,)


def test_set_mlp_initializes_like_keras():
  params = set_mlp(10, hidden=(400,), activation="srelu").init(
    jax.random.key(0), jnp.zeros((1, *DIGITS)), train=False
  )["params"]
  kernel, bound = params["hidden_0"]["kernel"], (6 / (64 + 400)) ** 0.5
  assert 0.99 * bound < jnp.abs(kernel).max() <= bound
  assert not params["hidden_0"]["bias"].any()
  unit = params["srelu_0"]
  assert not unit["t_left"].any() and (unit["a_right"] == 1).all()
  for name, top in [("a_left", 1), ("t_right", 5)]:
    assert unit[name].min() >= 0
    assert 0.95 * top < unit[name].max() < top


def test_srelu_on_worked_numbers():
  # Thresholds -1 and -1 + |-3| = 2; slopes 1/2 on the left, 2 on the right.
  params = {"t_left": -1.0, "a_left": 0.5, "t_right": -3.0, "a_right": 2.0}
  params = {name: jnp.full(1, value) for name, value in params.items()}
  x = jnp.array([[-3.0], [-1.0], [0.5], [2.0], [3.0]])
  found = SReLU().apply({"params": params}, x)
  np.testing.assert_array_equal(found, [[-2], [-1], [0.5], [2], [4]])


def test_dropout_rescales_and_is_off_in_evaluation():
  model = set_mlp(3, hidden=(2000,), dropout=0.3)
  x = jnp.ones((1, *DIGITS))
  params = model.init(jax.random.key(0), x, train=False)["params"]
  # Every hidden unit is 1, so a logit counts the units that are kept.
  params["hidden_0"] = {"kernel": jnp.zeros((64, 2000)), "bias": jnp.ones(2000)}
  params["output"] = {"kernel": jnp.ones((2000, 3)), "bias": jnp.zeros(3)}

  def logits(**kwargs):
    return model.apply({"params": params}, x, **kwargs)

  np.testing.assert_array_equal(logits(train=False), [[2000] * 3])
  first, again, other = (
    logits(train=True, rngs={"dropout": jax.random.key(seed)})
    for seed in [0, 0, 1]
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()
  kept = first * 0.7
  np.testing.assert_allclose(kept, np.round(kept), atol=0.1)
  assert abs(kept[0, 0] - 1400) < 5 * (2000 * 0.3 * 0.7) ** 0.5


@pytest.mark.parametrize(
  "argument, value",
  [("dropout", 1.0), ("dropout", -0.1), ("activation", "tanh")],
)
def test_invalid_set_mlp_arguments_raise(argument, value):
  with pytest.raises(ValueError, match=f"`{argument}` must be"):
    set_mlp(10, **{argument: value})
