"""How each primitive couples the channels of its operands and results.

The value of an array is, for each axis, either

- int64[n], a node for each index: two indices with the same node are the same
  channel. A negative node is fixed: an index that cannot be removed, such as a
  position of an image; it freezes what it is united with; or
- None: all indices are alike, as along an axis that was broadcast.

A rule unites nodes, freezes them, and returns the values of the results. What
it returns must hold for any subset of the channels: the result of the equation
on the remaining channels is the remaining part of the result.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

from sparsejax.analysis import jaxprs

WRITER, READER = 1, 2

Nodes = np.ndarray | None
Axes = tuple[Nodes, ...]


class Value(NamedTuple):
  """The channels of an array.

  Attributes:
    axes: nodes of each axis.
    data: whether the array depends on an input.
  """

  axes: Axes
  data: bool


class Graph:
  """Nodes, what unites them, and what freezes them.

  Edges are collected, and components found once at the end: nothing here asks
  for them earlier.

  Attributes:
    axes: variable of a program, or `id` of a literal -> its channels.
    freezes: (nodes, reason) of what was frozen.
    unknown: primitive without a rule -> how many channels it froze at once.
  """

  def __init__(self) -> None:
    self.size = 0
    self.axes: dict[Any, Axes] = {}
    self.freezes: list[tuple[np.ndarray, str]] = []
    self.unknown: Counter[str] = Counter()
    self._edges: list[tuple[np.ndarray, np.ndarray]] = []
    self._marks: list[tuple[np.ndarray, int]] = []
    self._fixed: list[str] = []  # Node -1 - i is fixed for the i-th reason.

  def nodes(self, n: int) -> np.ndarray:
    """Returns n new nodes."""
    self.size += n
    return np.arange(self.size - n, self.size)

  def nodes_of(self, shape: Sequence[int]) -> Axes:
    """Returns new nodes for each axis of a parameter or a constant."""
    return tuple(self.nodes(n) for n in shape)

  def fixed_node(self, reason: str) -> int:
    """Returns the node of an index that is never removed."""
    if reason not in self._fixed:
      self._fixed.append(reason)
    return -1 - self._fixed.index(reason)

  def unite(self, a: Nodes, b: Nodes) -> Nodes:
    """Unites the channels of two axes of the same length; returns them."""
    if a is None or b is None:
      return b if a is None else a
    for fixed, other in ((a, b), (b, a)):
      for node in np.unique(fixed[fixed < 0]):
        self._freeze(other[fixed == node], self._fixed[-1 - node])
    both = (a >= 0) & (b >= 0) & (a != b)
    if both.any():
      self._edges.append((a[both], b[both]))
    return np.where(b < 0, b, a)

  def freeze(self, axes: Iterable[Nodes], reason: str) -> None:
    """Forbids to remove channels."""
    for nodes in axes:
      if nodes is not None:
        self._freeze(nodes, reason)

  def freeze_all(self, values: Iterable[Value], reason: str) -> None:
    """Forbids to remove any channel of some arrays."""
    for value in values:
      self.freeze(value.axes, reason)

  def mark(self, nodes: Nodes, role: int) -> None:
    """Notes that channels are written or read here."""
    if nodes is not None:
      self._marks.append((nodes[nodes >= 0], role))

  def roots(self) -> np.ndarray:
    """Returns int64[nodes]: the lowest node that each node is united with."""
    root = np.arange(self.size)
    if not self._edges:
      return root
    a, b = map(np.concatenate, zip(*self._edges, strict=True))
    while True:
      low = np.minimum(root[a], root[b])
      high = np.maximum(root[a], root[b])
      if np.array_equal(low, high):
        return root
      np.minimum.at(root, high, low)
      while not np.array_equal(root, root[root]):
        root = root[root]  # Halves the paths.

  def roles(self) -> np.ndarray:
    """Returns int64[nodes]: the roles that were noted, as bits."""
    found = np.zeros(self.size, np.int64)
    for nodes, role in self._marks:
      found[nodes] |= role
    return found

  def run(
    self, program: core.ClosedJaxpr, operands: Sequence[Value]
  ) -> list[Value]:
    """Walks through a program; returns the channels of its results."""
    constants = [
      Value(self.nodes_of(np.shape(each)), False) for each in program.consts
    ]
    jaxpr = program.jaxpr
    variables = [*jaxpr.constvars, *jaxpr.invars]
    self._record(variables, [*constants, *operands])
    return jaxprs.walk(
      jaxpr, operands, self._step, literal=self._literal, constants=constants
    )

  def _step(self, eqn: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    data = any(value.data for value in operands)
    rule = RULES.get(eqn.primitive.name)
    if eqn.primitive.name == "scan":
      results = _scan(self, eqn, operands)
    elif eqn.primitive.name == "split":
      results = [Value(axes, data) for axes in _split(eqn, *operands)]
    elif rule is not None:
      results = [Value(rule(self, eqn, *operands), data)]
    else:
      results = self._unknown(eqn, operands, data)
    self._record(eqn.outvars, results)
    return results

  def _unknown(
    self, eqn: core.JaxprEqn, operands: list[Value], data: bool
  ) -> list[Value]:
    """Freezes what it touches, and no more than that."""
    name = eqn.primitive.name
    if any(
      nodes is not None and (nodes >= 0).any()
      for value in operands
      for nodes in value.axes
    ):
      self.unknown[name] += 1
      self.freeze_all(operands, f"`{name}`, which has no rule")
    fill = f"the result of `{name}`"
    return [
      fixed(self, jaxprs.shape(v), fill)._replace(data=data)
      for v in eqn.outvars
    ]

  def _literal(self, atom: core.Literal) -> Value:
    value = Value(self.nodes_of(np.shape(atom.val)), False)
    self.axes[id(atom)] = value.axes
    return value

  def _record(self, variables: Sequence[Any], values: Sequence[Value]) -> None:
    for variable, value in zip(variables, values, strict=True):
      self.axes[variable] = value.axes

  def _freeze(self, nodes: np.ndarray, reason: str) -> None:
    nodes = nodes[nodes >= 0]
    if nodes.size:
      self.freezes.append((nodes, reason))


def fixed(graph: Graph, shape: Sequence[Any], reason: str) -> Value:
  """Returns data whose indices all stay."""
  node = graph.fixed_node(reason)
  return Value(tuple(_fill(n, node) for n in shape), True)


def _fill(n: Any, node: int) -> Nodes:
  # A symbolic size, such as that of a batch, has no indices to name.
  return np.full(n, node) if isinstance(n, int) else None


def _has_nodes(nodes: Nodes) -> bool:
  return nodes is not None and bool((nodes >= 0).any())


def _elementwise(graph: Graph, eqn: core.JaxprEqn, *operands: Value) -> Axes:
  shape = jaxprs.shape(eqn.outvars[0])
  # The nodes of the largest operand stand for all, so that a kernel that is
  # multiplied by a mask or a gain is still that kernel.
  ordered = sorted(operands, key=_labels, reverse=True)
  axes: list[Nodes] = [None] * len(shape)
  for axes_of, _ in ordered:
    for axis, nodes in enumerate(axes_of):
      if nodes is not None and len(nodes) == 1 != shape[axis]:
        graph.freeze([nodes], "a broadcast")
      else:
        axes[axis] = graph.unite(axes[axis], nodes)
  return tuple(axes)


def _labels(value: Value) -> int:
  return sum(map(_has_nodes, value.axes))


def _dot(graph: Graph, eqn: core.JaxprEqn, left: Value, right: Value) -> Axes:
  (contract, batch) = eqn.params["dimension_numbers"]
  for a, b in zip(*contract, strict=True):
    graph.unite(left.axes[a], right.axes[b])
  batched = [
    graph.unite(left.axes[a], right.axes[b])
    for a, b in zip(*batch, strict=True)
  ]
  free = []
  for side, (value, other) in enumerate(((left, right), (right, left))):
    kept = [
      nodes
      for axis, nodes in enumerate(value.axes)
      if axis not in (*contract[side], *batch[side])
    ]
    free += kept
    if other.data and not value.data:
      _mark(graph, kept, WRITER)
      _mark(graph, [value.axes[axis] for axis in contract[side]], READER)
  return (*batched, *free)


def _mark(graph: Graph, axes: Iterable[Nodes], role: int) -> None:
  for nodes in axes:
    graph.mark(nodes, role)


def _conv(graph: Graph, eqn: core.JaxprEqn, image: Value, kernel: Value):
  numbers = eqn.params["dimension_numbers"]
  batch, features, *_ = numbers.lhs_spec
  out, contracted, *window = numbers.rhs_spec
  graph.freeze([kernel.axes[axis] for axis in window], "a window")
  channels = kernel.axes[out]
  result: list[Nodes] = [None] * len(image.axes)
  shape = jaxprs.shape(eqn.outvars[0])
  for axis in numbers.out_spec[2:]:
    result[axis] = _fill(shape[axis], graph.fixed_node("a position"))
  groups = eqn.params["feature_group_count"]
  if eqn.params["batch_group_count"] != 1:
    graph.freeze_all([image, kernel], "a convolution with batch groups")
  elif groups == 1:
    graph.unite(image.axes[features], kernel.axes[contracted])
    graph.mark(channels, WRITER)
    graph.mark(kernel.axes[contracted], READER)
  elif groups == jaxprs.shape(eqn.invars[0])[features]:
    # Depthwise: each channel has its own filters.
    own = image.axes[features]
    times = jaxprs.shape(eqn.invars[1])[out] // groups
    graph.freeze([kernel.axes[contracted]], "a depthwise kernel")
    channels = graph.unite(channels, None if own is None else own.repeat(times))
  else:
    graph.freeze_all([image, kernel], "a grouped convolution")
  result[numbers.out_spec[0]] = image.axes[batch]
  result[numbers.out_spec[1]] = channels
  return tuple(result)


def _broadcast(graph: Graph, eqn: core.JaxprEqn, value: Value, *_: Value):
  shape = jaxprs.shape(eqn.outvars[0])
  result: list[Nodes] = [None] * len(shape)
  for nodes, axis in zip(
    value.axes, eqn.params["broadcast_dimensions"], strict=True
  ):
    if nodes is not None and len(nodes) != shape[axis]:
      graph.freeze([nodes], "a broadcast")
    else:
      result[axis] = nodes
  return tuple(result)


def _transpose(graph: Graph, eqn: core.JaxprEqn, value: Value) -> Axes:
  del graph  # Nothing is united.
  return tuple(value.axes[axis] for axis in eqn.params["permutation"])


def _squeeze(graph: Graph, eqn: core.JaxprEqn, value: Value) -> Axes:
  return _without(graph, value, eqn.params["dimensions"], "a squeezed axis")


def _reduce(graph: Graph, eqn: core.JaxprEqn, value: Value, *_: Value) -> Axes:
  axes = eqn.params["axes"]
  return _without(graph, value, axes, f"`{eqn.primitive.name}`")


def _without(
  graph: Graph, value: Value, dropped: Sequence[Any], reason: str
) -> Axes:
  graph.freeze([value.axes[axis] for axis in dropped], reason)
  return tuple(
    nodes for axis, nodes in enumerate(value.axes) if axis not in dropped
  )


def _along(key: str) -> Callable[..., Axes]:
  """A rule for what mixes the indices of one axis and keeps its size."""

  def rule(graph: Graph, eqn: core.JaxprEqn, value: Value) -> Axes:
    axis = eqn.params[key]
    reason = f"`{eqn.primitive.name}`"
    return tuple(
      _moved(graph, nodes, n, reason) if i == axis else nodes
      for i, (nodes, n) in enumerate(
        zip(value.axes, jaxprs.shape(eqn.outvars[0]), strict=True)
      )
    )

  return rule


def _moved(graph: Graph, nodes: Nodes, n: Any, reason: str) -> Nodes:
  """Freezes an axis whose indices are moved or mixed; returns the new axis."""
  graph.freeze([nodes], reason)
  return _fill(n, graph.fixed_node(reason))


def _reduce_window(graph: Graph, eqn: core.JaxprEqn, value: Value, *_: Value):
  params = eqn.params
  shape = jaxprs.shape(eqn.outvars[0])
  result = []
  for axis, nodes in enumerate(value.axes):
    still = all(
      (
        params["window_dimensions"][axis] == 1,
        params["window_strides"][axis] == 1,
        tuple(params["padding"][axis]) == (0, 0),
        (params.get("base_dilation") or [1] * len(shape))[axis] == 1,
      )
    )
    moved = not still
    result.append(
      _moved(graph, nodes, shape[axis], "a window") if moved else nodes
    )
  return tuple(result)


def _concatenate(graph: Graph, eqn: core.JaxprEqn, *operands: Value) -> Axes:
  dimension = eqn.params["dimension"]
  result: list[Nodes] = [None] * len(jaxprs.shape(eqn.outvars[0]))
  for axis in range(len(result)):
    parts = [value.axes[axis] for value in operands]
    if axis != dimension:
      for nodes in parts:
        result[axis] = graph.unite(result[axis], nodes)
    elif any(nodes is not None for nodes in parts):
      sizes = [jaxprs.shape(atom)[axis] for atom in eqn.invars]
      result[axis] = np.concatenate(
        [
          graph.nodes(n) if nodes is None else nodes
          for nodes, n in zip(parts, sizes, strict=True)
        ]
      )
  return tuple(result)


def _slice(graph: Graph, eqn: core.JaxprEqn, value: Value) -> Axes:
  del graph  # What is cut off stays coupled to what it came from.
  starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
  strides = eqn.params["strides"] or (1,) * len(starts)
  return tuple(
    None if nodes is None else nodes[start:limit:stride]
    for nodes, start, limit, stride in zip(
      value.axes, starts, limits, strides, strict=True
    )
  )


def _split(eqn: core.JaxprEqn, value: Value) -> list[Axes]:
  cuts = np.cumsum([0, *eqn.params["sizes"]])
  found = []
  for start, end in zip(cuts[:-1], cuts[1:], strict=True):
    axes = list(value.axes)
    nodes = axes[eqn.params["axis"]]
    axes[eqn.params["axis"]] = None if nodes is None else nodes[start:end]
    found.append(tuple(axes))
  return found


def _rev(graph: Graph, eqn: core.JaxprEqn, value: Value) -> Axes:
  del graph  # The channels move with their nodes.
  dimensions = eqn.params["dimensions"]
  return tuple(
    nodes[::-1] if axis in dimensions and nodes is not None else nodes
    for axis, nodes in enumerate(value.axes)
  )


def _pad(graph: Graph, eqn: core.JaxprEqn, value: Value, fill: Value) -> Axes:
  del fill  # A scalar.
  result = []
  for axis, (low, high, interior) in enumerate(eqn.params["padding_config"]):
    nodes, n = value.axes[axis], jaxprs.shape(eqn.outvars[0])[axis]
    if not (low or high or interior):
      result.append(nodes)
    elif (
      nodes is None or not _has_nodes(nodes) or min(low, high, -interior) < 0
    ):
      result.append(_moved(graph, nodes, n, "padding"))
    else:
      parts = (graph.nodes(int(low)), nodes, graph.nodes(int(high)))
      result.append(np.concatenate(parts))
  return tuple(result)


def _reshape(graph: Graph, eqn: core.JaxprEqn, value: Value, *_: Value) -> Axes:
  old, new = jaxprs.shape(eqn.invars[0]), jaxprs.shape(eqn.outvars[0])
  result: list[Nodes] = [None] * len(new)
  for sources, targets in blocks(old, new):
    _reshape_block(graph, value.axes, old, sources, result, new, targets)
  return tuple(result)


def blocks(
  old: Sequence[Any], new: Sequence[Any]
) -> list[tuple[list[int], list[int]]]:
  """Returns the smallest blocks of axes that a reshape maps to each other.

  Args:
    old: shape before; sizes may be symbolic.
    new: shape after.
  """
  found, a, b = [], 0, 0
  while a < len(old) or b < len(new):
    sources, targets = [a][: len(old) - a], [b][: len(new) - b]
    a, b = a + 1, b + 1
    while (left := _size(old, sources)) != (right := _size(new, targets)):
      if b >= len(new) or (a < len(old) and _is_less(left, right)):
        sources, a = [*sources, a], a + 1
      else:
        targets, b = [*targets, b], b + 1
    found.append((sources, targets))
  return found


def _size(shape: Sequence[Any], axes: Sequence[int]) -> Any:
  return math.prod(shape[axis] for axis in axes)


def _is_less(a: Any, b: Any) -> bool:
  try:
    return bool(a < b)
  except core.InconclusiveDimensionOperation:
    return False


def _reshape_block(
  graph: Graph,
  axes: Axes,
  old: Sequence[Any],
  sources: Sequence[int],
  result: list[Nodes],
  new: Sequence[Any],
  targets: Sequence[int],
) -> None:
  """Sets the nodes of the axes that a block of axes becomes.

  Where several axes with channels merge, the last one keeps them: in the kernel
  of a convolution written as a product, the window comes first. Where an axis
  splits, its channels stay together in the major part (heads, or groups of
  channels), and the minor part is fixed.
  """
  labelled = [axis for axis in sources if _has_nodes(axes[axis])]
  wide = [axis for axis in targets if new[axis] != 1]
  if not labelled:
    found = [axes[axis] for axis in sources]
    reasons = [int(nodes[0]) for nodes in found if nodes is not None]
    for axis in targets if reasons else ():
      result[axis] = _fill(new[axis], reasons[-1])
    return
  *others, kept = labelled
  if old[kept] == 1 and wide:
    graph.freeze([axes[kept]], "a reshape")
    return
  graph.freeze([axes[axis] for axis in others], "a reshape")
  nodes = axes[kept]
  assert nodes is not None
  sizes = [old[axis] for axis in sources]
  position = sources.index(kept)
  before, after = math.prod(sizes[:position]), math.prod(sizes[position + 1 :])
  nodes = np.tile(nodes.repeat(after), before)
  if not wide:
    result[targets[0]] = nodes if targets else None
    return
  major, *minor = wide
  per = len(nodes) // new[major]
  for column in nodes.reshape(new[major], per).T[1:]:
    graph.unite(nodes[::per], column)
  result[major] = nodes[::per]
  for axis in minor:
    result[axis] = _fill(new[axis], graph.fixed_node("a part of a channel"))


def _gather(
  graph: Graph, eqn: core.JaxprEqn, value: Value, indices: Value
) -> Axes:
  numbers = eqn.params["dimension_numbers"]
  sizes = eqn.params["slice_sizes"]
  graph.freeze(indices.axes, "indices")
  shape = jaxprs.shape(eqn.outvars[0])
  result: list[Nodes] = [
    _fill(n, graph.fixed_node("a looked-up position")) for n in shape
  ]
  dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
  kept = [axis for axis in range(len(sizes)) if axis not in dropped]
  whole = jaxprs.shape(eqn.invars[0])
  for axis, to in zip(kept, numbers.offset_dims, strict=True):
    if sizes[axis] == whole[axis] and axis not in numbers.start_index_map:
      result[to] = value.axes[axis]
      if indices.data and not value.data:
        graph.mark(value.axes[axis], WRITER)
    else:
      graph.freeze([value.axes[axis]], "a lookup")
  graph.freeze([value.axes[axis] for axis in dropped], "a lookup")
  return tuple(result)


def _dynamic_slice(
  graph: Graph, eqn: core.JaxprEqn, value: Value, *_: Value
) -> Axes:
  whole, shape = jaxprs.shape(eqn.invars[0]), jaxprs.shape(eqn.outvars[0])
  return tuple(
    nodes if n == m else _moved(graph, nodes, m, "a lookup")
    for nodes, n, m in zip(value.axes, whole, shape, strict=True)
  )


def _iota(graph: Graph, eqn: core.JaxprEqn) -> Axes:
  return fixed(graph, jaxprs.shape(eqn.outvars[0]), "a position").axes


def _scan(
  graph: Graph, eqn: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
  """The same channels in every iteration; the scanned axis is fixed."""
  body, first, end = jaxprs.scan_body(eqn)
  graph.freeze([v.axes[0] for v in operands[end:]], "an axis of layers")
  sliced = [Value(value.axes[1:], value.data) for value in operands[end:]]
  carried = operands[first:end]
  while True:
    results = graph.run(body, [*operands[:first], *carried, *sliced])
    joined = [
      Value(tuple(map(graph.unite, a.axes, b.axes)), a.data or b.data)
      for a, b in zip(carried, results, strict=False)
    ]
    if list(map(_kind, joined)) == list(map(_kind, carried)):
      break
    carried = joined
  layers = _fill(eqn.params["length"], graph.fixed_node("an axis of layers"))
  stacked = results[end - first :]
  return [*joined, *(Value((layers, *v.axes), v.data) for v in stacked)]


def _kind(value: Value) -> Any:
  """What another iteration may change: which axes have nodes, and data."""
  return [nodes is None for nodes in value.axes], value.data


ELEMENTWISE = tuple(
  """
  abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e
  bessel_i1e cbrt ceil clamp clz conj convert_element_type copy copy_p cos cosh
  digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt imag integer_pow
  is_finite le lgamma log log1p logistic lt max min mul name ne neg nextafter
  not or population_count pow real reduce_precision rem round rsqrt select_n
  sharding_constraint shift_left shift_right_arithmetic shift_right_logical
  sign sin sinh sqrt square stop_gradient sub tan tanh xor
  """.split()
)
"""Primitives that act on each element alone."""

REDUCTIONS = tuple(
  """
  argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod
  reduce_sum reduce_xor
  """.split()
)
"""Primitives that reduce whole axes."""

POOLINGS = ("reduce_window_max", "reduce_window_min", "reduce_window_sum")
"""Primitives that reduce windows."""

RULES: dict[str, Callable[..., Axes]] = {
  **dict.fromkeys(ELEMENTWISE, _elementwise),
  **dict.fromkeys(REDUCTIONS, _reduce),
  **dict.fromkeys(
    ("cumsum", "cumlogsumexp", "cummax", "cummin", "cumprod"), _along("axis")
  ),
  **dict.fromkeys(POOLINGS, _reduce_window),
  "broadcast_in_dim": _broadcast,
  "concatenate": _concatenate,
  "conv_general_dilated": _conv,
  "dot_general": _dot,
  "dynamic_slice": _dynamic_slice,
  "gather": _gather,
  "iota": _iota,
  "pad": _pad,
  "reshape": _reshape,
  "rev": _rev,
  "slice": _slice,
  "squeeze": _squeeze,
  "transpose": _transpose,
}
