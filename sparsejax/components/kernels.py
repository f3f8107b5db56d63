"""Which leaves are kernels, by names and shapes: the default selection.

A kernel is multiplied with data. Biases and scales are added to it or scale it,
embeddings are looked up, and position information is added: they hold few
weights, or each of them is used rarely, and pruning deletes what only they
know. Where the forward pass is at hand, `analysis.kernels.multiplied` finds out
what a leaf is used for; here only its name and shape tell.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

# The last part of a name, exactly: what Flax and Haiku call them.
_DENSE_NAMES = frozenset(
  {"bias", "scale", "b", "offset", "embedding", "embeddings"}
)
# Words of a name: `pos_embed` has two, `wte` one.
_DENSE_WORDS: Mapping[str, str] = {
  **dict.fromkeys(("bias", "biases", "offset", "shift", "beta"), "a bias"),
  **dict.fromkeys(("scale", "scales", "gamma"), "a scale"),
  **dict.fromkeys(
    ("norm", "layernorm", "rmsnorm", "batchnorm", "groupnorm", "ln", "bn"),
    "a norm",
  ),
  **dict.fromkeys(
    ("emb", "embed", "embedder", "embedding", "embeddings", "wte", "posemb"),
    "an embedding",
  ),
}
# As the last word alone: a `position_wise_ffn` is a kernel.
_LAST_WORDS: Mapping[str, str] = dict.fromkeys(
  ("pos", "position", "positions", "positional", "encoding", "wpe"),
  "a position",
)
# A name that ends in one of these is a matrix, even if the rest says otherwise.
_KERNEL_WORDS = ("kernel", "proj", "projection", "dense", "linear", "conv")
# Names that say nothing; the module's name does.
_SILENT = ("weight", "weights", "param", "value")


def dense_reasons(leaves: Sequence[tuple[str, Any]]) -> list[str | None]:
  """Says of each leaf why it is dense by default; None for a kernel.

  Args:
    leaves: (name, array or shape) of all leaves of a tree. Leaves that are no
      arrays are dense.
  """
  shapes = {name: jnp.shape(leaf) for name, leaf in leaves if _is_array(leaf)}
  return [_reason(name, leaf, shapes) for name, leaf in leaves]


def is_floating(leaf: Any) -> bool:
  """Whether a leaf is an array of floating numbers."""
  return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def is_stack(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
  """Whether a kernel looks like several stacked ones, as `nn.scan` makes them.

  Then its bias has one row for each. That of an attention layer, with one row
  for each head, has the shape of the kernel without its first dimension.
  """
  shape, (prefix, _, _) = shapes[name], name.rpartition("/")
  biases = [
    shapes.get(f"{prefix}/{bias}".removeprefix("/"), ())
    for bias in ("bias", "b")
  ]
  return len(shape) > 2 and any(
    bias[:1] == shape[:1] and bias[-1:] == shape[-1:] and bias != shape[1:]
    for bias in biases
    if len(bias) > 1
  )


def matrix_shape(
  name: str, shapes: Mapping[str, tuple[int, ...]], axis: int | None = None
) -> tuple[int, ...] | None:
  """Returns (inputs, outputs) of the kernel of an attention layer, else None.

  Its heads are dimensions of their own, and no window of a convolution: a bias
  has all of the kernel's dimensions but the first, the inputs, as those of
  queries, keys and values; the kernel of `out`, next to them, has its outputs
  last.

  Args:
    name: of the leaf.
    shapes: of all leaves.
    axis: along which slices are layers; for 0, that of a stack.
  """
  start = 0 if axis is None else 1
  shape = shapes[name][start:]
  prefix, _, last = name.rpartition("/")
  if axis not in (None, 0) or len(shape) != 3 or last not in ("kernel", "w"):
    return None
  bias = "bias" if last == "kernel" else "b"
  if shapes.get(f"{prefix}/{bias}".removeprefix("/"), ())[start:] == shape[1:]:
    return shape[0], shape[1] * shape[2]
  parent, _, module = prefix.rpartition("/")
  query = f"{parent}/query/{last}".removeprefix("/")
  if module in ("query", "key", "value") and query in shapes:
    return shape[0], shape[1] * shape[2]
  if module == "out" and shapes.get(query, ())[start + 1 :] == shape[:2]:
    return shape[0] * shape[1], shape[2]
  return None


def _is_array(leaf: Any) -> bool:
  return hasattr(leaf, "dtype") and hasattr(leaf, "shape")


def _reason(
  name: str, leaf: Any, shapes: Mapping[str, tuple[int, ...]]
) -> str | None:
  if not is_floating(leaf):
    return "not floating"
  if sum(size > 1 for size in leaf.shape) < 2:
    return "one dimension"
  parts = name.split("/")
  last = parts[-1]
  if last == "b" and _is_factor(name, shapes):
    return None
  if last in _DENSE_NAMES:
    return f"named {last!r}"
  kind = _kind(last)
  if kind is None and last in _SILENT and len(parts) > 1 and leaf.ndim == 2:
    kind, last = _kind(parts[-2]), "/".join(parts[-2:])
  return kind and f"named like {kind}: {last!r}"


def _kind(part: str) -> str | None:
  """Returns what a part of a name says of a leaf that is no kernel."""
  words = _words(part)
  if not words or words[-1] in _KERNEL_WORDS:
    return None
  found = [_DENSE_WORDS[word] for word in words if word in _DENSE_WORDS]
  return found[-1] if found else _LAST_WORDS.get(words[-1])


def _words(part: str) -> list[str]:
  """Splits `RelPosEmbed_h_0` into rel, pos and embed."""
  found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part)
  return [word.lower() for word in found if len(word) > 1]


def _is_factor(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
  """Whether a leaf is the `b` of a low-rank product `a @ b`."""
  a, b = shapes.get(f"{name[:-1]}a", ()), shapes[name]
  return len(a) >= 2 and len(b) >= 2 and a[-1] == b[-2]
