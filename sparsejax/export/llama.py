"""A decoder-only transformer as a directory that Llama's loaders read.

`config.json` and `model.safetensors` in the layout of Hugging Face's
`LlamaForCausalLM`, float32. Feed-forward channels that contribute nothing are
left out: each layer keeps its own, and all keep as many as the layer with the
most, so that the directory is smaller where layers were pruned evenly.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PyTree

from sparsejax.components import trees

CONFIG, WEIGHTS = "config.json", "model.safetensors"

# Leaf of our transformer -> name in a layer. Kernels are transposed.
_IN_LAYER = {
  "attention/query/kernel": "self_attn.q_proj.weight",
  "attention/key/kernel": "self_attn.k_proj.weight",
  "attention/value/kernel": "self_attn.v_proj.weight",
  "attention/output/kernel": "self_attn.o_proj.weight",
  "attention_norm/scale": "input_layernorm.weight",
  "feed_forward/gate/kernel": "mlp.gate_proj.weight",
  "feed_forward/up/kernel": "mlp.up_proj.weight",
  "feed_forward/down/kernel": "mlp.down_proj.weight",
  "feed_forward_norm/scale": "post_attention_layernorm.weight",
}
_OUTSIDE = {
  "embed/embedding": "model.embed_tokens.weight",
  "norm/scale": "model.norm.weight",
  "head/kernel": "lm_head.weight",
}
_GATE, _UP, _DOWN = (
  f"blocks/feed_forward/{name}/kernel" for name in ("gate", "up", "down")
)


class LayoutError(ValueError):
  """Parameters that are not those of our decoder-only transformer."""


class Written(NamedTuple):
  """What was written.

  Attributes:
    hidden_before: feed-forward width.
    hidden: the width that is left.
    bytes: size of the weights.
  """

  hidden_before: int
  hidden: int
  bytes: int


def save(
  folder: str | os.PathLike,
  params: PyTree,
  *,
  heads: int,
  kv_heads: int,
  rotary_base: float,
  context: int,
  epsilon: float = 1e-5,
) -> Written:
  """Writes a transformer.

  Args:
    folder: made if it is missing.
    params: parameters of `models.transformer`, exact zeros where masked.
    heads: query heads.
    kv_heads: heads of keys and values.
    rotary_base: base of the rotary frequencies.
    context: longest sequence that it was trained for.
    epsilon: of the norms.

  Raises:
    LayoutError: if a parameter is missing or unknown.
  """
  from safetensors import numpy as safetensors  # Needs the extra `export`.

  found = {
    name: np.asarray(leaf, np.float32)
    for name, leaf in trees.named_leaves(params)
  }
  _check_names(found)
  before = found[_GATE].shape[-1]
  found |= _alive(found[_GATE], found[_UP], found[_DOWN])
  tied = "head/kernel" not in found
  vocabulary, width = found["embed/embedding"].shape
  config = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "head_dim": found["blocks/attention/query/kernel"].shape[-1] // heads,
    "hidden_act": "silu",
    "hidden_size": width,
    "intermediate_size": found[_GATE].shape[-1],
    "max_position_embeddings": context,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": heads,
    "num_hidden_layers": found[_GATE].shape[0],
    "num_key_value_heads": kv_heads,
    "rms_norm_eps": epsilon,
    "rope_theta": rotary_base,
    "tie_word_embeddings": tied,
    "torch_dtype": "float32",
    "vocab_size": vocabulary,
  }
  target = pathlib.Path(folder)
  target.mkdir(parents=True, exist_ok=True)
  tensors = {
    name: np.ascontiguousarray(array) for name, array in _tensors(found).items()
  }
  # Loaders of PyTorch weights look for this entry.
  safetensors.save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
  text = json.dumps(config, indent=2, sort_keys=True) + "\n"
  (target / CONFIG).write_text(text)
  size = (target / WEIGHTS).stat().st_size
  return Written(before, found[_GATE].shape[-1], size)


def _check_names(found: Mapping[str, Any]) -> None:
  wanted = {*_OUTSIDE, *(f"blocks/{name}" for name in _IN_LAYER)}
  missing = wanted - {"head/kernel"} - found.keys()
  unknown = found.keys() - wanted
  if missing or unknown:
    raise LayoutError(
      "`params` must be those of `models.transformer`:"
      f" missing {sorted(missing)}, unknown {sorted(unknown)}."
    )


def _alive(
  gate: np.ndarray, up: np.ndarray, down: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns the feed-forward kernels without channels that are 0.

  Args:
    gate: float[L, D, H].
    up: float[L, D, H].
    down: float[L, H, D].
  """
  alive = gate.any(1) & up.any(1) & down.any(2)
  width = max(1, int(alive.sum(1).max()))
  # Live channels first, in their order; then dead ones where a layer has less.
  order = np.argsort(~alive, axis=1, kind="stable")[:, :width]
  order.sort(axis=1)
  return {
    _GATE: np.take_along_axis(gate, order[:, None, :], axis=2),
    _UP: np.take_along_axis(up, order[:, None, :], axis=2),
    _DOWN: np.take_along_axis(down, order[:, :, None], axis=1),
  }


def _tensors(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  tensors = {}
  for name, array in found.items():
    kernel = name.endswith("/kernel")
    if name in _OUTSIDE:
      tensors[_OUTSIDE[name]] = array.T if kernel else array
    else:
      there = _IN_LAYER[name.removeprefix("blocks/")]
      for layer, part in enumerate(array):
        key = f"model.layers.{layer}.{there}"
        tensors[key] = part.T if kernel else part
  return tensors
