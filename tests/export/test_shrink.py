"""Smaller networks have the outputs of the masked ones, and the right sizes."""

import equinox as eqx
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import dead_channels, networks, tiers
from jax import lax

from sparsejax.analysis import coupling
from sparsejax.export import shrink
from sparsejax.models import MODELS, resized


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def images(*shape, seed=0):
  return jnp.asarray(random(*shape, seed=seed))  # Models refuse numpy arrays.


def check(apply, variables, x, *, fraction=0.5, seed=0):
  """Shrinks a network with random dead groups; returns the result."""
  groups = coupling.coupling(apply, variables, x)
  masked, dead = dead_channels.kill(
    groups, variables, fraction=fraction, seed=seed
  )
  small = shrink.shrink(apply, masked, None, x)
  assert small.report.difference <= shrink.TOLERANCE
  return small, dead, masked


def built_in(name, image, classes=10, **options):
  model = MODELS[name](classes, **options)

  def apply(variables, x):
    return model.apply(variables, x, train=False)

  x = images(*image)
  variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(
    x
  )
  return apply, dead_channels.with_random_norms(variables), x


@pytest.mark.parametrize(
  "name, image, options",
  tiers.some(
    [
      ("mlp", (1, 8, 8, 1), {}),
      ("cnn", (1, 8, 8, 1), {}),
      ("set_mlp", (1, 8, 8, 1), {"hidden": (40, 30), "activation": "srelu"}),
      ("resnet20", (1, 32, 32, 3), {}),
      ("vgg_c", (1, 32, 32, 3), {}),
      ("vgg19", (1, 32, 32, 3), {}),
      ("mobilenet_v1", (1, 64, 64, 3), {}),
      ("resnet50", (1, 64, 64, 3), {}),
      ("resnet50_6n2", (1, 32, 32, 3), {}),
    ],
    lambda case: case[0] in ("mlp", "cnn", "set_mlp"),
  ),
)
def test_all_dead_channels_of_built_in_models_are_removed(name, image, options):
  small, dead, masked = check(*built_in(name, image, **options))
  module, x = MODELS[name](10, **options), images(2, *image[1:])
  found = resized.apply(module, small.params, x, train=False)
  expected = module.apply(masked, x, train=False)
  # Shortcuts of zeros are as wide as the module's code says, so that channels
  # meet others: an export notices, and says to load the program instead.
  fits = shrink.difference(expected, found) <= shrink.TOLERANCE
  assert fits == (name != "resnet50_6n2")
  assert small.report.removed == dead.sum()
  assert not small.report.unknown


def resnet20_by_hand(streams, inner):
  """Returns parameters and multiply-adds of ResNet-20 with these widths."""
  parameters = macs = 0

  def conv(rows, size, inputs, outputs):
    nonlocal parameters, macs
    parameters += size * size * inputs * outputs + 2 * outputs  # With norm.
    macs += rows * rows * size * size * inputs * outputs

  conv(32, 3, 3, streams[0])
  before = streams[0]
  for stage, (rows, stream) in enumerate(
    zip((32, 16, 8), streams, strict=True)
  ):
    for block in range(3):
      width = inner[3 * stage + block]
      conv(rows, 3, before, width)
      conv(rows, 3, width, stream)
      if stage and not block:
        conv(rows, 1, before, stream)
      before = stream
  return parameters + 10 * before + 10, macs + 10 * before


def test_resnet20_has_the_size_that_is_counted_by_hand():
  assert resnet20_by_hand((16, 32, 64), [16] * 3 + [32] * 3 + [64] * 3) == (
    272_474,
    40_813_184,
  )
  small, _, _ = check(*built_in("resnet20", (1, 32, 32, 3)))
  params = small.params["params"]
  streams = [
    params[f"stage{stage}_block0"]["conv2"]["kernel"].shape[3]
    for stage in (1, 2, 3)
  ]
  inner = [
    params[f"stage{stage}_block{block}"]["conv1"]["kernel"].shape[3]
    for stage in (1, 2, 3)
    for block in range(3)
  ]
  assert sum(streams) + sum(inner) < 0.6 * 448
  assert small.report.after == resnet20_by_hand(streams, inner)
  assert small.report.before == (272_474, 40_813_184)


def test_other_batch_sizes_and_the_gradient():
  apply, variables, x = built_in("cnn", (1, 8, 8, 1), channels=(4, 6))
  small, _, masked = check(apply, variables, x)
  batch = images(5, 8, 8, 1, seed=1)
  np.testing.assert_allclose(
    small.apply(small.params, batch), apply(masked, batch), atol=1e-5
  )
  grads = jax.grad(lambda p: small.apply(p, batch).sum())(small.params)
  assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, small.params)


def test_nnx():
  class Network(nnx.Module):
    def __init__(self, rngs):
      self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
      self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
      self.dense = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
      return self.dense(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))

  graph, state = nnx.split(Network(nnx.Rngs(0)))
  small, dead, _ = check(
    lambda state, x: nnx.merge(graph, state)(x), state, random(1, 6, 6, 3)
  )
  assert small.report.removed == dead.sum() > 0


def test_equinox():
  model = eqx.nn.MLP(4, 3, 16, 2, key=jax.random.key(0))
  params, static = eqx.partition(model, eqx.is_array)
  small, dead, _ = check(
    lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, random(2, 4)
  )
  assert small.report.removed == dead.sum() > 0
  assert isinstance(small.params, eqx.nn.MLP)


def test_transformer_blocks_lose_heads_and_their_channels():
  model = networks.Block()
  x = random(1, 5, 12)
  variables = model.init(jax.random.key(0), x)
  small, dead, _ = check(model.apply, variables, x)
  assert small.report.removed == dead.sum() > 20
  assert not small.report.unknown


def test_stacked_layers_of_a_scan():
  params = {
    "up": random(3, 4, 16),
    "bias": random(3, 16),
    "down": random(3, 16, 4),
  }

  def apply(p, x):
    def layer(x, p):
      return x + jnp.tanh(x @ p["up"] + p["bias"]) @ p["down"], x[:, 0]

    return lax.scan(layer, x, p, reverse=True)

  small, dead, _ = check(apply, params, random(2, 4))
  assert small.report.removed == dead.sum() > 0
  # A channel that lives in one layer lives.
  params["up"][:2, :, :] = params["bias"][:2] = 0
  assert shrink.shrink(apply, params, None, random(2, 4)).report.removed == 0


def test_a_bias_that_a_relu_cuts_off_contributes_nothing():
  params = {
    "a": random(4, 3),
    "bias": np.float32([1, -1, 1]),
    "b": random(3, 2),
  }
  params["a"][:, :2] = 0

  def apply(p, x):
    return jax.nn.relu(x @ p["a"] + p["bias"]) @ p["b"]

  small = shrink.shrink(apply, params, None, random(3, 4))
  assert small.report.removed == 1
  np.testing.assert_array_equal(small.params["bias"], [1, 1])


def test_a_channel_that_nothing_reads_is_removed():
  params = {"a": random(4, 3), "b": random(3, 2)}
  params["b"][1] = 0
  small = shrink.shrink(
    lambda p, x: x @ p["a"] @ p["b"], params, None, random(1, 4)
  )
  assert small.params["a"].shape == (4, 2)


def test_one_channel_of_a_dead_layer_stays():
  params = {"a": np.zeros((4, 3), np.float32), "b": random(3, 2)}
  small = shrink.shrink(
    lambda p, x: x @ p["a"] @ p["b"], params, None, random(1, 4)
  )
  assert small.params["a"].shape == (4, 1)


def test_masks_are_applied():
  params = {"a": random(4, 3), "b": random(3, 2)}
  masks = {"a": np.ones((4, 3), bool), "b": optax.MaskedNode()}
  masks["a"][:, 2] = False
  small = shrink.shrink(
    lambda p, x: x @ p["a"] @ p["b"], params, masks, random(1, 4)
  )
  assert small.params["b"].shape == (2, 2)


def test_outputs_that_are_not_finite_are_refused():
  params = {"a": random(4, 3), "b": random(3, 2)}
  params["b"][0] = np.nan
  with pytest.raises(shrink.DifferenceError, match="not finite"):
    shrink.shrink(lambda p, x: x @ p["a"] @ p["b"], params, None, random(1, 4))


def test_the_report_names_families_and_what_keeps_them():
  params = {"a": random(4, 3), "b": random(3, 2)}
  params["a"][:, 0] = 0
  small = shrink.shrink(
    lambda p, x: x @ p["a"] @ p["b"], params, None, random(1, 4)
  )
  assert small.report.families == (
    ("a", 4, 0, ("an input",)),
    ("a", 3, 1, ()),
    ("b", 2, 0, ("an output",)),
  )


@hypothesis.settings(max_examples=3, deadline=None)
@hypothesis.given(networks.random_layers())
def test_random_networks(network):
  check_random(network)


@pytest.mark.slow
@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(networks.random_layers())
def test_many_random_networks(network):
  check_random(network)


def check_random(network):
  layers, seed = network
  x = random(1, 6, 6, 3, seed=seed)
  model = networks.Random(layers)
  variables = jax.jit(model.init)(jax.random.key(seed), x)
  variables = dead_channels.with_random_norms(variables, seed)
  small, dead, _ = check(model.apply, variables, x, seed=seed)
  assert small.report.removed >= 0.5 * dead.sum()
