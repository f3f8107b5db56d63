"""The built-in models, in Flax Linen, with smaller parameters.

    network = modules.load("runs/1/export")
    logits = network.apply(network.variables, images, train=False)

`network.apply` takes what `module.apply` takes, `rngs` and `mutable` too, so
that the smaller network can be trained further.
"""

import functools
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from sparsejax.components import trees
from sparsejax.export import shrink
from sparsejax.models import resized
from sparsejax.training.config import schema, sections

ARRAYS, RECORD = "shrunk.npz", "shrunk.json"


class Network(NamedTuple):
  """A network that was exported.

  Attributes:
    apply: as that of the module.
    variables: its collections.
  """

  apply: Callable[..., Any]
  variables: dict[str, Any]


class NetworkError(ValueError):
  """Files of a smaller network that cannot be used."""


def save(
  folder: pathlib.Path,
  variables: PyTree,
  expected: Any,
  example: Any,
  *,
  model: Any,
  config: Mapping[str, Any],
  provided: Mapping[str, int],
) -> None:
  """Writes `shrunk.npz`, arrays by their names, and `shrunk.json`.

  Args:
    folder: where to.
    variables: the smaller collections.
    expected: outputs for the example.
    example: inputs.
    model: the module of the network before it was shrunk.
    config: the section `config.model` that made it.
    provided: the sizes that it took from the data.
  """
  arrays = {
    name: np.asarray(leaf) for name, leaf in trees.named_leaves(variables)
  }
  with (folder / ARRAYS).open("wb") as file:
    np.savez(file, allow_pickle=False, **arrays)
  record = {
    "model": dict(config),
    "provided": dict(provided),
    "fits_module": _fits(model, variables, expected, example),
    "shapes": {name: list(array.shape) for name, array in arrays.items()},
  }
  (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def _fits(model: Any, variables: PyTree, expected: Any, x: Any) -> bool:
  """Returns whether the module runs the smaller parameters, and rightly."""
  try:
    found = resized.apply(model, variables, x, train=False)
  except Exception:  # A module may use the widths that it declared anyhow.
    return False
  return bool(shrink.difference(expected, found) <= shrink.TOLERANCE)


def load(folder: str | os.PathLike) -> Network:
  """Returns the smaller network of an export with `--to=shrink`.

  Args:
    folder: with `shrunk.npz` and `shrunk.json`.

  Raises:
    NetworkError: if they are damaged, or the module cannot run the network.
  """
  target = pathlib.Path(folder)
  try:
    record = json.loads((target / RECORD).read_text())
    with np.load(target / ARRAYS, allow_pickle=False) as file:
      arrays = {name: file[name] for name in file.files}
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    if shapes != record["shapes"]:
      raise ValueError(f"its arrays are not those of {RECORD}")
    fits, given = record["fits_module"], (record["model"], record["provided"])
    model = schema.call(sections.KINDS["model"], "model", *given)
  except FileNotFoundError:
    raise
  except Exception as error:  # zipfile, numpy and json have their own.
    raise NetworkError(
      f"{target / ARRAYS} cannot be loaded: {error}. Export it again."
    ) from error
  if not fits:
    raise NetworkError(
      f"{target / ARRAYS} does not fit a {type(model).__name__}, whose code has"
      " widths that were removed. Load its program instead: --to=program."
    )
  return Network(functools.partial(resized.apply, model), _nested(arrays))


def _nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns nested dicts of arrays by the parts of their names."""
  tree: dict[str, Any] = {}
  for name, array in arrays.items():
    *path, last = name.split("/")
    functools.reduce(lambda node, key: node.setdefault(key, {}), path, tree)[
      last
    ] = jnp.asarray(array)
  return tree
