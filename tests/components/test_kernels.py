"""The default selection, by names and shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.components import kernels, leaves

DENSE = {
  "bias": (8, 4),
  "norm/scale": (8, 4),
  "blocks/gamma": (8, 4),
  "blocks/beta": (8, 4),
  "ln_scale": (8, 4),
  "LayerNorm_0/scale": (8, 4),
  "blocks/norm1/weight": (8, 4),
  "blocks/ln_2/weight": (8, 4),
  "pos": (1, 8, 4),
  "pos_embedding": (1, 8, 4),
  "posembed_input/pos_embedding": (1, 8, 4),
  "pos_embed": (8, 4),
  "wpe": (8, 4),
  "wte/weight": (8, 4),
  "tok_embeddings/weight": (8, 4),
  "embed_tokens/weight": (8, 4),
  "emb/weight": (8, 4),
  "Embed_0/embedding": (8, 4),
  "rel_pos_h": (8, 4),
  "relative_position_bias_table": (8, 4),
  "linear/b": (8, 4),
  "count": (8,),
}
SPARSE = {
  "kernel": (8, 4),
  "embedding/kernel": (4, 4, 3, 8),  # The patches of a ViT.
  "patch_embed/proj/weight": (8, 3, 4, 4),
  "patch_embed/weight": (8, 3, 4, 4),
  "pos_proj/kernel": (8, 4),
  "norm_dense": (8, 4),
  "position_wise_ffn/weight": (8, 4),
  "layers/0/weight": (8, 4),
  "conv/w": (1, 1, 8, 4),
  "lora/a": (8, 2),
  "lora/b": (2, 4),
  "lora_B/weight": (8, 2),
  "weight": (8, 4),
}


@pytest.mark.parametrize("name", [*DENSE, *SPARSE])
def test_which_leaves_are_kernels(name):
  shapes = DENSE | SPARSE
  named = [(key, np.zeros(shape)) for key, shape in shapes.items()]
  reasons = dict(zip(shapes, kernels.dense_reasons(named), strict=True))
  assert (reasons[name] is None) == (name in SPARSE), reasons[name]


def test_what_is_no_array_is_dense():
  named = [("activation", len), ("count", 3), ("ids", np.zeros((3, 3), int))]
  assert kernels.dense_reasons(named) == ["not floating"] * 3


def test_a_selected_function_is_refused_by_its_name():
  with pytest.raises(ValueError, match="chose 'act', a builtin_function_or_me"):
    leaves.select_leaves({"act": len, "kernel": jnp.ones((2, 2))}, ["*"])


def test_summary_lists_what_stays_dense_and_why():
  params = {
    "pos_embed": jnp.ones((8, 4)),
    "head": {"kernel": jnp.ones((4, 5)), "bias": jnp.ones(5)},
    "body": {"kernel": jnp.ones((4, 4))},
  }
  tx = sparsejax.sparsify(
    optax.sgd(0.1), sparsejax.dense(), overrides={"head/*": "dense"}
  )
  counted = sparsejax.summary(params, tx.init(params))
  assert [tuple(x) for x in counted.dense] == [
    ("head/kernel", (4, 5), "by `select` or `overrides`"),
    ("pos_embed", (8, 4), "named like an embedding: 'pos_embed'"),
  ]
  assert "dense: pos_embed 8x4 (named like" in str(counted)


ATTENTION = {
  "query/kernel": (64, 4, 16),
  "query/bias": (4, 16),
  "key/kernel": (64, 4, 16),
  "key/bias": (4, 16),
  "value/kernel": (64, 4, 16),
  "value/bias": (4, 16),
  "out/kernel": (4, 16, 64),
  "out/bias": (64,),
  "conv/kernel": (3, 64, 64),
  "conv/bias": (64,),
  "mlp/kernel": (64, 64),
}


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("stacked", [True, False])
def test_heads_of_attention_are_no_window_of_a_convolution(biases, stacked):
  shapes = {
    name: (2, *shape) if stacked else shape
    for name, shape in ATTENTION.items()
    if biases or name.endswith("kernel")
  }
  params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
  overrides = {"*": sparsejax.Override(axis=0)} if stacked else {}
  layout = leaves.find_layout(params, ["*kernel"], overrides)
  seen = {name.split("[")[0]: shape for name, shape in layout.kernels.items()}
  for name in ("query", "key", "value"):
    assert seen[f"{name}/kernel"] == (64, 64)
  assert seen["out/kernel"] == (64, 64)
  assert seen["conv/kernel"] == (3, 64, 64)
  found = sparsejax.erk(layout.kernels, 0.5)
  same = {found[n] for n in found if "conv" not in n}
  assert len(same) == 1


def test_masks_of_attention_have_the_counts_of_matrices():
  params = {
    name: jnp.ones(ATTENTION[name]) for name in ("query/kernel", "query/bias")
  }
  params["mlp/kernel"] = jnp.ones((64, 64))
  tx = sparsejax.sparsify(
    optax.sgd(0.1), sparsejax.static(0.9), key=jax.random.key(0)
  )
  layers = sparsejax.summary(params, tx.init(params)).layers
  assert layers[0].active - layers[1].active in (-1, 0, 1)
  assert layers[1].shape == (64, 4, 16)
