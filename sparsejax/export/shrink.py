"""Removing dead channels: a smaller network with the same outputs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from sparsejax.analysis import coupling, flops, jaxprs
from sparsejax.components import trees
from sparsejax.export import contributions, smaller
from sparsejax.method import Masks

TOLERANCE = 1e-5
"""Largest difference that is returned, relative to the largest output."""


class DifferenceError(ValueError):
  """A smaller network whose outputs are not those of the masked one."""


class Family(NamedTuple):
  """Channels that the same axes of the same parameters hold.

  Attributes:
    name: the parameter that writes them, or the first that holds them.
    channels: how many there are.
    removed: how many of them are removed.
    kept_for: what forbids to remove some of them, such as "an output".
  """

  name: str
  channels: int
  removed: int
  kept_for: tuple[str, ...]


class Size(NamedTuple):
  """Size of a network.

  Attributes:
    parameters: number of parameters; of a Flax tree of collections those in
      `params`.
    multiply_adds: of the example inputs, dense.
  """

  parameters: int
  multiply_adds: int


class Report(NamedTuple):
  """What was removed.

  Attributes:
    families: channels and how many are removed, in the order of parameters.
    before: size of the network.
    after: size of the smaller one.
    difference: largest difference of outputs, relative to the largest output.
    unknown: primitive without a rule -> how often it froze channels.
  """

  families: tuple[Family, ...]
  before: Size
  after: Size
  difference: float
  unknown: Mapping[str, int]

  @property
  def removed(self) -> int:
    """Number of removed channels."""
    return sum(family.removed for family in self.families)


class Shrunk(NamedTuple):
  """A smaller network.

  Attributes:
    params: the smaller tree.
    apply: (params, *inputs) -> output of the smaller network, for inputs of any
      batch size, also under `jit`, `grad` and `jax.export`.
    report: what was removed.
    kept: leaf name -> for each axis bool[n], which indices are left.
  """

  params: PyTree
  apply: Callable[..., Any]
  report: Report
  kept: Mapping[str, tuple[np.ndarray, ...]]


def shrink(
  apply: Callable[..., Any],
  params: PyTree,
  masks: Masks | None,
  *inputs: PyTree,
) -> Shrunk:
  """Removes the filters, neurons and channels of heads that contribute nothing.

  A group of channels is removed if, wherever it is consumed, it is exactly 0 or
  multiplied by exact zeros, for every input: all filters that write it are
  dead, and so is what is added to it, such as the bias of batch norm (or the
  ReLU behind makes it 0). Where that cannot be shown, channels stay. At least
  one index of each axis stays, too.

  It works for any function; modules are not registered. `apply` of the result
  is the traced program with smaller sizes.

  Args:
    apply: (params, *inputs) -> output, as `lambda variables, x:
      model.apply(variables, x, train=False)`.
    params: the parameters, with batch statistics and other collections.
    masks: tree like `params` of bool arrays, `MaskedNode` at dense leaves; None
      if masked weights are zeros in `params` already.
    *inputs: example inputs, to count multiply-adds and to compare outputs.

  Raises:
    DifferenceError: if an output differs by more than `TOLERANCE` times the
      largest output.

  Examples:
    >>> params = {"a": np.ones((8, 3)), "b": np.ones((3, 5))}
    >>> params["a"][:, 1] = 0
    >>> apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
    >>> small = shrink(apply, params, None, np.ones((1, 8)))
    >>> jax.tree.map(np.shape, small.params)
    {'a': (8, 2), 'b': (2, 5)}
    >>> small.report.before.multiply_adds, small.report.after.multiply_adds
    (39, 26)
  """
  if masks is not None:
    params = trees.where(masks, params)
  program = jaxprs.trace(apply, params, *inputs)
  coupled = coupling.couple(program, params)
  counts = contributions.contributing(program, coupled, params, inputs)
  removed = _removable(coupled.groups, counts)
  kept = {
    name: tuple(~removed[of] for of in axes)
    for name, axes in coupled.groups.of.items()
  }
  small = _smaller_tree(params, kept)
  smaller_apply = _smaller_apply(apply, _shapes(params), kept)
  report = Report(
    families=_families(coupled.groups, removed),
    before=_size(apply, params, inputs),
    after=_size(smaller_apply, small, inputs),
    difference=_checked(apply, params, smaller_apply, small, inputs),
    unknown=coupled.groups.unknown,
  )
  return Shrunk(small, smaller_apply, report, kept)


def _removable(groups: coupling.Groups, counts: np.ndarray) -> np.ndarray:
  """Returns bool[G]; one index of each axis stays."""
  removed = ~groups.frozen & ~counts
  for _, _, of, _ in groups.axes():
    if len(of) and removed[of].all():
      removed[of[0]] = False
  return removed


def _smaller_tree(
  params: PyTree, kept: Mapping[str, tuple[np.ndarray, ...]]
) -> PyTree:
  smaller_leaves = []
  for name, leaf in trees.named_leaves(params):
    for axis, keep in enumerate(kept[name]):
      if not keep.all():
        leaf = jnp.asarray(np.compress(keep, np.asarray(leaf), axis=axis))
    smaller_leaves.append(leaf)
  return jax.tree.unflatten(jax.tree.structure(params), smaller_leaves)


def _shapes(tree: PyTree) -> PyTree:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree
  )


def _smaller_apply(
  apply: Callable[..., Any],
  shapes: PyTree,
  kept: Mapping[str, tuple[np.ndarray, ...]],
) -> Callable[..., Any]:
  """Returns the function on smaller parameters, traced for each input shape."""

  def smaller_apply(params: PyTree, *inputs: PyTree) -> PyTree:
    like = _shapes(inputs)
    program = jaxprs.trace(apply, shapes, *like)
    coupled = coupling.couple(program, shapes)
    run = smaller.Smaller(coupled.axes, _removed_nodes(coupled, kept))
    leaves = [*jax.tree.leaves(params), *jax.tree.leaves(inputs)]
    result = jax.eval_shape(apply, shapes, *like)
    return jax.tree.unflatten(
      jax.tree.structure(result), run.run(program, leaves)
    )

  return jax.jit(smaller_apply)


def _removed_nodes(
  coupled: coupling.Coupling, kept: Mapping[str, tuple[np.ndarray, ...]]
) -> np.ndarray:
  """Returns bool[nodes], what is removed from the program.

  Raises:
    ValueError: if channels that are removed depend on channels that are not,
      because the function does something else with inputs of this shape.
  """
  removed, stays = np.zeros((2, len(coupled.groups)), bool)
  for name, axis, of, _ in coupled.groups.axes():
    keep = kept[name][axis]
    removed[of[~keep]] = True
    stays[of[keep]] = True
  if (removed & stays).any():
    raise ValueError(
      "`inputs` have shapes for which the network couples other channels than"
      " when it was shrunk. Call `shrink` with inputs of these shapes."
    )
  return (coupled.group_of >= 0) & removed[coupled.group_of]


def _families(
  groups: coupling.Groups, removed: np.ndarray
) -> tuple[Family, ...]:
  """Groups the channels by the axes that hold them."""
  holders: list[list[str]] = [[] for _ in range(len(groups))]
  writers: list[str | None] = [None] * len(groups)
  for name, axis, of, roles in groups.axes():
    for group, role in {
      int(g): r for g, r in zip(of, roles, strict=True)
    }.items():
      holders[group].append(f"{name}:{axis}")
      if writers[group] is None and role & coupling.Role.WRITER:
        writers[group] = name
  rows: dict[tuple[str, ...], list[int]] = {}
  for group, found in enumerate(holders):
    rows.setdefault(tuple(found), []).append(group)
  return tuple(
    Family(
      name=writers[members[0]] or key[0].rpartition(":")[0],
      channels=len(members),
      removed=int(removed[members].sum()),
      kept_for=tuple(
        dict.fromkeys(r for g in members for r in groups.reasons(g))
      ),
    )
    for key, members in rows.items()
  )


def _size(apply: Callable[..., Any], params: PyTree, inputs: Any) -> Size:
  counted = params
  if isinstance(params, Mapping) and "params" in params:
    counted = params["params"]
  sizes = [np.size(leaf) for leaf in jax.tree.leaves(counted)]
  return Size(
    sum(map(int, sizes)), flops.multiply_adds(apply, params, *inputs).dense
  )


def _checked(
  apply: Callable[..., Any],
  params: PyTree,
  smaller_apply: Callable[..., Any],
  small: PyTree,
  inputs: Any,
) -> float:
  """Returns the largest difference between the two networks.

  Raises:
    DifferenceError: if it is too large.
  """
  found = 0.0
  for fed in (inputs, _random_like(inputs)):
    expected = jax.jit(apply)(params, *fed)
    pairs = zip(
      jax.tree.leaves(expected),
      jax.tree.leaves(smaller_apply(small, *fed)),
      strict=True,
    )
    found = float(np.max([found, *(difference(a, b) for a, b in pairs)]))
  if not found <= TOLERANCE:
    raise DifferenceError(
      f"The smaller network's outputs differ by {found:.2g} of the largest"
      f" output; at most {TOLERANCE:g} is returned. This is a bug of sparsejax,"
      " or the outputs are not finite."
    )
  return found


def difference(expected: Any, found: Any) -> float:
  """Returns the largest difference, relative to the largest expected value."""
  expected, found = np.asarray(expected), np.asarray(found)
  if not expected.size:
    return 0.0
  expected, found = expected.astype(np.float64), found.astype(np.float64)
  gap = float(np.abs(expected - found).max())
  return gap / max(float(np.abs(expected).max()), 1e-30) if gap else gap


def _random_like(inputs: PyTree) -> PyTree:
  """Returns random numbers in place of floating inputs."""
  rng = np.random.default_rng(0)

  def random(x: Any) -> Any:
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
      return x
    return jnp.asarray(rng.normal(size=jnp.shape(x)), jnp.result_type(x))

  return jax.tree.map(random, inputs)
