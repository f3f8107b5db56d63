"""onnxruntime computes what JAX does, and what cannot be written is refused."""

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dead_channels, networks, tiers
from jax import lax

from sparsejax.export import onnx_file, onnx_graph, shrink
from sparsejax.models import MODELS


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def check(path, apply, params, *inputs, batch=3):
  """Writes a network, reads it, and compares another batch size."""
  onnx_file.save(path, apply, params, *inputs)
  session = onnx_file.load(path)
  more = [np.concatenate([x] * batch)[:batch] for x in map(np.asarray, inputs)]
  expected = jax.tree.leaves(apply(params, *map(jnp.asarray, more)))
  for a, b in zip(expected, onnx_file.run(session, *more), strict=True):
    assert np.shape(a) == b.shape and np.asarray(a).dtype == b.dtype
    assert shrink.difference(a, b) <= 1e-5
  return path.stat().st_size


SMALL = {
  "mlp": (1, 8, 8, 1),
  "cnn": (1, 8, 8, 1),
  "set_mlp": (1, 8, 8, 1),
}
LARGE = {
  "mobilenet_v1": (1, 64, 64, 3),
  "resnet20": (1, 32, 32, 3),
  "resnet50": (1, 64, 64, 3),
  "resnet50_6n2": (1, 32, 32, 3),
  "resnet50_cifar": (1, 32, 32, 3),
  "vgg19": (1, 32, 32, 3),
  "vgg19_optg": (1, 32, 32, 3),
  "vgg_c": (1, 32, 32, 3),
  "vgg_d": (1, 32, 32, 3),
}


@pytest.mark.parametrize(
  "name", tiers.some({**SMALL, **LARGE}, lambda name: name in SMALL)
)
def test_built_in_models(tmp_path, name):
  image = {**SMALL, **LARGE}[name]
  options = {"hidden": (30, 20)} if name == "set_mlp" else {}
  model = MODELS[name](10, **options)
  x = jnp.asarray(random(*image))
  variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(
    x
  )
  check(
    tmp_path / "network.onnx",
    lambda v, x: model.apply(v, x, train=False),
    dead_channels.with_random_norms(variables),
    x,
  )


def test_transformers(tmp_path):
  model = networks.Block()
  x = random(1, 5, 12)
  variables = model.init(jax.random.key(0), x)
  check(tmp_path / "network.onnx", model.apply, variables, x)


def test_tokens_stacked_layers_and_a_class_token(tmp_path):
  params = {
    "table": random(7, 4),
    "token": random(1, 1, 4),
    "layers": {"a": random(3, 4, 6), "b": random(3, 6, 4)},
  }

  def apply(p, tokens):
    x = p["table"][tokens]
    token = jnp.broadcast_to(p["token"], (x.shape[0], 1, 4))
    x = jnp.concatenate([token, x], axis=1)

    def layer(x, p):
      return x + jax.nn.gelu(x @ p["a"]) @ p["b"], x.mean((1, 2))

    x, means = lax.scan(layer, x, p["layers"])
    return x[:, 0], means, x.argmax(-1)

  path = tmp_path / "network.onnx"
  tokens = np.asarray([[1, 2, 6, 0]], np.int32)
  check(path, lambda p, t: apply(p, t)[::2], params, tokens)


ONE = {
  "abs": jnp.abs,
  "clip": lambda x: jnp.clip(x, -0.5, 0.5),
  "cumsum": lambda x: jnp.cumsum(x, axis=1),
  "exp": lambda x: jnp.exp(-x) + jnp.expm1(x),
  "erf": lambda x: lax.erf(x) + lax.erfc(x),
  "flip": lambda x: x[:, ::-1],
  "leaky": lambda x: jnp.where(x >= 0, x, 0.3 * x),
  "log": lambda x: jnp.log1p(jnp.abs(x)),
  "norm": lambda x: x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6),
  "pad": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1))),
  "power": lambda x: x**3 + 1 / (2 + x**2),
  "round": lambda x: jnp.round(x) + jnp.floor(x) + jnp.ceil(x) + jnp.sign(x),
  "softmax": lambda x: jax.nn.softmax(x, axis=1),
  "split": lambda x: jnp.split(x, [1], axis=2)[1],
  "strided": lambda x: x[:, ::2, 1:],
  "swap": lambda x: x.swapaxes(1, 2).reshape(x.shape[0], -1),
  "triangle": lambda x: jnp.where(jnp.tril(jnp.ones((3, 3), bool)), x, -1.0),
  "trigonometry": lambda x: jnp.sin(x) + jnp.cos(x) + jnp.tanh(x),
  "where": lambda x: jnp.where((x < 0) | (x > 1), x % 1.0, jnp.maximum(x, 0.5)),
}


@pytest.mark.parametrize("name", ONE)
def test_operations(tmp_path, name):
  check(
    tmp_path / "network.onnx",
    lambda p, x: ONE[name](x) + p,
    np.float32(0.5),
    random(1, 3, 3),
  )


def test_pooling_and_grouped_convolutions(tmp_path):
  class Pools(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.Conv(8, (3, 2), strides=(2, 1), feature_group_count=4)(x)
      x = nn.max_pool(x, (2, 2), strides=(1, 2), padding="SAME")
      x = nn.Conv(6, (3, 3), kernel_dilation=2)(x)
      return nn.avg_pool(x, (2, 2), padding=((1, 0), (0, 1)))

  model, x = Pools(), random(1, 9, 8, 4)
  variables = model.init(jax.random.key(0), x)
  check(tmp_path / "network.onnx", model.apply, variables, x)


@hypothesis.settings(max_examples=2, deadline=None)
@hypothesis.given(networks.random_layers())
def test_random_networks(tmp_path_factory, network):
  check_random(tmp_path_factory.mktemp("onnx"), network)


@pytest.mark.slow
@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(networks.random_layers())
def test_many_random_networks(tmp_path_factory, network):
  check_random(tmp_path_factory.mktemp("onnx"), network)


def check_random(folder, network):
  layers, seed = network
  x = random(1, 6, 6, 3, seed=seed)
  model = networks.Random(layers)
  variables = jax.jit(model.init)(jax.random.key(seed), x)
  variables = dead_channels.with_random_norms(variables, seed)
  check(folder / "network.onnx", model.apply, variables, x)


def test_sparse_weights_make_the_file_smaller(tmp_path):
  weights, x = random(300, 200), random(1, 300)
  sizes = []
  for sparsity in (0.5, 0.9, 0.98):
    kept = np.random.default_rng(1).random(weights.shape) >= sparsity
    path = tmp_path / f"{sparsity}.onnx"
    sizes.append(check(path, lambda p, x: x @ p, weights * kept, x))
  # Dense at 0.5; then 4 bytes and an index of 8 per weight.
  assert sizes[0] > 240_000
  assert 70_000 < sizes[1] < 76_000 and 13_000 < sizes[2] < 16_500


def test_what_cannot_be_written_is_refused(tmp_path):
  path = tmp_path / "network.onnx"
  x = random(1, 4)
  with pytest.raises(onnx_graph.UnsupportedError, match="`sort`"):
    onnx_file.save(path, lambda p, x: jnp.sort(x * p), np.float32(2), x)
  with pytest.raises(onnx_graph.UnsupportedError, match="bfloat16"):
    onnx_file.save(path, lambda p, x: x.astype(jnp.bfloat16) * p, 2, x)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "damage", [lambda d: d[:-9], lambda d: b"", lambda d: b"x" * 99]
)
def test_damaged_files_are_refused(tmp_path, damage):
  path = tmp_path / "network.onnx"
  onnx_file.save(path, lambda p, x: x @ p, random(4, 3), random(1, 4))
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(onnx_graph.UnsupportedError, match="not an ONNX model"):
    onnx_file.load(path)
