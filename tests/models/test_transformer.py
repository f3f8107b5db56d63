"""The transformers: shapes, causality, layers, costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax import models
from sparsejax.analysis import flops
from sparsejax.components import trees
from sparsejax.models import attention
from sparsejax.models.transformer import SIZES
from sparsejax.models.vit import cut

TOKENS = jnp.arange(12).reshape(2, 6) % 7


@functools.cache
def tiny(**changes):
  model = models.transformer(7, size="tiny", **changes)
  variables = jax.jit(functools.partial(model.init, train=False))(
    jax.random.key(0), TOKENS
  )
  return model, variables["params"]


def apply(model, params, inputs):
  return model.apply({"params": params}, inputs, train=False)


def test_a_token_sees_only_those_before_it():
  model, params = tiny()
  logits = apply(model, params, TOKENS)
  assert logits.shape == (2, 6, 7) and logits.dtype == jnp.float32
  changed = apply(model, params, TOKENS.at[:, 3].set(6))
  same = np.isclose(logits, changed, atol=1e-6).all((0, 2))
  assert same[:3].all() and not same[3:].any()


def test_attention_depends_on_relative_positions_alone():
  x = jax.random.normal(jax.random.key(0), (1, 9, 2, 8))
  turned = attention.rotate(x, 10_000.0)
  np.testing.assert_allclose(
    jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5
  )
  equal = jnp.broadcast_to(x[:, :1], x.shape)
  scores = jnp.einsum(
    "btnh,bsnh->bnts", *(attention.rotate(equal, 100.0) for _ in range(2))
  )
  for distance in range(-3, 4):
    diagonal = jnp.diagonal(scores, distance, 2, 3)
    np.testing.assert_allclose(
      diagonal, jnp.broadcast_to(diagonal[..., :1], diagonal.shape), rtol=1e-4
    )


def test_rotation_by_hand():
  """Pairs are i and i + H / 2, as in Llama on Hugging Face."""
  x = jnp.zeros((1, 2, 1, 4)).at[0, 1, 0].set(jnp.array([1.0, 2.0, 3.0, 4.0]))
  found = attention.rotate(x, 100.0)[0, 1, 0]
  slow = 100.0**-0.5
  wanted = [
    np.cos(1) - 3 * np.sin(1),
    2 * np.cos(slow) - 4 * np.sin(slow),
    3 * np.cos(1) + np.sin(1),
    4 * np.cos(slow) + 2 * np.sin(slow),
  ]
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_block_is_that_of_llama():
  """Against a transcription in numpy, with grouped queries."""
  model, params = tiny(kv_heads=1)
  found = apply(model, params, TOKENS)
  np.testing.assert_allclose(found, llama(params, TOKENS), rtol=2e-4, atol=2e-5)


def llama(params, tokens, heads=2, base=10_000.0):
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  x = p["embed"]["embedding"][np.asarray(tokens)]
  blocks = p["blocks"]
  for i in range(len(blocks["attention_norm"]["scale"])):
    block = jax.tree.map(lambda x, i=i: x[i], blocks)
    x = x + attend(block["attention"], norm(block["attention_norm"], x), heads)
    y = norm(block["feed_forward_norm"], x)
    gate, up, down = (
      block["feed_forward"][name]["kernel"] for name in ("gate", "up", "down")
    )
    gated = y @ gate
    x = x + (gated / (1 + np.exp(-gated)) * (y @ up)) @ down
  return norm(p["norm"], x) @ p["head"]["kernel"]


def norm(p, x):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"]


def attend(p, x, heads):
  query, key, value = (
    x @ p[name]["kernel"] for name in ("query", "key", "value")
  )
  size = query.shape[-1] // heads
  out = []
  for head in range(heads):
    q = turn(query[..., head * size : (head + 1) * size])
    scores = q @ turn(key).swapaxes(1, 2) / np.sqrt(size)
    hidden = np.triu(np.ones(scores.shape[1:], bool), 1)
    weights = np.exp(np.where(hidden, -np.inf, scores))
    out.append(weights / weights.sum(-1, keepdims=True) @ value)
  return np.concatenate(out, -1) @ p["output"]["kernel"]


def turn(x):
  half = x.shape[-1] // 2
  angle = np.arange(x.shape[1])[:, None] * 10_000.0 ** (-np.arange(half) / half)
  pairs = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
  return np.concatenate([pairs.real, pairs.imag], -1)


def test_costs_are_counted_for_each_layer():
  model, params = tiny()
  found = flops.multiply_adds(
    lambda p, x: apply(model, p, x), params, TOKENS[:1]
  )
  width, depth, hidden, length = 32, 2, 64, 6
  assert found.kernels["blocks/attention/query/kernel"] == (
    depth * length * width**2
  )
  assert found.kernels["blocks/feed_forward/up/kernel"] == (
    depth * length * width * hidden
  )
  assert found.kernels["head/kernel"] == length * width * 7
  assert "embed/embedding" not in found.kernels
  assert found.others == depth * 2 * length**2 * width


def test_matrices_of_blocks_are_sparse_and_each_block_is_a_layer():
  model, params = tiny()
  names = [name for name, _ in trees.named_leaves(params)]
  stacked = [n for n in names if n.startswith("blocks/")]
  tx = sparsejax.sparsify(
    optax.sgd(0.1),
    sparsejax.static(0.5),
    key=jax.random.key(0),
    overrides={
      **{name: sparsejax.Override(axis=0) for name in stacked},
      **dict.fromkeys(model.dense, "dense"),
    },
  )
  layers = sparsejax.summary(params, tx.init(params)).layers
  assert len(layers) == 2 * 7
  assert {layer.name.split("[")[0] for layer in layers} == {
    n for n in stacked if n.endswith("kernel")
  }


@pytest.mark.parametrize("size", SIZES)
def test_sizes_have_the_parameters_of_their_names(size):
  shapes = jax.eval_shape(
    functools.partial(models.transformer(256, size=size).init, train=False),
    jax.random.key(0),
    TOKENS,
  )
  blocks = shapes["params"]["blocks"]
  count = sum(leaf.size for leaf in jax.tree.leaves(blocks))
  unit = {"m": 1e6, "b": 1e9}.get(size[-1])
  if unit is not None:
    assert count == pytest.approx(int(size[:-1]) * unit, rel=0.15)


def test_tied_and_rematerialized():
  model, params = tiny(tied=True)
  assert "head" not in params
  again = models.transformer(7, size="tiny", tied=True, remat=True)

  def loss(model, p):
    return apply(model, p, TOKENS).var()

  one, two = (
    jax.grad(functools.partial(loss, m))(params) for m in (model, again)
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    one,
    two,
  )


def test_bfloat16_computes_with_float32_parameters():
  model, params = tiny(dtype="bfloat16")
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  logits = apply(model, params, TOKENS)
  assert logits.dtype == jnp.float32
  exact = apply(tiny()[0], params, TOKENS)
  np.testing.assert_allclose(logits, exact, atol=0.1)
  assert (logits != exact).any()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"size": "2m"}, "`size` must be one of tiny, 1m"),
    ({"kv_heads": 3}, "`kv_heads` must be a divisor of 4"),
    ({"dtype": "int8"}, "dtype"),
  ],
)
def test_arguments_are_checked(changes, message):
  with pytest.raises(ValueError, match=message):
    models.transformer(256, **changes)


def test_vit_cuts_patches_and_classifies():
  images = jnp.arange(2 * 8 * 8 * 3, dtype=jnp.float32).reshape(2, 8, 8, 3)
  patches = cut(images, 4)
  assert patches.shape == (2, 2, 2, 48)
  np.testing.assert_array_equal(
    patches[0, 1, 0].reshape(4, 4, 3), images[0, 4:, :4]
  )
  model = models.vit(10, size="tiny")
  params = model.init(jax.random.key(0), images, train=False)["params"]
  assert apply(model, params, images).shape == (2, 10)
  kernels = [x for n, x in trees.named_leaves(params) if n.endswith("kernel")]
  assert {x.ndim for x in kernels} == {2, 3}
  with pytest.raises(ValueError, match="`patch` must divide"):
    cut(images, 3)
