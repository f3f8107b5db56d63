"""ONNX files, for onnxruntime and other readers.

The converter is ours: `jax2onnx` 0.17 writes invalid files for residual
networks with projections. What it cannot write, it refuses, and every file is
run by onnxruntime and compared before it is returned. Kernels with many zeros
are stored as values and indices.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import onnx
import onnxruntime
from jaxtyping import PyTree
from onnx import helper

import sparsejax
from sparsejax.analysis import jaxprs
from sparsejax.export import onnx_rules, program as program_file
from sparsejax.export.onnx_graph import (
  IR_VERSION,
  OPSET,
  Graph,
  UnsupportedError,
  element_type,
  tensor,
)
from sparsejax.export.shrink import TOLERANCE, DifferenceError, difference

_MAX_BYTES = 2**31  # Of a protocol buffer.


def save(
  path: str | os.PathLike,
  apply: Callable[..., Any],
  params: PyTree,
  *inputs: PyTree,
) -> None:
  """Writes a network as ONNX, for any batch size.

  Inputs are called `input_0`, `input_1`, ... and outputs `output_0`, ..., in
  the order of their leaves.

  Args:
    path: the file.
    apply: (params, *inputs) -> output, as `lambda variables, x:
      model.apply(variables, x, train=False)`.
    params: the parameters, with batch statistics and other collections.
    *inputs: example inputs; the first axis of each array is the batch.

  Raises:
    UnsupportedError: if the network has an operation that cannot be written.
    DifferenceError: if onnxruntime computes something else.
  """
  model = _model(apply, params, inputs)
  size = model.ByteSize()
  if size >= _MAX_BYTES:
    raise UnsupportedError(f"it has {size} bytes, above the limit of 2 GiB")
  data = model.SerializeToString()
  _check(data, apply, params, inputs)
  target = pathlib.Path(path)
  partial = target.with_name(f"{target.name}.partial")
  partial.write_bytes(data)
  partial.replace(target)


def load(
  path: str | os.PathLike, *, threads: int = 0
) -> onnxruntime.InferenceSession:
  """Opens a file in onnxruntime.

  Args:
    path: the file.
    threads: how many threads compute; 0 for one per core.

  Raises:
    UnsupportedError: if it is damaged.
  """
  try:
    return _session(pathlib.Path(path).read_bytes(), threads)
  except Exception as error:
    if isinstance(error, OSError):
      raise
    reason = " ".join(str(error).split())
    raise UnsupportedError(f"{path} is not an ONNX model: {reason}") from error


def run(session: onnxruntime.InferenceSession, *inputs: Any) -> list[Any]:
  """Returns the outputs of a network for its inputs, in order."""
  names = [each.name for each in session.get_inputs()]
  arrays = map(np.asarray, jax.tree.leaves(inputs))
  return list(session.run(None, dict(zip(names, arrays, strict=True))))


def _session(data: bytes, threads: int = 0) -> onnxruntime.InferenceSession:
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  options.log_severity_level = 3  # Errors.
  return onnxruntime.InferenceSession(
    data, options, providers=["CPUExecutionProvider"]
  )


def _model(
  apply: Callable[..., Any], params: PyTree, inputs: Any
) -> onnx.ModelProto:
  specs = program_file.batched_shapes(inputs)
  sizes = [spec.shape[0] for spec in jax.tree.leaves(specs) if spec.shape]
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
  shapes = jax.eval_shape(lambda x: x, params)
  program = jaxprs.trace(apply, shapes, *specs)
  graph = Graph(symbol=sizes[0] if sizes else None)
  fed = program.jaxpr.invars[len(leaves) :]
  names = [f"input_{i}" for i in range(len(fed))]
  for name, var in zip(names, fed, strict=True):
    if jaxprs.shape(var) and not graph.batch:
      graph.batch = graph.node("Shape", [name], start=0, end=1)[0]
  values = [
    tensor(name, len(jaxprs.shape(var)))
    for name, var in zip(names, fed, strict=True)
  ]
  results = onnx_rules.convert(graph, program, [*leaves, *values])
  outputs = []
  for i, (value, var) in enumerate(
    zip(results, program.jaxpr.outvars, strict=True)
  ):
    name = graph.straight(value, jaxprs.shape(var))
    graph.nodes.append(helper.make_node("Identity", [name], [f"output_{i}"]))
    outputs.append(_info(f"output_{i}", var))
  return helper.make_model(
    helper.make_graph(
      graph.nodes,
      "network",
      [_info(name, var) for name, var in zip(names, fed, strict=True)],
      outputs,
      initializer=graph.dense,
      sparse_initializer=graph.sparse,
    ),
    opset_imports=[helper.make_opsetid("", OPSET)],
    ir_version=IR_VERSION,
    producer_name="sparsejax",
    producer_version=sparsejax.__version__,
  )


def _info(name: str, var: Any) -> onnx.ValueInfoProto:
  shape = [n if isinstance(n, int) else str(n) for n in jaxprs.shape(var)]
  kind = element_type(jaxprs.dtype(var))
  return helper.make_tensor_value_info(name, kind, shape)


def _check(
  data: bytes, apply: Callable[..., Any], params: PyTree, inputs: Any
) -> None:
  """Compares what onnxruntime computes.

  Raises:
    DifferenceError: if it differs.
  """
  expected = jax.tree.leaves(jax.jit(apply)(params, *inputs))
  found = run(_session(data), *inputs)
  gaps = [difference(a, b) for a, b in zip(expected, found, strict=True)]
  # Another library rounds each operation in another way.
  if not max(gaps, default=0.0) <= 10 * TOLERANCE:
    raise DifferenceError(
      f"onnxruntime's outputs differ by {max(gaps):.2g} of the largest output."
      " This is a bug of sparsejax, or the outputs are not finite."
    )
