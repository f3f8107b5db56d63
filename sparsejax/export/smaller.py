"""A program without some of its channels.

The program of a network is run on smaller parameters: each equation is bound
again with the sizes that are left.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from sparsejax.analysis import coupling_rules, jaxprs
from sparsejax.analysis.coupling_rules import Nodes


class Smaller(NamedTuple):
  """Runs a program without some nodes.

  Attributes:
    axes: the nodes of all arrays of the program, `Coupling.axes`.
    removed: bool[nodes].
  """

  axes: Mapping[Any, tuple[Nodes, ...]]
  removed: np.ndarray

  def run(self, program: core.ClosedJaxpr, operands: Sequence[Any]) -> list:
    """Returns the results.

    Args:
      program: the program, or a body in it.
      operands: its operands, without what is removed.
    """
    constants = [
      self.part(var, value)
      for var, value in zip(
        program.jaxpr.constvars, program.consts, strict=True
      )
    ]
    return jaxprs.walk(
      program.jaxpr,
      operands,
      self._step,
      literal=lambda atom: self.part(atom, atom.val),
      constants=constants,
    )

  def part(self, atom: Any, array: Any) -> Any:
    """Returns what is left of an array of the original size."""
    for axis in range(np.ndim(array)):
      keep = self.keep(atom, axis)
      if keep is not None:
        array = jnp.compress(keep, jnp.asarray(array), axis=axis)
    return array

  def keep(self, atom: Any, axis: int) -> np.ndarray | None:
    """Returns bool[n], what is left of an axis, or None if all is."""
    key = id(atom) if isinstance(atom, core.Literal) else atom
    nodes = self.axes[key][axis]
    if nodes is None:
      return None
    gone = (nodes >= 0) & self.removed[nodes]
    return ~gone if gone.any() else None

  def size(self, atom: Any, axis: int) -> Any:
    """Returns the size that is left of an axis."""
    keep = self.keep(atom, axis)
    return jaxprs.shape(atom)[axis] if keep is None else int(keep.sum())

  def shape(self, atom: Any) -> tuple[Any, ...]:
    """Returns the shape that is left of an array."""
    return tuple(
      self.size(atom, axis) for axis in range(len(jaxprs.shape(atom)))
    )

  def _step(self, eqn: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    name = eqn.primitive.name
    if name in coupling_rules.ELEMENTWISE:
      return jaxprs.bind(eqn, self._aligned(eqn, operands))
    rule = _RULES.get(name)
    return rule(self, eqn, operands) if rule else jaxprs.bind(eqn, operands)

  def _aligned(self, eqn: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """Shortens axes whose indices are all alike to what the others left."""
    shape, left = jaxprs.shape(eqn.outvars[0]), self.shape(eqn.outvars[0])
    aligned = []
    for atom, operand in zip(eqn.invars, operands, strict=True):
      for axis, n in enumerate(jaxprs.shape(atom)):
        if n == shape[axis]:
          operand = _shorten(operand, axis, left[axis])
      aligned.append(operand)
    return aligned


def _shorten(array: Any, axis: int, n: Any) -> Any:
  if jnp.shape(array)[axis] == n:
    return array
  return lax.slice_in_dim(jnp.asarray(array), 0, n, axis=axis)


def _to_the_shorter(left: Any, right: Any, a: int, b: int) -> tuple[Any, Any]:
  """Shortens an axis whose indices are all alike to the other one."""
  m, n = left.shape[a], right.shape[b]
  if m == n:
    return left, right
  shorter = min(m, n)
  return _shorten(left, a, shorter), _shorten(right, b, shorter)


def _dot(small: Smaller, eqn: core.JaxprEqn, operands: list[Any]) -> list:
  left, right = operands
  for pairs in eqn.params["dimension_numbers"]:
    for a, b in zip(*pairs, strict=True):
      left, right = _to_the_shorter(left, right, a, b)
  return jaxprs.bind(eqn, [left, right])


def _conv(small: Smaller, eqn: core.JaxprEqn, operands: list[Any]) -> list:
  image, kernel = operands
  numbers = eqn.params["dimension_numbers"]
  features, contracted = numbers.lhs_spec[1], numbers.rhs_spec[1]
  groups = eqn.params["feature_group_count"]
  if groups == 1:
    image, kernel = _to_the_shorter(image, kernel, features, contracted)
  elif groups == jaxprs.shape(eqn.invars[0])[features]:
    times = jaxprs.shape(eqn.invars[1])[numbers.rhs_spec[0]] // groups
    groups = kernel.shape[numbers.rhs_spec[0]] // times
    image = _shorten(image, features, groups)
  return jaxprs.bind(eqn, [image, kernel], feature_group_count=groups)


def _broadcast(small: Smaller, eqn: core.JaxprEqn, operands: list[Any]) -> list:
  old, new = jaxprs.shape(eqn.invars[0]), list(eqn.params["shape"])
  for axis, to in enumerate(eqn.params["broadcast_dimensions"]):
    if old[axis] == new[to]:
      new[to] = jnp.shape(operands[0])[axis]
  return jaxprs.bind(eqn, operands, shape=tuple(new))


def _concatenate(
  small: Smaller, eqn: core.JaxprEqn, operands: list[Any]
) -> list:
  along, result = eqn.params["dimension"], eqn.outvars[0]
  left, keep = small.shape(result), small.keep(result, along)
  parts, start = [], 0
  for atom, operand in zip(eqn.invars, operands, strict=True):
    n = jaxprs.shape(atom)[along]
    for axis in range(len(left)):
      if axis != along:
        operand = _shorten(operand, axis, left[axis])
    if keep is not None:
      operand = _shorten(operand, along, int(keep[start : start + n].sum()))
    parts.append(operand)
    start += n
  return jaxprs.bind(eqn, parts)


def _pad(small: Smaller, eqn: core.JaxprEqn, operands: list[Any]) -> list:
  config = []
  for axis, (low, high, interior) in enumerate(eqn.params["padding_config"]):
    keep = small.keep(eqn.outvars[0], axis)
    if keep is not None and (low or high):
      low, high = keep[:low].sum(), keep[len(keep) - high :].sum()
    config.append((int(low), int(high), int(interior)))
  return jaxprs.bind(eqn, operands, padding_config=tuple(config))


def _slice(small: Smaller, eqn: core.JaxprEqn, operands: list[Any]) -> list:
  (array,) = operands
  rank = array.ndim
  starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
  strides = eqn.params["strides"] or (1,) * rank
  starts, limits, strides = list(starts), list(limits), list(strides)
  for axis in range(rank):
    keep = small.keep(eqn.invars[0], axis)
    if keep is not None:
      wanted = np.zeros(len(keep), bool)
      wanted[starts[axis] : limits[axis] : strides[axis]] = True
      array = _take(array, axis, wanted[keep])
      starts[axis], limits[axis], strides[axis] = 0, array.shape[axis], 1
  return [lax.slice(array, starts, limits, strides)]


def _take(array: Any, axis: int, wanted: np.ndarray) -> Any:
  """Returns some indices of an axis; a slice if they follow each other."""
  indices = np.flatnonzero(wanted)
  if len(indices) and indices[-1] - indices[0] + 1 == len(indices):
    return lax.slice_in_dim(array, indices[0], indices[-1] + 1, axis=axis)
  return jnp.take(array, indices, axis=axis)


def _split(small: Smaller, eqn: core.JaxprEqn, operands: list[Any]) -> list:
  axis = eqn.params["axis"]
  sizes = tuple(small.size(var, axis) for var in eqn.outvars)
  return jaxprs.bind(eqn, operands, sizes=sizes)


def _reshape(small: Smaller, eqn: core.JaxprEqn, operands: list[Any]) -> list:
  sizes = small.shape(eqn.outvars[0])
  return jaxprs.bind(eqn, operands, new_sizes=sizes)


def _whole_slices(
  small: Smaller, eqn: core.JaxprEqn, operands: list[Any]
) -> list:
  sizes = tuple(
    jnp.shape(operands[0])[axis] if size == n else size
    for axis, (size, n) in enumerate(
      zip(eqn.params["slice_sizes"], jaxprs.shape(eqn.invars[0]), strict=True)
    )
  )
  return jaxprs.bind(eqn, operands, slice_sizes=sizes)


def _scan(small: Smaller, eqn: core.JaxprEqn, operands: list[Any]) -> list:
  body, first, end = jaxprs.scan_body(eqn)
  operands = [
    functools.reduce(
      lambda x, axis, var=var, skip=skip: _shorten(
        x, axis + skip, small.size(var, axis)
      ),
      range(len(jaxprs.shape(var))),
      operand,
    )
    for i, (var, operand) in enumerate(
      zip(body.jaxpr.invars, operands, strict=True)
    )
    for skip in [int(i >= end)]
  ]

  def iteration(carried: Any, sliced: Any) -> tuple[Any, Any]:
    results = small.run(body, [*operands[:first], *carried, *sliced])
    return tuple(results[: end - first]), tuple(results[end - first :])

  carried, stacked = lax.scan(
    iteration,
    tuple(operands[first:end]),
    tuple(operands[end:]),
    length=eqn.params["length"],
    reverse=eqn.params["reverse"],
    unroll=eqn.params["unroll"],
  )
  return [*carried, *stacked]


_RULES: dict[str, Callable[..., list]] = {
  "broadcast_in_dim": _broadcast,
  "concatenate": _concatenate,
  "conv_general_dilated": _conv,
  "dot_general": _dot,
  "dynamic_slice": _whole_slices,
  "gather": _whole_slices,
  "pad": _pad,
  "reshape": _reshape,
  "scan": _scan,
  "slice": _slice,
  "split": _split,
}
