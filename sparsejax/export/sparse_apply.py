"""`sparse_apply`: a network whose sparse matrix products run in lanes.

The products are found in the traced program, so any JAX function will do: what
is computed from parameters alone is computed once, and a matrix product with
such an operand, which is mostly zeros, becomes a product in lanes
(`components.fan_in_sorted`) where that is faster on this machine. Products
inside the body of a loop, convolutions, and products with a batch of matrices
stay as they are.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, PyTree

from sparsejax.analysis import jaxprs
from sparsejax.components import fan_in_sorted, trees
from sparsejax.components.fan_in_sorted import SortedKernel
from sparsejax.method import Masks

_SPARSE = 0.5  # fraction of zeros from which a product is timed
_LEAST_GAIN = 1.1
_TIMED_CALLS = 7
_SYMBOLIC_ROWS = 32  # for timing, where the batch has no size yet

Gain = Callable[[np.ndarray, int], float]
"""(kernel float[K, N], rows of the other operand) -> times faster in lanes."""


class Product(NamedTuple):
  """A matrix product with a sparse operand.

  Attributes:
    names: of the leaves that the operand was computed from.
    shape: (K, N) of the operand, as inputs and outputs.
    sparsity: fraction of zeros in it, in [0, 1].
    rows: of the other operand.
    gain: how many times faster the product is in lanes.
    in_lanes: whether it runs in lanes.
  """

  names: tuple[str, ...]
  shape: tuple[int, int]
  sparsity: float
  rows: int
  gain: float
  in_lanes: bool


class SparseProgram(NamedTuple):
  """What `sparse_apply` returns; call it with the inputs.

  Attributes:
    apply: (weights, *inputs) -> what the function returns for the parameters
      and inputs. Pure: for `jax.jit` and `jax.export`.
    weights: plain arrays: what is left of the parameters, and of a kernel in
      lanes the values and where they are.
    products: every product with a sparse operand.
  """

  apply: Callable[..., PyTree]
  weights: list[Array]
  products: tuple[Product, ...]

  def __call__(self, *inputs: Any) -> PyTree:
    """Returns the outputs for inputs of the traced shapes."""
    return _jitted(self.apply)(self.weights, *inputs)


def measured_gain(kernel: np.ndarray, rows: int) -> float:
  """Times a product in lanes and a dense one on this machine.

  Args:
    kernel: float32[K, N].
    rows: number of rows B of the other operand.

  Returns:
    Time of the dense product of XLA over that of the product in lanes: medians
    of several calls, in turns.
  """
  lanes = fan_in_sorted.encode(kernel, rows)
  x = jnp.ones((rows, kernel.shape[0]), jnp.float32)
  dense = jax.jit(lambda x, w: x @ w)
  sparse = jax.jit(_product)
  weights = jnp.asarray(kernel)
  calls = (lambda: dense(x, weights), lambda: sparse(x, lanes))
  times: tuple[list[float], list[float]] = ([], [])
  for _ in range(_TIMED_CALLS + 1):
    for call, found in zip(calls, times, strict=True):
      start = time.perf_counter()
      jax.block_until_ready(call())
      found.append(time.perf_counter() - start)
  dense_time, sparse_time = (np.median(found[1:]) for found in times)
  return float(dense_time / sparse_time)


def sparse_apply(
  apply: Callable[..., PyTree],
  params: PyTree,
  masks: Masks | None,
  *inputs: Any,
  gain: Gain = measured_gain,
) -> SparseProgram:
  """Runs the sparse matrix products of a network in lanes where that is faster.

  Args:
    apply: (params, *inputs) -> outputs, a pure function, as `lambda p, x:
      model.apply({"params": p}, x)`.
    params: its parameters.
    masks: from `sparsejax.get_masks`; inactive weights count as 0. None looks
      at the parameters alone.
    *inputs: inputs of the shapes that the program is for: arrays, or shapes
      with dtypes, whose batch may be symbolic (`jax.export.symbolic_shape`).
    gain: how many times faster a product is in lanes; from 1.1 on it runs so.
      By default each product is timed.

  Returns:
    The program. Its outputs differ from those of `apply` by rounding alone.
  """
  if masks is not None:
    params = trees.where(masks, params)
  traced = jaxprs.trace(apply, params, *inputs)
  structure = jax.tree.structure(jax.eval_shape(apply, params, *inputs))
  plan = _plan(traced, params, gain)
  weights, packed = jax.tree.flatten(plan.weights)

  def run(weights: list[Array], *inputs: Any) -> PyTree:
    outputs = _run(plan, jax.tree.unflatten(packed, weights), inputs)
    return jax.tree.unflatten(structure, outputs)

  return SparseProgram(run, weights, tuple(plan.products))


@functools.lru_cache(maxsize=16)
def _jitted(apply: Callable[..., PyTree]) -> Callable[..., PyTree]:
  return jax.jit(apply)


class _Constant(NamedTuple):
  """What was computed from parameters alone, and from which leaves."""

  array: Any
  names: frozenset[str]


class _Step(NamedTuple):
  """One equation that depends on inputs.

  `operands` has the number of a weight, a variable or a literal for each; a
  product in lanes has the axes of its `_Axes`, another equation None.
  """

  eqn: core.JaxprEqn
  operands: list[Any]
  axes: "_Axes | None" = None


class _Plan(NamedTuple):
  """A program in which parameters are weights, by number."""

  inputs: list[Any]
  steps: list[_Step]
  outputs: list[Any]
  weights: list[Any]
  products: list[Product]


class _Axes(NamedTuple):
  """A product of a kernel and an array with rows.

  Attributes:
    kernel: number of the operand that is the kernel, 0 or 1.
    to_matrix: (the kernel's contracted axes, its other axes).
    to_rows: (the other operand's other axes, its contracted axes).
  """

  kernel: int
  to_matrix: tuple[tuple[int, ...], tuple[int, ...]]
  to_rows: tuple[tuple[int, ...], tuple[int, ...]]


def _plan(traced: core.ClosedJaxpr, params: PyTree, gain: Gain) -> _Plan:
  """Computes what depends on parameters alone, and chooses lanes."""
  jaxpr, named = traced.jaxpr, trees.named_leaves(params)
  known: dict[Any, _Constant] = {
    variable: _Constant(jnp.asarray(leaf), frozenset([name]))
    for variable, (name, leaf) in zip(jaxpr.invars, named, strict=False)
  }
  known |= {
    variable: _Constant(value, frozenset())
    for variable, value in zip(jaxpr.constvars, traced.consts, strict=True)
  }
  plan = _Plan(list(jaxpr.invars[len(named) :]), [], [], [], [])
  numbers: dict[Any, int] = {}

  def operand(atom: Any) -> Any:
    if isinstance(atom, core.Literal) or atom not in known:
      return atom
    if atom not in numbers:
      numbers[atom] = len(plan.weights)
      plan.weights.append(known[atom].array)
    return numbers[atom]

  for eqn in jaxpr.eqns:
    if all(isinstance(x, core.Literal) or x in known for x in eqn.invars):
      known |= _computed(eqn, known)
      continue
    axes = _axes(eqn, known)
    kernel = None if axes is None else _chosen(plan, eqn, axes, known, gain)
    if axes is None or kernel is None:
      plan.steps.append(_Step(eqn, [operand(x) for x in eqn.invars]))
      continue
    plan.weights.append(kernel)
    rows = operand(eqn.invars[1 - axes.kernel])
    plan.steps.append(_Step(eqn, [len(plan.weights) - 1, rows], axes))
  plan.outputs.extend(operand(x) for x in jaxpr.outvars)
  return plan


def _computed(
  eqn: core.JaxprEqn, known: dict[Any, _Constant]
) -> dict[Any, _Constant]:
  operands = [
    x.val if isinstance(x, core.Literal) else known[x].array for x in eqn.invars
  ]
  names = frozenset().union(
    *(known[x].names for x in eqn.invars if not isinstance(x, core.Literal))
  )
  results = jaxprs.bind(eqn, operands)
  pairs = zip(eqn.outvars, results, strict=True)
  return {variable: _Constant(x, names) for variable, x in pairs}


def _axes(eqn: core.JaxprEqn, known: dict[Any, _Constant]) -> _Axes | None:
  """Returns the axes of a product with one kernel; None for other equations."""
  if eqn.primitive.name != "dot_general":
    return None
  contracted, batch = eqn.params["dimension_numbers"]
  kernels = [
    i
    for i, x in enumerate(eqn.invars)
    if not isinstance(x, core.Literal) and x in known
  ]
  if any(batch) or len(kernels) != 1:
    return None
  atoms: list[Any] = [*eqn.invars, *eqn.outvars]
  if any(x.aval.dtype != jnp.float32 for x in atoms):
    return None
  (kernel,) = kernels
  ours, others = contracted[kernel], contracted[1 - kernel]

  def free(atom: Any, without: Sequence[int]) -> tuple[int, ...]:
    return tuple(d for d in range(len(_shape(atom))) if d not in without)

  return _Axes(
    kernel,
    (tuple(ours), free(eqn.invars[kernel], ours)),
    (free(eqn.invars[1 - kernel], others), tuple(others)),
  )


def _chosen(
  plan: _Plan,
  eqn: core.JaxprEqn,
  axes: _Axes,
  known: dict[Any, _Constant],
  gain: Gain,
) -> SortedKernel | None:
  """Returns the kernel in lanes if that is faster; records the product."""
  array, names = known[eqn.invars[axes.kernel]]
  first, last = axes.to_matrix
  sizes = [math.prod(array.shape[d] for d in part) for part in axes.to_matrix]
  matrix = np.transpose(np.asarray(array), first + last).reshape(sizes)
  sparsity = 1 - int(np.count_nonzero(matrix)) / max(matrix.size, 1)
  if sparsity < _SPARSE or not matrix.size or not names:
    return None
  other = _shape(eqn.invars[1 - axes.kernel])
  rows = _number_of_rows([other[d] for d in axes.to_rows[0]])
  found = gain(matrix, rows)
  in_lanes = found >= _LEAST_GAIN
  plan.products.append(
    Product(tuple(sorted(names)), matrix.shape, sparsity, rows, found, in_lanes)
  )
  return fan_in_sorted.encode(matrix, rows) if in_lanes else None


def _number_of_rows(sizes: Sequence[Any]) -> int:
  whole = [n if isinstance(n, int) else _SYMBOLIC_ROWS for n in sizes]
  return math.prod(whole)


def _product(rows: jax.Array, kernel: SortedKernel) -> jax.Array:
  """Returns float[B, N] of float[B, K]."""
  return fan_in_sorted.product(kernel, rows.T).T


def _run(plan: _Plan, weights: list[Any], inputs: PyTree) -> list[Array]:
  """Runs a plan."""
  values = dict(zip(plan.inputs, jax.tree.leaves(inputs), strict=True))

  def read(atom: Any) -> Any:
    if isinstance(atom, int):
      return weights[atom]
    return atom.val if isinstance(atom, core.Literal) else values[atom]

  for step in plan.steps:
    operands = [read(x) for x in step.operands]
    if step.axes is None:
      results = jaxprs.bind(step.eqn, operands)
    else:
      results = [_run_product(step.eqn, step.axes, *operands)]
    values |= dict(zip(step.eqn.outvars, results, strict=True))
  return [read(x) for x in plan.outputs]


def _run_product(
  eqn: core.JaxprEqn, axes: _Axes, kernel: SortedKernel, x: jax.Array
) -> jax.Array:
  """Runs one product in lanes, in the axes of the dense one."""
  free, contracted = axes.to_rows
  leading = tuple(x.shape[d] for d in free)
  rows = jnp.transpose(x, free + contracted)
  shape = _shape(eqn.invars[axes.kernel])
  inputs = math.prod(shape[d] for d in axes.to_matrix[0])
  rows = rows.reshape(math.prod(leading), inputs)
  features = tuple(shape[d] for d in axes.to_matrix[1])
  found = _product(rows, kernel).reshape(leading + features)
  if axes.kernel == 1:
    return found
  order = range(found.ndim)
  return jnp.transpose(found, (*order[len(leading) :], *order[: len(leading)]))


def _shape(atom: Any) -> tuple[Any, ...]:
  return atom.aval.shape
