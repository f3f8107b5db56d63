"""What a forward pass does with a leaf decides, under any name."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import sparsejax
from sparsejax.components import trees


def forward(params, tokens):
  x = params["table"][tokens] + params["where"]
  for i in range(2):  # Rows of a stack, but not rows that data selects.
    y = x * params["blocks"]["g"][i]
    x = x + jnp.tanh(y @ params["blocks"]["b"][i] + params["blocks"]["c"][i])
  x = x @ params["low"]["a"] @ params["low"]["b"]
  return x @ params["table"].T


def test_leaves_that_are_multiplied_with_data():
  params = {
    "table": jnp.ones((11, 8)),  # Looked up, and the output layer.
    "where": jnp.ones((5, 8)),
    "blocks": {
      "g": jnp.ones((2, 8)),
      "b": jnp.ones((2, 8, 8)),
      "c": jnp.ones((2, 8)),
    },
    "low": {"a": jnp.ones((8, 2)), "b": jnp.ones((2, 8))},
  }
  tokens = jnp.zeros((1, 5), jnp.int32)
  chosen = sparsejax.multiplied(forward, params, tokens)
  names = [name for name, flag in trees.named_leaves(chosen) if flag]
  assert names == ["blocks/b", "low/a", "low/b"]
  tx = sparsejax.sparsify(
    optax.sgd(0.1), sparsejax.static(0.5), key=jax.random.key(0), select=chosen
  )
  counted = sparsejax.summary(params, tx.init(params))
  assert [x.name for x in counted.layers] == names


class Model(nn.Module):
  """A layer of attention behind an embedding."""

  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(11, 8)(tokens)
    x = x + self.param("pos", nn.initializers.ones, (5, 8))
    x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
    return nn.Dense(11)(x)


def test_the_default_selection_agrees_on_a_transformer_of_flax():
  model, tokens = Model(), jnp.zeros((1, 5), jnp.int32)
  params = model.init(jax.random.key(0), tokens)["params"]
  chosen = sparsejax.multiplied(
    lambda p, x: model.apply({"params": p}, x), params, tokens
  )
  names = [name for name, flag in trees.named_leaves(chosen) if flag]
  tx = sparsejax.sparsify(
    optax.sgd(0.1), sparsejax.static(0.5), key=jax.random.key(0)
  )
  state = tx.init(params)
  assert [x.name for x in sparsejax.summary(params, state).layers] == names
  assert names == [
    "Dense_0/kernel",
    "MultiHeadDotProductAttention_0/key/kernel",
    "MultiHeadDotProductAttention_0/out/kernel",
    "MultiHeadDotProductAttention_0/query/kernel",
    "MultiHeadDotProductAttention_0/value/kernel",
  ]
