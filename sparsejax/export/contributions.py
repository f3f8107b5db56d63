"""Which channels of a network contribute nothing for any input.

A channel is consumed where it is contracted: multiplied by a kernel, or by
another activation, and summed. It contributes nothing if at each of these
places one of the two factors is exactly 0 for every input. The forward pass is
computed once, next to a second one that knows for each element whether it
depends on the inputs at all: behind a dead filter nothing does, so the values
of that one pass are those of every pass, and whether they are 0 (a dead filter
with a masked batch norm, a negative bias in front of a ReLU) can be seen.

Values are taken to be finite: 0 times a value is 0.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jaxtyping import PyTree

from sparsejax.analysis import coupling, jaxprs
from sparsejax.analysis.coupling_rules import Nodes


class _Known(NamedTuple):
  """A value of the forward pass.

  Attributes:
    array: its elements for the example inputs.
    depends: bool, for each element whether it depends on the inputs; None if
      no element does.
  """

  array: Any
  depends: Any


class _Use(NamedTuple):
  """Channels that are contracted: their nodes, and bool[n], which count."""

  nodes: np.ndarray
  counts: Any


def contributing(
  program: core.ClosedJaxpr,
  coupled: coupling.Coupling,
  params: PyTree,
  inputs: PyTree,
) -> np.ndarray:
  """Returns bool[G], whether a group of channels may contribute to an output.

  Args:
    program: program of `jaxprs.trace`.
    coupled: its groups.
    params: the parameters, with zeros where they are masked.
    inputs: the inputs that the program was traced with; only their shapes
      matter.
  """
  nodes: list[np.ndarray] = []

  @jax.jit
  def uses(leaves: Any, fed: Any, consts: Any) -> list[Any]:
    found: list[_Use] = []
    known = [_Known(x, None) for x in leaves]
    known += [_Known(x, jnp.ones(jnp.shape(x), bool)) for x in fed]
    _Pass(coupled.axes, found).run(
      program.jaxpr, known, [_Known(x, None) for x in consts]
    )
    nodes.extend(use.nodes for use in found)
    return [use.counts for use in found]

  counted = uses(
    jax.tree.leaves(params), jax.tree.leaves(inputs), program.consts
  )
  counts = np.zeros(len(coupled.groups), bool)
  for where, which in zip(nodes, counted, strict=True):
    groups = coupled.group_of[where[np.asarray(which) & (where >= 0)]]
    counts[groups[groups >= 0]] = True
  return counts


class _Pass(NamedTuple):
  """The forward pass, and where it contracts channels."""

  axes: Mapping[Any, tuple[Nodes, ...]]
  found: list[_Use]

  def run(
    self,
    jaxpr: core.Jaxpr,
    operands: Sequence[_Known],
    constants: Sequence[_Known],
  ) -> list[_Known]:
    return jaxprs.walk(
      jaxpr,
      operands,
      self._step,
      literal=lambda atom: _Known(atom.val, None),
      constants=constants,
    )

  def _step(self, eqn: core.JaxprEqn, operands: list[_Known]) -> list[_Known]:
    name = eqn.primitive.name
    if name == "scan":
      return self._scan(eqn, operands)
    if name in _PRODUCTS:
      self._note_uses(eqn, operands)
    arrays = jaxprs.bind(eqn, [known.array for known in operands])
    if all(known.depends is None for known in operands):
      return [_Known(array, None) for array in arrays]
    depends = _RULES.get(name, _anything)(eqn, operands)
    each = depends if name == "split" else [depends] * len(arrays)
    return [
      _Known(array, jnp.broadcast_to(which, jnp.shape(array)))
      for array, which in zip(arrays, each, strict=True)
    ]

  def _note_uses(self, eqn: core.JaxprEqn, operands: list[_Known]) -> None:
    for left, right in _contracted(eqn):
      nodes = [
        self.axes[key][axis]
        for atom, axis in zip(eqn.invars, (left, right), strict=True)
        for key in [id(atom) if isinstance(atom, core.Literal) else atom]
      ]
      either = next((each for each in nodes if each is not None), None)
      if either is not None:
        counts = [
          _any_but(_matters(known), axis)
          for known, axis in zip(operands, (left, right), strict=True)
        ]
        self.found.append(_Use(either, counts[0] & counts[1]))

  def _scan(self, eqn: core.JaxprEqn, operands: list[_Known]) -> list[_Known]:
    """Runs the iterations one after another."""
    body, first, end = jaxprs.scan_body(eqn)
    constants = [_Known(x, None) for x in body.consts]
    carried, stacked = operands[first:end], []
    length = eqn.params["length"]
    order = range(length)
    for i in reversed(order) if eqn.params["reverse"] else order:
      sliced = [_index(known, i) for known in operands[end:]]
      inputs = [*operands[:first], *carried, *sliced]
      results = self.run(body.jaxpr, inputs, constants)
      carried = results[: end - first]
      stacked.append(results[end - first :])
    if eqn.params["reverse"]:
      stacked.reverse()
    return [*carried, *map(_stack, zip(*stacked, strict=True))]


def _index(known: _Known, i: int) -> _Known:
  depends = known.depends
  return _Known(known.array[i], None if depends is None else depends[i])


def _stack(slices: Sequence[_Known]) -> _Known:
  arrays = jnp.stack([known.array for known in slices])
  if all(known.depends is None for known in slices):
    return _Known(arrays, None)
  return _Known(arrays, jnp.stack([_depends(known) for known in slices]))


def _depends(known: _Known) -> Any:
  if known.depends is None:
    return jnp.zeros(jnp.shape(known.array), bool)
  return known.depends


def _matters(known: _Known) -> Any:
  """Whether an element may be other than 0 for some input."""
  nonzero = jnp.asarray(known.array) != 0
  return nonzero if known.depends is None else nonzero | known.depends


def _any_but(matters: Any, axis: int) -> Any:
  others = [other for other in range(matters.ndim) if other != axis]
  return matters.any(axis=others)


def _contracted(eqn: core.JaxprEqn) -> list[tuple[int, int]]:
  """Returns the pairs of axes that a product sums over."""
  numbers = eqn.params["dimension_numbers"]
  if eqn.primitive.name == "dot_general":
    return list(zip(*numbers[0], strict=True))
  if eqn.params["feature_group_count"] != 1:
    return []  # Depthwise: nothing is summed. Other groups are frozen.
  return [(numbers.lhs_spec[1], numbers.rhs_spec[1])]


_PRODUCTS = ("dot_general", "conv_general_dilated")

# A rule returns bool for each element of the result, or what broadcasts to it.
_Rule = Callable[[core.JaxprEqn, list[_Known]], Any]


def _anything(eqn: core.JaxprEqn, operands: list[_Known]) -> Any:
  del eqn, operands  # Without a rule, all elements depend on all.
  return jnp.ones((), bool)


def _elementwise(eqn: core.JaxprEqn, operands: list[_Known]) -> Any:
  depends = jnp.zeros(jaxprs.shape(eqn.outvars[0]), bool)
  for known in operands:
    if known.depends is not None:
      depends |= known.depends
  return depends


def _product(eqn: core.JaxprEqn, operands: list[_Known]) -> Any:
  """0 times anything is 0: b(depends, matters) or b(matters, depends)."""
  left, right = operands
  params = {"preferred_element_type": jnp.float32}
  params = params if eqn.primitive.name in _PRODUCTS else {}

  def product(a: Any, b: Any) -> Any:
    floats = (a.astype(jnp.float32), b.astype(jnp.float32))
    return jaxprs.bind(eqn, floats, **params)[0] > 0

  depends = jnp.zeros((), bool)
  if left.depends is not None:
    depends |= product(left.depends, _matters(right))
  if right.depends is not None:
    depends |= product(_matters(left), right.depends)
  return depends


def _quotient(eqn: core.JaxprEqn, operands: list[_Known]) -> Any:
  """0 divided by anything is 0."""
  return _elementwise(eqn, operands) & _matters(operands[0])


def _moves(eqn: core.JaxprEqn, operands: list[_Known]) -> Any:
  """What moves elements moves this with them."""
  moved = [_depends(known).astype(jnp.float32) for known in operands]
  return jaxprs.bind(eqn, moved)[0] > 0


def _splits(eqn: core.JaxprEqn, operands: list[_Known]) -> list[Any]:
  return jaxprs.bind(eqn, [_depends(operands[0])])


def _moves_first(eqn: core.JaxprEqn, operands: list[_Known]) -> Any:
  """The same, by indices that do not depend on the inputs."""
  if any(known.depends is not None for known in operands[1:]):
    return _anything(eqn, operands)
  moved = _depends(operands[0]).astype(jnp.float32)
  return jaxprs.bind(eqn, [moved, *(k.array for k in operands[1:])])[0] > 0


def _gather(eqn: core.JaxprEqn, operands: list[_Known]) -> Any:
  table, indices = operands
  if indices.depends is None:
    return _moves_first(eqn, operands)
  # Any row may be looked up: a column of zeros is 0 in all of them.
  sizes = eqn.params["slice_sizes"]
  cut = [
    axis
    for axis, (size, n) in enumerate(zip(sizes, table.array.shape, strict=True))
    if size != n
  ]
  matters = _matters(table).any(axis=cut, keepdims=True)
  matters = jnp.broadcast_to(matters, table.array.shape).astype(jnp.float32)
  return jaxprs.bind(eqn, [matters, indices.array])[0] > 0


def _reduces(eqn: core.JaxprEqn, operands: list[_Known]) -> Any:
  return _depends(operands[0]).any(axis=eqn.params["axes"])


def _pools(eqn: core.JaxprEqn, operands: list[_Known]) -> Any:
  params = eqn.params
  return (
    lax.reduce_window(
      _depends(operands[0]).astype(jnp.float32),
      0.0,
      lax.max,
      params["window_dimensions"],
      params["window_strides"],
      params["padding"],
      params["base_dilation"],
      params["window_dilation"],
    )
    > 0
  )


_RULES: dict[str, _Rule] = {
  **dict.fromkeys(coupling.coupling_rules.ELEMENTWISE, _elementwise),
  **dict.fromkeys(coupling.coupling_rules.REDUCTIONS, _reduces),
  **dict.fromkeys(coupling.coupling_rules.POOLINGS, _pools),
  **dict.fromkeys((*_PRODUCTS, "mul"), _product),
  **dict.fromkeys(
    (
      "broadcast_in_dim",
      "concatenate",
      "pad",
      "reshape",
      "rev",
      "slice",
      "squeeze",
      "transpose",
    ),
    _moves,
  ),
  "div": _quotient,
  "dynamic_slice": _moves_first,
  "gather": _gather,
  "split": _splits,
}
