"""How each primitive of JAX is written in ONNX."""

import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from sparsejax.analysis import jaxprs
from sparsejax.export.onnx_graph import (
  Graph,
  Tensor,
  UnsupportedError,
  Value,
  element_type,
  tensor,
  thin,
)


def convert(
  graph: Graph, program: core.ClosedJaxpr, operands: Sequence[Value]
) -> list[Value]:
  """Adds a program to a graph; returns the values of its results.

  Raises:
    UnsupportedError: if it has a primitive without a rule.
  """

  def step(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
    name = eqn.primitive.name
    if name == "scan":
      return _scan(graph, eqn, values)
    if all(isinstance(value, np.ndarray) for value in values):
      return _fold(graph, eqn, values)
    if name not in _RULES:
      raise UnsupportedError(f"the primitive `{name}` has no rule")
    results = _RULES[name](graph, eqn, *values)
    return results if isinstance(results, list) else [results]

  return jaxprs.walk(
    program.jaxpr,
    operands,
    step,
    literal=lambda atom: np.asarray(atom.val),
    constants=[np.asarray(each) for each in program.consts],
  )


def _fold(graph: Graph, eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  """Computes what depends on no input."""
  if eqn.primitive.name == "broadcast_in_dim":
    (value,) = values
    shape = list(eqn.params["shape"])
    ones = [1] * len(shape)
    for axis, to in enumerate(eqn.params["broadcast_dimensions"]):
      ones[to] = value.shape[axis]
    # The axis of a symbolic batch stays 1; `Graph.straight` expands it.
    sizes = [n if isinstance(n, int) else 1 for n in shape]
    return [np.broadcast_to(value.reshape(ones), sizes)]
  if eqn.primitive.name == "iota" and not _is_fixed(eqn):
    raise UnsupportedError("`iota` counts the examples of a batch")
  # What depends on no input is the same for each example: one is enough.
  params = {key: _one(graph, value) for key, value in eqn.params.items()}
  return [np.asarray(each) for each in jaxprs.bind(eqn, values, **params)]


def _is_fixed(eqn: core.JaxprEqn) -> bool:
  return all(isinstance(n, int) for n in jaxprs.shape(eqn.outvars[0]))


def _one(graph: Graph, value: Any) -> Any:
  """Returns a parameter of an equation for a batch of one example."""
  if type(value) is tuple:
    return tuple(_one(graph, each) for each in value)
  if not jax.export.is_symbolic_dim(value):
    return value
  if value != graph.symbol:
    raise UnsupportedError(f"a constant has the size {value}")
  return 1


def _join(
  graph: Graph, values: Sequence[Value]
) -> tuple[list[str], tuple[int, ...]]:
  """Returns names of values in one order of axes, and that order."""
  orders = [value.order for value in values if isinstance(value, Tensor)]
  order = max(orders, key=len)
  order = next((o for o in orders if o != tuple(sorted(o))), order)
  names = []
  for value in values:
    if isinstance(value, np.ndarray):
      value = thin(value)
      names.append(graph.ordered(value, order if value.ndim else ()))
    else:
      names.append(graph.ordered(value, order if value.order else ()))
  return names, order


def _op(kind: str) -> Callable[..., Value]:
  """A rule for what one node computes from each element."""

  def rule(graph: Graph, eqn: core.JaxprEqn, *values: Value) -> Value:
    del eqn  # The node has no options.
    names, order = _join(graph, values)
    return Tensor(graph.node(kind, names)[0], order)

  return rule


def _chain(*kinds: str) -> Callable[..., Value]:
  """A rule for nodes one behind the other."""

  def rule(graph: Graph, eqn: core.JaxprEqn, *values: Value) -> Value:
    result = _op(kinds[0])(graph, eqn, *values)
    for kind in kinds[1:]:
      result = Tensor(graph.node(kind, [result.name])[0], result.order)
    return result

  return rule


def _same(graph: Graph, eqn: core.JaxprEqn, *values: Value) -> list[Value]:
  del graph, eqn  # The identity.
  return list(values)


def _sub(graph: Graph, eqn: core.JaxprEqn, left: Value, right: Value) -> Value:
  # onnxruntime folds additions into convolutions, and no subtractions.
  if isinstance(right, np.ndarray):
    return _op("Add")(graph, eqn, left, -thin(right))
  return _op("Sub")(graph, eqn, left, right)


def _with(kind: str, number: int, *, first: bool, inner: str = ""):
  """A rule for `kind(number, x)` or `kind(x, number)` of `inner(x)`."""

  def rule(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
    if inner:
      x = Tensor(graph.node(inner, [x.name])[0], x.order)
    constant = np.asarray(number, jaxprs.dtype(eqn.invars[0]))
    values = (constant, x) if first else (x, constant)
    return _op(kind)(graph, eqn, *values)

  return rule


def _log1p(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
  shifted = _with("Add", 1, first=False)(graph, eqn, x)
  return _op("Log")(graph, eqn, shifted)


def _integer_pow(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
  power = eqn.params["y"]
  if power == 2:
    return _op("Mul")(graph, eqn, x, x)
  if power == -1:
    return _op("Reciprocal")(graph, eqn, x)
  return _with("Pow", power, first=False)(graph, eqn, x)


def _square(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
  return _op("Mul")(graph, eqn, x, x)


def _rem(graph: Graph, eqn: core.JaxprEqn, *values: Value) -> Value:
  names, order = _join(graph, values)
  return Tensor(graph.node("Mod", names, fmod=1)[0], order)


def _round(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
  if int(eqn.params["rounding_method"]) != 1:
    raise UnsupportedError("`round` rounds halves away from zero")
  return _op("Round")(graph, eqn, x)


def _cast(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
  to = element_type(eqn.params["new_dtype"])
  return Tensor(graph.node("Cast", [x.name], to=to)[0], x.order)


def _select(graph: Graph, eqn: core.JaxprEqn, which: Value, *cases: Value):
  if len(cases) != 2 or jaxprs.dtype(eqn.invars[0]) != np.bool_:
    raise UnsupportedError("`select_n` has more than two cases")
  return _op("Where")(graph, eqn, which, cases[1], cases[0])


def _clamp(graph: Graph, eqn: core.JaxprEqn, low: Value, x: Value, high: Value):
  return _op("Max")(graph, eqn, _op("Min")(graph, eqn, x, high), low)


def _straight(graph: Graph, eqn: core.JaxprEqn, values: Sequence[Value]):
  return [
    graph.straight(value, jaxprs.shape(atom))
    for value, atom in zip(values, eqn.invars, strict=True)
  ]


def _dot(graph: Graph, eqn: core.JaxprEqn, left: Value, right: Value) -> Value:
  (lc, rc), (lb, rb) = eqn.params["dimension_numbers"]
  ranks = [len(jaxprs.shape(atom)) for atom in eqn.invars]
  rank = len(jaxprs.shape(eqn.outvars[0]))
  names = _straight(graph, eqn, (left, right))
  if not lb and ranks[1] == 2 and tuple(lc) == (ranks[0] - 1,):
    if tuple(rc) == (1,) and isinstance(right, np.ndarray):
      names[1] = graph.constant(np.ascontiguousarray(right.T))
    elif tuple(rc) == (1,):
      names[1] = graph.node("Transpose", [names[1]], perm=[1, 0])[0]
    return tensor(graph.node("MatMul", names)[0], rank)
  letters = iter(string.ascii_letters)
  labels = [[next(letters) for _ in range(n)] for n in ranks]
  for a, b in (*zip(lc, rc, strict=True), *zip(lb, rb, strict=True)):
    labels[1][b] = labels[0][a]
  free = [
    [labels[side][a] for a in range(ranks[side]) if a not in taken]
    for side, taken in enumerate(((*lc, *lb), (*rc, *rb)))
  ]
  result = [*(labels[0][a] for a in lb), *free[0], *free[1]]
  equation = f"{''.join(labels[0])},{''.join(labels[1])}->{''.join(result)}"
  return tensor(graph.node("Einsum", names, equation=equation)[0], rank)


def _conv(
  graph: Graph, eqn: core.JaxprEqn, image: Value, kernel: Value
) -> Value:
  params = eqn.params
  numbers = params["dimension_numbers"]
  if params["batch_group_count"] != 1 or set(params["lhs_dilation"]) != {1}:
    raise UnsupportedError("a convolution is transposed or has batch groups")
  pads = np.asarray(params["padding"])
  if (pads < 0).any():
    raise UnsupportedError("a convolution has negative padding")
  name = graph.node(
    "Conv",
    [
      graph.ordered(image, tuple(numbers.lhs_spec)),
      graph.ordered(kernel, tuple(numbers.rhs_spec)),
    ],
    strides=list(params["window_strides"]),
    pads=pads.T.ravel().tolist(),
    dilations=list(params["rhs_dilation"]),
    group=params["feature_group_count"],
  )[0]
  return Tensor(name, tuple(numbers.out_spec))


def _pool(kind: str) -> Callable[..., Value]:
  """A rule for pooling: channels first, and two axes without a window."""

  def rule(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
    params = eqn.params
    pads = np.asarray(params["padding"])
    window = params["window_dimensions"]
    moved = (np.asarray(window) != 1) | (pads != 0).any(1)
    moved |= np.asarray(params["window_strides"]) != 1
    still = np.flatnonzero(~moved).tolist()
    if len(still) < 2 or set(params["base_dilation"]) != {1}:
      raise UnsupportedError("a pooling slides over more than images")
    first = x.order[1] if x.order[1] in still[1:] else still[-1]
    order = (still[0], first)
    order += tuple(a for a in range(len(window)) if a not in order)
    spatial = list(order[2:])
    dilations = [params["window_dilation"][a] for a in spatial]
    options: dict[str, Any] = {"dilations": dilations}
    if kind == "AveragePool":
      if set(dilations) != {1}:
        raise UnsupportedError("a mean is taken over a dilated window")
      options = {"count_include_pad": 1}
    name = graph.node(
      kind,
      [graph.ordered(x, order)],
      kernel_shape=[window[a] for a in spatial],
      strides=[params["window_strides"][a] for a in spatial],
      pads=pads[spatial].T.ravel().tolist(),
      **options,
    )[0]
    if kind == "AveragePool":
      size = np.asarray(np.prod(window), np.float32)
      name = graph.node("Mul", [name, graph.constant(size)])[0]
    return Tensor(name, order)

  return rule


def _reduce(kind: str) -> Callable[..., Value]:
  def rule(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
    axes = eqn.params["axes"]
    places = [x.order.index(axis) for axis in axes]
    inputs = [x.name, graph.integers(places)]
    name = graph.node(kind, inputs, keepdims=0)[0]
    left = [axis for axis in x.order if axis not in axes]
    return Tensor(name, tuple(sorted(left).index(axis) for axis in left))

  return rule


def _arg(kind: str) -> Callable[..., Value]:
  def rule(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
    (axis,) = eqn.params["axes"]
    (name,) = _straight(graph, eqn, [x])
    name = graph.node(kind, [name], axis=axis, keepdims=0)[0]
    to = element_type(eqn.params["index_dtype"])
    name = graph.node("Cast", [name], to=to)[0]
    return tensor(name, len(x.order) - 1)

  return rule


def _cumsum(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
  (name,) = _straight(graph, eqn, [x])
  axis = graph.constant(np.asarray(eqn.params["axis"], np.int64))
  backwards = int(eqn.params["reverse"])
  name = graph.node("CumSum", [name, axis], reverse=backwards)[0]
  return tensor(name, len(x.order))


def _broadcast(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
  shape = eqn.params["shape"]
  kept = eqn.params["broadcast_dimensions"]
  (name,) = _straight(graph, eqn, [x])
  added = [axis for axis in range(len(shape)) if axis not in kept]
  if added:
    name = graph.node("Unsqueeze", [name, graph.integers(added)])[0]
  old = jaxprs.shape(eqn.invars[0])
  grown = [shape[axis] for axis in added]
  grown += [
    1 if n == shape[to] else shape[to] for n, to in zip(old, kept, strict=True)
  ]
  if any(n != 1 for n in grown):
    name = graph.expand(name, shape)
  return tensor(name, len(shape))


def _transpose(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
  del graph  # The tensor stays where it is.
  new = {axis: to for to, axis in enumerate(eqn.params["permutation"])}
  return Tensor(x.name, tuple(new[axis] for axis in x.order))


def _squeeze(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
  (name,) = _straight(graph, eqn, [x])
  axes = graph.integers(eqn.params["dimensions"])
  rank = len(jaxprs.shape(eqn.outvars[0]))
  return tensor(graph.node("Squeeze", [name, axes])[0], rank)


def _reshape(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
  (name,) = _straight(graph, eqn, [x])
  shape = eqn.params["new_sizes"]
  unknown = [n for n in shape if not isinstance(n, int)]
  if len(unknown) == 1:
    sizes = graph.integers([n if isinstance(n, int) else -1 for n in shape])
  else:
    sizes = graph.shape(shape)
  return tensor(graph.node("Reshape", [name, sizes])[0], len(shape))


def _concatenate(graph: Graph, eqn: core.JaxprEqn, *values: Value) -> Value:
  names = _straight(graph, eqn, values)
  name = graph.node("Concat", names, axis=eqn.params["dimension"])[0]
  return tensor(name, len(jaxprs.shape(eqn.outvars[0])))


def _slice(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
  params = eqn.params
  old, new = jaxprs.shape(eqn.invars[0]), jaxprs.shape(eqn.outvars[0])
  strides = params["strides"] or (1,) * len(old)
  changed = [axis for axis in range(len(old)) if old[axis] != new[axis]]
  options = [
    [params["start_indices"][axis] for axis in changed],
    [params["limit_indices"][axis] for axis in changed],
    [x.order.index(axis) for axis in changed],
    [strides[axis] for axis in changed],
  ]
  if not changed:
    return x
  inputs = [x.name, *map(graph.integers, options)]
  return Tensor(graph.node("Slice", inputs)[0], x.order)


def _rev(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> Value:
  axes = [x.order.index(axis) for axis in eqn.params["dimensions"]]
  far = np.iinfo(np.int64).min
  options = [[-1] * len(axes), [far] * len(axes), axes, [-1] * len(axes)]
  inputs = [x.name, *map(graph.integers, options)]
  return Tensor(graph.node("Slice", inputs)[0], x.order)


def _split(graph: Graph, eqn: core.JaxprEqn, x: Tensor) -> list[Value]:
  sizes = eqn.params["sizes"]
  names = graph.node(
    "Split",
    [x.name, graph.integers([int(n) for n in sizes])],
    len(sizes),
    axis=x.order.index(eqn.params["axis"]),
  )
  return [Tensor(name, x.order) for name in names]


def _pad(graph: Graph, eqn: core.JaxprEqn, x: Tensor, fill: Value) -> Value:
  config = np.asarray(eqn.params["padding_config"])
  if (config[:, 2] != 0).any() or (config < 0).any():
    raise UnsupportedError("padding is negative or between elements")
  if not isinstance(fill, np.ndarray):
    raise UnsupportedError("padding depends on the input")
  pads = config[list(x.order), :2].T.ravel().tolist()
  inputs = [x.name, graph.integers(pads), graph.constant(fill)]
  return Tensor(graph.node("Pad", inputs)[0], x.order)


def _gather(
  graph: Graph, eqn: core.JaxprEqn, table: Value, indices: Value
) -> Value:
  """Looks up whole rows, as embeddings do, or slices."""
  if isinstance(indices, np.ndarray):
    return _slices(graph, eqn, table, indices)
  numbers = eqn.params["dimension_numbers"]
  sizes, whole = eqn.params["slice_sizes"], jaxprs.shape(eqn.invars[0])
  rank = len(jaxprs.shape(eqn.outvars[0]))
  batch = len(jaxprs.shape(eqn.invars[1])) - 1
  (axis, *more) = numbers.start_index_map
  rows = (
    not more
    and tuple(numbers.collapsed_slice_dims) == (axis,)
    and not numbers.operand_batching_dims
    and all(
      s == n
      for i, (s, n) in enumerate(zip(sizes, whole, strict=True))
      if i != axis
    )
    and tuple(numbers.offset_dims)
    == tuple(i for i in range(rank) if not axis <= i < axis + batch)
  )
  if not rows:
    raise UnsupportedError("`gather` looks up parts of rows")
  names = _straight(graph, eqn, (table, indices))
  flat = graph.node("Squeeze", [names[1], graph.integers([batch])])[0]
  return tensor(graph.node("Gather", [names[0], flat], axis=axis)[0], rank)


def _slices(
  graph: Graph, eqn: core.JaxprEqn, x: Tensor, indices: np.ndarray
) -> Value:
  """Slices along some axes at once, which JAX writes as a gather.

  Raises:
    UnsupportedError: if an index changes along several axes of the result.
  """
  numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
  if numbers.operand_batching_dims:
    raise UnsupportedError("`gather` has another index for each example")
  rank = len(jaxprs.shape(eqn.outvars[0]))
  free = [axis for axis in range(rank) if axis not in numbers.offset_dims]
  collapsed = numbers.collapsed_slice_dims
  whole = [axis for axis in range(len(sizes)) if axis not in collapsed]
  target = dict(zip(whole, numbers.offset_dims, strict=True))
  name, dropped = x.name, []
  for column, axis in enumerate(numbers.start_index_map):
    found = indices[..., column]
    ways = [a for a in range(found.ndim) if (np.diff(found, axis=a) != 0).any()]
    if len(ways) > (axis in collapsed):
      raise UnsupportedError("`gather` looks up single elements")
    first = found.reshape(-1)[0]
    picked = np.arange(first, first + sizes[axis])
    if ways:
      picked = np.moveaxis(found, ways[0], 0).reshape(found.shape[ways[0]], -1)
      picked = picked[:, 0]
      target[axis] = free[ways[0]]
    elif axis in collapsed:
      dropped.append(axis)
    picked = graph.constant(np.asarray(picked, np.int64))
    place = x.order.index(axis)
    name = graph.node("Gather", [name, picked], axis=place)[0]
  if len(target) != rank:
    raise UnsupportedError("`gather` looks up single elements")
  if dropped:
    places = graph.integers([x.order.index(axis) for axis in dropped])
    name = graph.node("Squeeze", [name, places])[0]
  return Tensor(name, tuple(target[axis] for axis in x.order if axis in target))


def _dynamic_slice(
  graph: Graph, eqn: core.JaxprEqn, x: Value, *starts: Value
) -> Value:
  if not all(isinstance(start, np.ndarray) for start in starts):
    raise UnsupportedError("`dynamic_slice` starts where the input says")
  shape, sizes = jaxprs.shape(eqn.invars[0]), eqn.params["slice_sizes"]
  begin = [
    int(np.clip(start, 0, n - size)) if n != size else 0
    for start, n, size in zip(starts, shape, sizes, strict=True)
  ]
  changed = [axis for axis, n in enumerate(shape) if n != sizes[axis]]
  options = [
    [begin[axis] for axis in changed],
    [begin[axis] + sizes[axis] for axis in changed],
    [x.order.index(axis) for axis in changed],
  ]
  inputs = [x.name, *map(graph.integers, options)]
  return Tensor(graph.node("Slice", inputs)[0], x.order)


def _scan(graph: Graph, eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  """Writes the iterations one after another."""
  body, first, end = jaxprs.scan_body(eqn)
  carried, stacked = values[first:end], []
  order = range(eqn.params["length"])
  for i in reversed(order) if eqn.params["reverse"] else order:
    sliced = [_index(graph, value, i) for value in values[end:]]
    results = convert(graph, body, [*values[:first], *carried, *sliced])
    carried = results[: end - first]
    stacked.append(results[end - first :])
  if eqn.params["reverse"]:
    stacked.reverse()
  shapes = [jaxprs.shape(v) for v in eqn.outvars[end - first :]]
  slices = zip(*stacked, strict=True) if shapes else ()
  return [
    *carried,
    *(_stack(graph, s, n) for s, n in zip(slices, shapes, strict=True)),
  ]


def _index(graph: Graph, value: Value, i: int) -> Value:
  if isinstance(value, np.ndarray):
    return value[i]
  name = graph.ordered(value, tuple(range(len(value.order))))
  index = graph.constant(np.asarray(i, np.int64))
  name = graph.node("Gather", [name, index], axis=0)[0]
  return tensor(name, len(value.order) - 1)


def _stack(
  graph: Graph, slices: Sequence[Value], shape: Sequence[Any]
) -> Value:
  if all(isinstance(value, np.ndarray) for value in slices):
    return np.stack(slices)
  names = [
    graph.node(
      "Unsqueeze", [graph.straight(value, shape[1:]), graph.integers([0])]
    )[0]
    for value in slices
  ]
  return tensor(graph.node("Concat", names, axis=0)[0], len(shape))


_NODES = {
  "abs": "Abs",
  "acos": "Acos",
  "add": "Add",
  "add_any": "Add",
  "and": "And",
  "asin": "Asin",
  "atan": "Atan",
  "ceil": "Ceil",
  "cos": "Cos",
  "div": "Div",
  "eq": "Equal",
  "erf": "Erf",
  "exp": "Exp",
  "floor": "Floor",
  "ge": "GreaterOrEqual",
  "gt": "Greater",
  "le": "LessOrEqual",
  "log": "Log",
  "logistic": "Sigmoid",
  "lt": "Less",
  "max": "Max",
  "min": "Min",
  "mul": "Mul",
  "neg": "Neg",
  "not": "Not",
  "or": "Or",
  "pow": "Pow",
  "sign": "Sign",
  "sin": "Sin",
  "sqrt": "Sqrt",
  "tan": "Tan",
  "tanh": "Tanh",
  "xor": "Xor",
}

_RULES: dict[str, Callable[..., Any]] = {
  **{name: _op(kind) for name, kind in _NODES.items()},
  **dict.fromkeys(
    ("copy", "copy_p", "name", "sharding_constraint", "stop_gradient"), _same
  ),
  "argmax": _arg("ArgMax"),
  "argmin": _arg("ArgMin"),
  "broadcast_in_dim": _broadcast,
  "clamp": _clamp,
  "concatenate": _concatenate,
  "conv_general_dilated": _conv,
  "convert_element_type": _cast,
  "cumsum": _cumsum,
  "dot_general": _dot,
  "dynamic_slice": _dynamic_slice,
  "erfc": _with("Sub", 1, first=True, inner="Erf"),
  "exp2": _with("Pow", 2, first=True),
  "expm1": _with("Sub", 1, first=False, inner="Exp"),
  "gather": _gather,
  "integer_pow": _integer_pow,
  "log1p": _log1p,
  "ne": _chain("Equal", "Not"),
  "pad": _pad,
  "reduce_max": _reduce("ReduceMax"),
  "reduce_min": _reduce("ReduceMin"),
  "reduce_prod": _reduce("ReduceProd"),
  "reduce_sum": _reduce("ReduceSum"),
  "reduce_window_max": _pool("MaxPool"),
  "reduce_window_sum": _pool("AveragePool"),
  "rem": _rem,
  "reshape": _reshape,
  "rev": _rev,
  "round": _round,
  "rsqrt": _chain("Sqrt", "Reciprocal"),
  "select_n": _select,
  "slice": _slice,
  "split": _split,
  "square": _square,
  "squeeze": _squeeze,
  "sub": _sub,
  "transpose": _transpose,
}
