"""Llama's forward pass in numpy, from a directory of its files."""

import json

import numpy as np
from safetensors.numpy import load_file


def logits(folder, tokens):
  """Returns float64[B, T, K] for int[B, T].

  After Touvron et al., Llama, 2023, with the layout and the rotary pairs of
  Hugging Face's `LlamaForCausalLM`: dimension i of a head is paired with
  i + head_dim / 2.
  """
  config = json.loads((folder / "config.json").read_text())
  weights = {
    name: array.astype(np.float64)
    for name, array in load_file(folder / "model.safetensors").items()
  }
  assert config["architectures"] == ["LlamaForCausalLM"]
  assert config["hidden_act"] == "silu"
  x = weights["model.embed_tokens.weight"][tokens]
  for layer in range(config["num_hidden_layers"]):
    part = {
      name.split(".", 3)[3]: array
      for name, array in weights.items()
      if name.startswith(f"model.layers.{layer}.")
    }
    y = norm(x, part["input_layernorm.weight"], config)
    x = x + attention(y, part, config)
    y = norm(x, part["post_attention_layernorm.weight"], config)
    gate = y @ part["mlp.gate_proj.weight"].T
    assert gate.shape[-1] == config["intermediate_size"]
    up = y @ part["mlp.up_proj.weight"].T
    hidden = gate / (1 + np.exp(-gate)) * up
    x = x + hidden @ part["mlp.down_proj.weight"].T
  x = norm(x, weights["model.norm.weight"], config)
  tied = config["tie_word_embeddings"]
  head = "model.embed_tokens.weight" if tied else "lm_head.weight"
  return x @ weights[head].T


def norm(x, scale, config):
  mean = (x**2).mean(-1, keepdims=True)
  return x / np.sqrt(mean + config["rms_norm_eps"]) * scale


def attention(x, part, config):
  size, heads = config["head_dim"], config["num_attention_heads"]
  groups = config["num_key_value_heads"]

  def project(name, count):
    y = x @ part[f"self_attn.{name}_proj.weight"].T
    return y.reshape(*x.shape[:2], count, size)

  query = rotate(project("q", heads), config["rope_theta"])
  key = rotate(project("k", groups), config["rope_theta"])
  key, value = (
    np.repeat(each, heads // groups, axis=2)
    for each in (key, project("v", groups))
  )
  scores = np.einsum("bthd,bshd->bhts", query, key) / np.sqrt(size)
  length = x.shape[1]
  scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
  scores = np.exp(scores - scores.max(-1, keepdims=True))
  scores /= scores.sum(-1, keepdims=True)
  mixed = np.einsum("bhts,bshd->bthd", scores, value)
  mixed = mixed.reshape(*x.shape[:2], heads * size)
  return mixed @ part["self_attn.o_proj.weight"].T


def rotate(x, base):
  half = x.shape[-1] // 2
  inverse = 1 / base ** (np.arange(half) / half)
  angles = np.arange(x.shape[1])[:, None] * inverse
  angles = np.concatenate([angles, angles], axis=-1)[:, None]
  turned = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
  return x * np.cos(angles) + turned * np.sin(angles)
