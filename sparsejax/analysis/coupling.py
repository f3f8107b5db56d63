"""Which channels of a network belong together, found in a traced call.

Filter 5 of a convolution, entry 5 of the batch norm behind it and input channel
5 of the next convolution can only be removed together. `coupling` finds these
groups for any function, from the program that JAX traces:

    groups = coupling(apply, params, x)
    groups.of["conv1/kernel"][3]     # the group of each output filter, int64[C]
    groups.roles["conv1/kernel"][3]  # and what they do there: Role.WRITER
    groups.frozen[7]                 # whether group 7 has to stay
    groups.reasons(7)                # and why
    groups.members(7)                # all that has to be removed with it

Every index of every axis of every parameter is a node; an operation that
computes channel i of its result from channel i of its operands unites them. The
rules are in `coupling_rules`.
"""

import dataclasses
import enum
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core
from jaxtyping import PyTree

from sparsejax.analysis import coupling_rules, jaxprs
from sparsejax.analysis.coupling_rules import Axes, Nodes, Value
from sparsejax.components import trees


class Role(enum.IntFlag):
  """What an index of a parameter's axis does to the channel of its group.

  Attributes:
    ELEMENTWISE: it is added to the channel or multiplies it: a bias, the scale,
      bias, mean and variance of batch norm, a depthwise kernel.
    WRITER: it computes the channel: an output axis of a kernel, the features of
      an embedding table.
    READER: it consumes the channel: a contracted axis of a kernel.
  """

  ELEMENTWISE = 0
  WRITER = coupling_rules.WRITER
  READER = coupling_rules.READER


@dataclasses.dataclass(frozen=True, order=True)
class Member:
  """One index of one axis of one parameter.

  Attributes:
    leaf: name of the parameter, like `conv1/kernel`.
    axis: its axis, not negative.
    index: the index along that axis.
    role: `WRITER`, `READER`, both (a shared kernel), or `ELEMENTWISE`.
  """

  leaf: str
  axis: int
  index: int
  role: Role


@dataclasses.dataclass(frozen=True)
class Groups:
  """The groups of channels that a network couples, numbered from 0 to G - 1.

  Groups are numbered in the order of their first member: by leaf in tree order,
  by axis, by index.

  Attributes:
    of: leaf name -> for each axis the group of each index, int64[n].
    roles: leaf name -> for each axis the `Role` of each index, int64[n].
    frozen: bool[G], whether something makes the channel impossible to remove.
    unknown: primitive -> how often it met a channel that it froze because there
      is no rule for it.
  """

  of: Mapping[str, tuple[np.ndarray, ...]]
  roles: Mapping[str, tuple[np.ndarray, ...]]
  frozen: np.ndarray
  unknown: Mapping[str, int]
  _reasons: Mapping[int, tuple[str, ...]]

  def __len__(self) -> int:
    return len(self.frozen)

  def reasons(self, group: int | np.integer) -> tuple[str, ...]:
    """Returns what freezes a group, such as "an output"; none if it is free."""
    return self._reasons.get(int(group), ())

  def members(self, group: int | np.integer) -> list[Member]:
    """Returns the members of a group, ordered by leaf, axis and index."""
    rows, starts = self._rows
    found = rows[starts[group] : starts[group + 1]]
    names = list(self.of)
    return [
      Member(names[leaf], int(axis), int(index), Role(int(role)))
      for leaf, axis, index, role in found
    ]

  def axes(self) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """Yields (leaf name, axis, groups of its indices, their roles)."""
    for name, found in self.of.items():
      for axis, groups in enumerate(found):
        yield name, axis, groups, self.roles[name][axis]

  def masks(self, removed: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the mask of each leaf that silences some groups.

    What writes, scales or is added to their channels is inactive: the channels
    are exactly 0. What reads them stays active.

    Args:
      removed: bool[G], the groups.
    """
    masks = {}
    for name, found in self.of.items():
      mask = np.ones([len(groups) for groups in found], bool)
      for axis, groups in enumerate(found):
        dead = removed[groups] & (self.roles[name][axis] != Role.READER)
        np.moveaxis(mask, axis, 0)[dead] = False
      masks[name] = mask
    return masks

  @functools.cached_property
  def _rows(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns (leaf, axis, index, role) sorted by group, and group borders."""
    numbers = {name: number for number, name in enumerate(self.of)}
    blocks, groups = [np.zeros((0, 4), np.int64)], [np.zeros(0, np.int64)]
    for name, axis, found, roles in self.axes():
      n = len(found)
      leaf, axes = np.full(n, numbers[name]), np.full(n, axis)
      blocks.append(np.stack([leaf, axes, np.arange(n), roles], axis=1))
      groups.append(found)
    flat = np.concatenate(groups)
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], np.arange(len(self) + 1))
    return np.concatenate(blocks)[order], starts


def coupling(
  apply: Callable[..., Any], params: PyTree, *inputs: PyTree
) -> Groups:
  """Returns the groups of channels that can only be removed together.

  Channels that touch an input or an output are frozen, and so are those that a
  reduction sums over (layer norm), that an operation moves or that meet a
  primitive without a rule. A frozen channel is never wrong, only kept. Give the
  batch statistics and other collections as parameters, too; arrays that `apply`
  closes over count as constants that shrink with the network.

  Args:
    apply: (params, *inputs) -> output, a pure function, as `lambda variables,
      x: model.apply(variables, x, train=False)`.
    params: tree of arrays, or of shapes with dtypes.
    *inputs: an example of its inputs; arrays, or shapes with dtypes.

  Examples:
    >>> params = {"a": np.ones((8, 3)), "b": np.ones(3), "c": np.ones((3, 5))}
    >>> apply = lambda p, x: (x @ p["a"] + p["b"]) @ p["c"]
    >>> groups = coupling(apply, params, np.ones((1, 8)))
    >>> for m in groups.members(groups.of["b"][0][2]):
    ...   print(m.leaf, m.axis, m.index, m.role.name)
    a 1 2 WRITER
    b 0 2 ELEMENTWISE
    c 0 2 READER
    >>> groups.reasons(groups.of["c"][1][0])
    ('an output',)
  """
  return couple(jaxprs.trace(apply, params, *inputs), params).groups


class Coupling(NamedTuple):
  """The groups of a program, and the channels of everything in between.

  Attributes:
    groups: the groups.
    axes: variable of the program, or `id` of a literal in it -> for each axis
      the nodes of its indices, or None where all indices are alike.
    group_of: int64[nodes], the group of each node; -1 if none of its members
      belongs to a parameter. Nodes below 0 are fixed, see `Graph`.
  """

  groups: Groups
  axes: Mapping[Any, Axes]
  group_of: np.ndarray


def couple(program: core.ClosedJaxpr, params: PyTree) -> Coupling:
  """Returns the groups of a program of `jaxprs.trace`.

  Args:
    program: from the leaves of `params`, then those of the inputs, to outputs.
    params: tree of arrays, or of shapes with dtypes.
  """
  graph = coupling_rules.Graph()
  leaves = trees.named_leaves(params)
  names = [name for name, _ in leaves]
  values = [Value(graph.nodes_of(np.shape(leaf)), False) for _, leaf in leaves]
  used = {v for eqn in program.jaxpr.eqns for v in _variables(eqn.invars)}
  for var, value in zip(program.jaxpr.invars, values, strict=False):
    if var not in used:
      graph.freeze(value.axes, "no use")
  inputs = program.jaxpr.invars[len(values) :]
  fed = [coupling_rules.fixed(graph, v.aval.shape, "an input") for v in inputs]
  graph.freeze_all(graph.run(program, [*values, *fed]), "an output")
  return _collect(graph, dict(zip(names, values, strict=True)))


def _variables(atoms: Any) -> list[core.Var]:
  return [atom for atom in atoms if not isinstance(atom, core.Literal)]


def _collect(
  graph: coupling_rules.Graph, leaves: Mapping[str, Value]
) -> Coupling:
  """Numbers the components of the graph that hold parameters."""
  roots = graph.roots()
  flat = [nodes for value in leaves.values() for nodes in value.axes]
  own = np.concatenate([np.zeros(0, np.int64), *map(_array, flat)])
  distinct, first = np.unique(roots[own], return_index=True)
  group_of_root = np.full(graph.size, -1)
  order = np.argsort(first)
  group_of_root[distinct[order]] = np.arange(len(distinct))
  group_of = group_of_root[roots]
  roles = graph.roles()
  reasons = _reasons(graph, group_of)
  frozen = np.zeros(len(distinct), bool)
  frozen[list(reasons)] = True

  def each(values: np.ndarray) -> dict[str, tuple[np.ndarray, ...]]:
    return {
      name: tuple(values[_array(nodes)] for nodes in value.axes)
      for name, value in leaves.items()
    }

  groups = Groups(
    each(group_of), each(roles), frozen, Counter(graph.unknown), reasons
  )
  return Coupling(groups, graph.axes, group_of)


def _array(nodes: Nodes) -> np.ndarray:
  assert nodes is not None  # Every axis of a leaf has nodes.
  return nodes


def _reasons(
  graph: coupling_rules.Graph, group_of: np.ndarray
) -> dict[int, tuple[str, ...]]:
  found: dict[int, dict[str, None]] = {}
  for nodes, reason in graph.freezes:
    for group in np.unique(group_of[nodes]):
      if group >= 0:
        found.setdefault(int(group), {})[reason] = None
  return {group: tuple(reasons) for group, reasons in found.items()}
