"""Compiled programs that run without Flax, and without this package.

A program is two files: `program.bin`, what `jax.export` serializes, and
`program.json`, its checksum and the shapes of its inputs. Anyone with jax runs
it:

    from jax import export
    network = export.deserialize(open("program.bin", "rb").read())
    logits = network.call(images)

With weights in their own file, the first argument is a dict of arrays by the
names of their leaves, as in a safetensors file.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from sparsejax.components import trees

PROGRAM = "program.bin"
PLATFORMS = ("cpu", "cuda", "tpu")


class ProgramError(ValueError):
  """A program that is damaged, or no program."""


def save(
  folder: str | os.PathLike,
  apply: Callable[..., Any],
  params: PyTree,
  *inputs: PyTree,
  inside: bool = True,
  platforms: Sequence[str] = PLATFORMS,
  name: str = PROGRAM,
) -> None:
  """Writes the forward pass, for any batch size.

  Args:
    folder: made if it is missing.
    apply: (params, *inputs) -> output, as `lambda variables, x:
      model.apply(variables, x, train=False)`.
    params: the parameters, with batch statistics and other collections.
    *inputs: example inputs; the first axis of each array is the batch.
    inside: whether the program holds the weights; otherwise it takes them as
      its first argument.
    platforms: what it is compiled for.
    name: of its file, NAME.bin.
  """
  specs = batched_shapes(inputs)
  if inside:
    baked = jax.tree.map(jnp.asarray, params)
    exported = jax.export.export(
      jax.jit(lambda *fed: apply(baked, *fed)), platforms=platforms
    )(*specs)
  else:
    names = [name for name, _ in trees.named_leaves(params)]
    structure = jax.tree.structure(params)

    def run(weights: dict[str, Any], *fed: Any) -> Any:
      leaves = [weights[name] for name in names]
      return apply(jax.tree.unflatten(structure, leaves), *fed)

    leaves = jax.tree.leaves(jax.eval_shape(lambda x: x, params))
    weights = dict(zip(names, leaves, strict=True))
    exported = jax.export.export(jax.jit(run), platforms=platforms)(
      weights, *specs
    )
  data = bytes(exported.serialize())
  record = {
    "bytes": len(data),
    "sha256": hashlib.sha256(data).hexdigest(),
    "inputs": [str(aval) for aval in jax.tree.leaves(specs)],
    "outputs": [str(aval) for aval in exported.out_avals],
    "platforms": list(platforms),
    "weights": "inside" if inside else "beside",
  }
  target = pathlib.Path(folder)
  target.mkdir(parents=True, exist_ok=True)
  (target / name).write_bytes(data)
  text = json.dumps(record, indent=2, sort_keys=True) + "\n"
  (target / name).with_suffix(".json").write_text(text)


def load(folder: str | os.PathLike, name: str = PROGRAM) -> Callable[..., Any]:
  """Returns a program, after its checksum is compared.

  Args:
    folder: that it was written to.
    name: of its file.

  Raises:
    ProgramError: if it is damaged.
  """
  path = pathlib.Path(folder) / name
  recorded, data = path.with_suffix(".json"), path.read_bytes()
  try:
    record = json.loads(recorded.read_text())
    expected = (record["bytes"], record["sha256"])
  except (ValueError, KeyError, TypeError) as error:
    raise ProgramError(f"{recorded} is damaged: {error}.") from error
  if (len(data), hashlib.sha256(data).hexdigest()) != expected:
    raise ProgramError(
      f"{path} is damaged: its bytes are not those of {recorded}. Export it"
      " again."
    )
  return jax.export.deserialize(bytearray(data)).call


def batched_shapes(inputs: PyTree) -> PyTree:
  """Returns the shapes of inputs with a symbolic size of their first axis."""
  (batch,) = jax.export.symbolic_shape("batch")
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      (batch, *np.shape(x)[1:]) if np.ndim(x) else (), jnp.result_type(x)
    ),
    inputs,
  )
