"""Sparse dense layers on one core, compared to dense ones.

    taskset -c 0 python benchmarks/sparse_layers.py

First single products, square kernels with random masks: `fan_in_sorted` against
the dense product of XLA. Then the network of SET on CIFAR-10,
3072-4000-1000-4000-10 with 98.3 % of its weights inactive: `sparse_apply`
against the dense network in XLA and, if it is installed, in onnxruntime.

Everything runs in one thread; times are processor time of the process, the
20th percentile of calls in turns, each after a call that is not timed, as a
process finds its caches that runs one network. Ratios are within one run.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import outputs  # noqa: E402
import timing  # noqa: E402

import sparsejax  # noqa: E402
from sparsejax import models  # noqa: E402
from sparsejax.components import fan_in_sorted  # noqa: E402
from sparsejax.export.sparse_apply import sparse_apply  # noqa: E402

SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99)
SIZES, BATCHES = (1024, 2048, 4096), (1, 32, 128)
HIDDEN, ROUNDS = (4000, 1000, 4000), 11


def milliseconds(
  calls: dict[str, Callable[[], Any]], rounds: int
) -> dict[str, float]:
  """Returns processor milliseconds, the 20th percentile, in turns."""
  times: dict[str, list[float]] = {name: [] for name in calls}
  for i in range(rounds + 2):
    for name, call in calls.items():
      jax.block_until_ready(call())
      start = time.process_time()
      jax.block_until_ready(call())
      if i >= 2:
        times[name].append(1e3 * (time.process_time() - start))
  return {name: float(np.percentile(x, 20)) for name, x in times.items()}


def products(sizes: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
  """Returns one row per size and batch."""
  table = []
  product = jax.jit(lambda kernel, x: fan_in_sorted.product(kernel, x.T))
  dense = jax.jit(lambda x, w: x @ w)
  for size in sizes:
    for batch in BATCHES:
      rng = np.random.default_rng(0)
      x = jnp.asarray(rng.normal(size=(batch, size)), jnp.float32)
      kernel = rng.normal(size=(size, size)).astype(np.float32)
      weights = jnp.asarray(kernel)
      calls: dict[str, Any] = {"dense": lambda x=x, w=weights: dense(x, w)}
      for sparsity in SPARSITIES:
        mask = rng.random((size, size)) >= sparsity
        lanes = fan_in_sorted.encode(np.where(mask, kernel, 0), batch)
        calls[str(sparsity)] = lambda k=lanes, x=x: product(k, x)
      found = milliseconds(calls, rounds)
      row: dict[str, Any] = {
        "product": f"{size} x {size}, batch {batch}",
        "dense ms": found["dense"],
      }
      for sparsity in SPARSITIES:
        row[f"{sparsity}"] = found["dense"] / found[str(sparsity)]
      table.append(row)
      print(timing.table([row]).splitlines()[-1], flush=True)
  return table


def networks(hidden: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
  """Returns one row per batch: SET's network, dense and sparse."""
  model = models.set_mlp(10, hidden=hidden)

  def apply(params: Any, x: jax.Array) -> Any:
    return model.apply({"params": params}, x, train=False)

  example = jnp.zeros((1, 32, 32, 3))
  params = model.init(jax.random.key(0), example, train=False)["params"]
  method = sparsejax.sparse_evolution(
    epsilon=20.0, every_steps=450, total_steps=900
  )
  tx = sparsejax.sparsify(
    optax.identity(),
    method,
    key=jax.random.key(0),
    overrides={"output/*": "dense"},
  )
  state = tx.init(params)
  params, masks = (
    sparsejax.apply_masks(params, state),
    sparsejax.get_masks(state),
  )
  table, dense = [], jax.jit(apply)
  for batch in (1, 32, 100):
    x = jax.random.normal(jax.random.key(1), (batch, 32, 32, 3))
    program = sparse_apply(apply, params, masks, x, gain=lambda *_: 2.0)
    calls = {
      "XLA": lambda x=x: dense(params, x),
      "sparse": lambda x=x, program=program: program(x),
      **_onnx_calls(params, x),
    }
    reference = np.asarray(calls["XLA"]())
    for name, call in calls.items():
      error = np.abs(np.asarray(call()) - reference).max()
      assert error < 1e-4 * np.abs(reference).max(), (name, error)
    found = milliseconds(calls, rounds)
    row: dict[str, Any] = {"SET MLP": f"batch {batch}"}
    row |= {f"{name} ms": each for name, each in found.items()}
    for name in [name for name in found if name != "sparse"]:
      row[f"faster than {name}"] = found[name] / found["sparse"]
    table.append(row)
  print("sparsity:", sparsejax.summary(params, state).sparsity)
  return table


def _onnx_calls(params: Any, x: jax.Array) -> dict[str, Callable[[], Any]]:
  """Returns the dense network in onnxruntime, if that is installed."""
  try:
    import onnxruntime
  except ModuleNotFoundError:
    return {}
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = options.inter_op_num_threads = 1
  session = onnxruntime.InferenceSession(
    _onnx_network(params), options, providers=["CPUExecutionProvider"]
  )
  rows = np.asarray(x).reshape(len(x), -1)
  return {"onnxruntime": lambda: session.run(None, {"x": rows})[0]}


def _onnx_network(params: Any) -> bytes:
  """Returns an MLP as an ONNX model: Gemm and LeakyRelu."""
  from onnx import TensorProto, helper, numpy_helper

  nodes, tensors, last = [], [], "x"
  names = sorted(params)
  for i, name in enumerate(names):
    for key in ("kernel", "bias"):
      array = np.asarray(params[name][key])
      tensors.append(numpy_helper.from_array(array, f"{name}.{key}"))
    given = [last, f"{name}.kernel", f"{name}.bias"]
    nodes.append(helper.make_node("Gemm", given, [f"y{i}"]))
    last = f"y{i}"
    if i < len(names) - 1:
      nodes.append(helper.make_node("LeakyRelu", [last], [f"a{i}"], alpha=0.3))
      last = f"a{i}"
  inputs, outputs = (
    [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])]
    for name, size in (
      ("x", params[names[0]]["kernel"].shape[0]),
      (last, params[names[-1]]["kernel"].shape[1]),
    )
  )
  graph = helper.make_graph(nodes, "mlp", inputs, outputs, tensors)
  opset = [helper.make_opsetid("", 17)]
  made = helper.make_model(graph, opset_imports=opset, ir_version=8)
  return made.SerializeToString()


def main(argv: Sequence[str] | None = None) -> None:
  """Run the command line `argv`."""
  options, where = outputs.options(__doc__, argv), timing.machine()
  hidden, sizes, rounds = HIDDEN, SIZES, ROUNDS
  if options.small:
    hidden, sizes, rounds = (40, 10, 40), (64,), 1
  found = networks(hidden, rounds)
  timing.save("sparse_layers_set_mlp", found, where, options.folder)
  found = products(sizes, rounds)
  timing.save("sparse_layers_products", found, where, options.folder)


if __name__ == "__main__":
  main()
