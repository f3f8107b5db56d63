"""Llama's files hold the masked transformer, and less of it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import llama as oracle

from sparsejax import models
from sparsejax.export import llama, shrink


def network(**options):
  model = models.transformer(40, size="tiny", **options)
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 40, (2, 9)))
  params = model.init(jax.random.key(0), tokens, train=False)["params"]
  return model, jax.device_get(params), tokens


def prune(params, alive, seed=0):
  """Masks feed-forward channels, other ones in each layer."""
  rng = np.random.default_rng(seed)
  kernels = params["blocks"]["feed_forward"]
  for layer in range(len(alive)):
    hidden = kernels["gate"]["kernel"].shape[2]
    dead = rng.permutation(hidden)[alive[layer] :]
    for name in ("gate", "up"):
      kernel = np.array(kernels[name]["kernel"])
      kernel[layer][:, dead] = 0
      kernels[name]["kernel"] = kernel


@pytest.mark.parametrize(
  "options", [{}, {"tied": True}, {"kv_heads": 1}], ids=str
)
def test_logits_are_those_of_the_masked_model(tmp_path, options):
  model, params, tokens = network(**options)
  prune(params, [20, 20])
  size = model.size
  written = llama.save(
    tmp_path,
    params,
    heads=size.heads,
    kv_heads=size.kv_heads,
    rotary_base=size.rotary_base,
    context=64,
  )
  assert written[:2] == (64, 20)
  config = json.loads((tmp_path / llama.CONFIG).read_text())
  assert config["intermediate_size"] == 20
  assert config["tie_word_embeddings"] == bool(options.get("tied"))
  expected = model.apply({"params": params}, tokens, train=False)
  found = oracle.logits(tmp_path, np.asarray(tokens))
  assert shrink.difference(found, expected) <= 1e-5
  names = {"head", "embed"}
  dense = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert names & params.keys()
  assert written.bytes < 4 * (dense - 2 * 3 * 32 * 44) + 5_000


def test_uneven_layers_keep_the_width_of_the_widest(tmp_path):
  model, params, tokens = network()
  prune(params, [11, 30])
  size = model.size
  written = llama.save(
    tmp_path,
    params,
    heads=2,
    kv_heads=2,
    rotary_base=size.rotary_base,
    context=9,
  )
  assert written.hidden == 30
  expected = model.apply({"params": params}, tokens, train=False)
  found = oracle.logits(tmp_path, np.asarray(tokens))
  assert shrink.difference(found, expected) <= 1e-5


def test_other_networks_are_refused(tmp_path):
  with pytest.raises(llama.LayoutError, match="missing.*embed.*unknown.*'a'"):
    llama.save(
      tmp_path,
      {"a": np.ones(3)},
      heads=1,
      kv_heads=1,
      rotary_base=1e4,
      context=9,
    )
