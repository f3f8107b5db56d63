"""One export: from the run to files that other programs load, and a report."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax import command_line
from sparsejax.components import leaves
from sparsejax.data import Stream
from sparsejax.export import (
  llama,
  modules,
  program,
  report,
  shrink,
  sparse_apply,
  timing,
)
from sparsejax.training.config import finished

BATCHES = (1, 32)
"""Batch sizes that a report times."""

SPARSE = "sparse.bin"
"""The program with sparse layers."""

_EVAL_BATCH = 250
_MAX_EXAMPLES = 10_000  # Of the test split; enough to see any difference.


class Network(NamedTuple):
  """A network to export.

  Attributes:
    apply: (variables, x) -> logits.
    variables: its collections.
  """

  apply: Callable[..., Any]
  variables: Any


class Export(NamedTuple):
  """What the targets of an export share.

  Attributes:
    masked: the network as it was trained.
    small: the same without dead channels.
    masks: masks of its collection `params`.
    example: inputs of one example.
    model: the Flax module.
    config: the resolved config of the run.
    provided: sizes that the module took from the data.
    folder: where files go.
  """

  masked: Network
  small: Network
  masks: Any
  example: Any
  model: Any
  config: Mapping[str, Any]
  provided: Mapping[str, int]
  folder: pathlib.Path


def run(argv: list[str]) -> int:
  """Runs the command line of `sparsejax.export`.

  Args:
    argv: its arguments.

  Returns:
    The exit status.

  Raises:
    InputError: if an argument or the run cannot be used.
  """
  given = _parse(argv)
  targets = _targets(given.to)
  source = finished.read(given.run)
  folder = given.out or given.run / "export"
  folder.mkdir(parents=True, exist_ok=True)
  model = source.experiment.model

  def apply(variables: Any, x: Any) -> Any:
    return model.apply(variables, x, train=False)

  experiment = source.experiment
  blank = jax.tree.map(jnp.asarray, experiment.dataset.example)
  example = experiment.dataset.task.draw(None, blank).inputs
  masked = Network(apply, source.variables)
  found = shrink.shrink(apply, source.variables, None, example)
  small = Network(found.apply, found.params)
  export = Export(
    masked,
    small,
    source.masks,
    example,
    model,
    experiment.config,
    experiment.dataset.provided,
    folder,
  )
  files = {name: write(export) for name, write in targets.items()}
  networks = {"dense XLA": masked, "ours, XLA": small}
  calls = {name: _compiled(network) for name, network in networks.items()}
  if "onnx" in targets:
    calls |= _onnxruntime(export)
  lanes = {size: _with_sparse_layers(export, size) for size in BATCHES}
  products = {size: each.products for size, each in lanes.items()}
  if any(p.in_lanes for found in products.values() for p in found):
    calls["ours, sparse layers"] = _sparse_layers(export, lanes)
  result = report.Result(
    run=str(given.run),
    summary=source.summary,
    shrunk=found.report,
    sparsity=_sparsity(source),
    files=_sizes(files),
    accuracy=_accuracies(source, calls),
    times=_times(calls, export, given.seconds),
    products=products,
  )
  report.write(folder, result)
  print(report.terminal(result))
  print(f"Files and the report are in {folder}")
  return command_line.DONE


def _parse(argv: list[str]) -> Any:
  parser = command_line.Parser()
  parser.add_argument("run", type=command_line.path)
  parser.add_argument("--to", default="shrink,program")
  parser.add_argument("--out", type=command_line.path)
  parser.add_argument("--seconds", type=float, default=1.0)
  given = parser.parse_args(command_line.join_values(argv))
  if not given.seconds > 0:
    raise command_line.InputError(
      f"`--seconds` must be above 0, got {given.seconds}."
    )
  return given


def _targets(to: str) -> dict[str, Callable[[Export], list[pathlib.Path]]]:
  names = [name.strip() for name in to.split(",")]
  for name in names:
    if name not in TARGETS:
      raise command_line.unknown("`--to`", name, TARGETS)
  return {name: TARGETS[name] for name in names}


def _sparsity(source: finished.FinishedRun) -> float:
  """Returns the share of zeros in the sparse leaves."""
  params = source.variables["params"]
  flags = leaves.sparse_flags(params, source.masks)
  sparse = [
    np.asarray(leaf)
    for leaf, flag in zip(jax.tree.leaves(params), flags, strict=True)
    if flag
  ]
  total = sum(leaf.size for leaf in sparse)
  zeros = sum(int((leaf == 0).sum()) for leaf in sparse)
  return zeros / total if total else 0.0


def _compiled(network: Network) -> Callable[[Any], Any]:
  apply = jax.jit(network.apply)
  variables = jax.tree.map(jnp.asarray, network.variables)
  return lambda x: jax.block_until_ready(apply(variables, x))


def _with_sparse_layers(
  export: Export, size: int
) -> sparse_apply.SparseProgram:
  """Returns the smaller network for a batch; times its sparse products."""
  x = jnp.repeat(jnp.asarray(export.example), size, axis=0)
  return sparse_apply.sparse_apply(*export.small, None, x)


def _sparse_layers(
  export: Export, programs: dict[int, sparse_apply.SparseProgram]
) -> Callable[[Any], Any]:
  """Returns the network with sparse layers; adds the programs that it needs."""

  def call(x: Any) -> Any:
    if len(x) not in programs:
      programs[len(x)] = _with_sparse_layers(export, len(x))
    return jax.block_until_ready(programs[len(x)](x))

  return call


def _write_shrunk(export: Export) -> list[pathlib.Path]:
  """Writes the smaller parameters, and what loads them."""
  x = jnp.asarray(export.example)
  modules.save(
    export.folder,
    export.small.variables,
    export.small.apply(export.small.variables, x),
    x,
    model=export.model,
    config=export.config["model"],
    provided=export.provided,
  )
  return [export.folder / modules.ARRAYS]


def _write_sparse(export: Export) -> list[pathlib.Path]:
  """Writes the network with sparse layers, for CPUs, if one of them gains."""
  shapes = program.batched_shapes(export.example)
  found = sparse_apply.sparse_apply(*export.small, None, shapes)
  if not any(product.in_lanes for product in found.products):
    return []
  program.save(
    export.folder,
    found.apply,
    found.weights,
    export.example,
    platforms=("cpu",),
    name=SPARSE,
  )
  return [export.folder / SPARSE]


def _write_program(export: Export) -> list[pathlib.Path]:
  program.save(export.folder, *export.small, export.example)
  return [export.folder / program.PROGRAM]


def _write_onnx(export: Export) -> list[pathlib.Path]:
  from sparsejax.export import onnx_file  # Needs the extra `onnx`.

  paths = []
  for name, network in (("dense", export.masked), ("network", export.small)):
    paths.append(export.folder / f"{name}.onnx")
    onnx_file.save(paths[-1], *network, export.example)
  return paths


def _write_weights(export: Export) -> list[pathlib.Path]:
  """Writes the values of active weights, and the plain arrays."""
  from sparsejax.export import weights  # Needs the extra `export`.

  params = export.masked.variables["params"]
  written = weights.write(export.folder, params, export.masks)
  return [written.sparse, written.dense]


def _write_llama(export: Export) -> list[pathlib.Path]:
  """Writes a decoder-only transformer for Llama's loaders.

  Raises:
    InputError: if it is another network.
  """
  try:
    size, context = export.model.size, np.shape(export.example)[1]
    folder = export.folder / "llama"
    llama.save(
      folder,
      export.masked.variables["params"],
      heads=size.heads,
      kv_heads=size.kv_heads,
      rotary_base=size.rotary_base,
      context=context,
    )
  except (AttributeError, llama.LayoutError) as error:
    raise command_line.InputError(
      "`--to=llama` writes decoder-only transformers, and this run trained a"
      f" {type(export.model).__name__}. Use `--to=shrink,program`."
    ) from error
  return [folder / llama.WEIGHTS, folder / llama.CONFIG]


def _onnxruntime(export: Export) -> dict[str, Callable[[Any], Any]]:
  from sparsejax.export import onnx_file  # Needs the extra `onnx`.

  calls = {}
  names = {"dense onnxruntime": "dense", "ours, onnxruntime": "network"}
  for name, file in names.items():
    session = onnx_file.load(export.folder / f"{file}.onnx")
    calls[name] = lambda x, session=session: onnx_file.run(session, x)[0]
  return calls


TARGETS: Mapping[str, Callable[[Export], list[pathlib.Path]]] = {
  "weights": _write_weights,
  "shrink": _write_shrunk,
  "program": _write_program,
  "onnx": _write_onnx,
  "sparse": _write_sparse,
  "llama": _write_llama,
}
"""Target of `--to` -> writes its files and returns them."""


def _sizes(files: Mapping[str, list[pathlib.Path]]) -> dict[str, int]:
  return {
    path.name: path.stat().st_size for found in files.values() for path in found
  }


def _times(
  calls: Mapping[str, Callable[[Any], Any]], export: Export, seconds: float
) -> dict[int, dict[str, timing.Time]]:
  found = {}
  for size in BATCHES:
    x = jnp.repeat(jnp.asarray(export.example), size, axis=0)
    array = np.asarray(x)
    found[size] = timing.measure(
      {
        name: lambda call=call, x=array if "onnx" in name else x: call(x)
        for name, call in calls.items()
      },
      seconds=seconds,
    )
  return found


def _accuracies(
  source: finished.FinishedRun, calls: Mapping[str, Callable[[Any], Any]]
) -> dict[str, float]:
  """Returns the test accuracy of each network; none of a stream of images."""
  dataset = source.experiment.dataset
  if isinstance(dataset.test, Stream):
    return {}
  count = min(dataset.test.examples, _MAX_EXAMPLES)
  size = min(_EVAL_BATCH, count)
  correct = dict.fromkeys(calls, 0.0)
  for start in range(0, count, size):
    index = np.arange(start, start + size)
    examples = dataset.test.take(jnp.asarray(index % count))
    x, labels = dataset.task.draw(None, examples)
    for name, call in calls.items():
      hits = dataset.task.metrics(jnp.asarray(call(x)), labels)["accuracy"]
      hits = np.asarray(hits).reshape(size, -1).mean(1)
      correct[name] += float(hits[index < count].sum())
  return {name: total / count for name, total in correct.items()}
