"""Which leaves of a parameter tree are sparse, and what layers they contain."""

import dataclasses
import difflib
import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from sparsejax.components import arguments, kernels, placement
from sparsejax.components.trees import is_masked_node, named_leaves
from sparsejax.method import Layout, Masks, SparseLeaf

Select = str | Sequence[str] | Callable[[str, Any], bool] | PyTree | None


@dataclasses.dataclass(frozen=True)
class Override:
  """Settings of one leaf, or of all leaves that a glob matches.

  Attributes:
    sparsity: final sparsity of the leaf in [0, 1), in place of the one that
      the scope gives it.
    axis: makes every slice along this axis its own layer, as for the leading
      axis of `nn.scan` or of a stack of experts.
  """

  sparsity: float | None = None
  axis: int | None = None


Overrides = Mapping[str, "str | float | Override"]


def select_leaves(params: PyTree, select: Select) -> list[bool]:
  """Returns for each leaf, in tree order, whether it is sparse.

  `select` is a glob or several over names such as `block_*/conv/kernel`, a
  function (name, leaf) -> bool, a tree of bools, or None for all kernels:
  floating leaves with at least two dimensions above 1, unless their names are
  those of biases, normalization scales, embeddings or positions
  (`components.kernels` has the rule).

  Raises:
    ValueError: if nothing is selected, a glob matches nothing, or a selected
      leaf is not floating.
  """
  leaves = named_leaves(params)
  if not leaves:
    return []
  names = [name for name, _ in leaves]
  globs = [select] if isinstance(select, str) else select
  if select is None:
    chosen = [reason is None for reason in kernels.dense_reasons(leaves)]
  elif isinstance(globs, (list, tuple)) and all(
    isinstance(glob, str) for glob in globs
  ):
    chosen = _match(names, globs, "select")
  elif callable(select):
    chosen = [bool(select(*named)) for named in leaves]
  else:
    chosen = _flags(params, select)
  if not any(chosen):
    raise ValueError(
      f"`select` matches no leaf, got {select!r}. {_listing(names)}"
    )
  for (name, leaf), is_sparse in zip(leaves, chosen, strict=True):
    if is_sparse and not kernels.is_floating(leaf):
      raise ValueError(
        f"`select` chose {name!r}, {_described(leaf)}; only floating arrays"
        " can be sparse. Leave it out."
      )
  return chosen


def find_layout(
  params: PyTree,
  select: Select,
  overrides: Overrides | None,
  masks: Masks | None = None,
  sharded: bool | None = None,
) -> Layout:
  """Describes the leaves that `select` chooses, or those that have masks.

  `sharded` says whether parameters are sharded; None looks at them.

  Raises ValueError for selectors, overrides and masks that match nothing, and
  for parameters that are sharded where `sharded` says that none is.
  """
  names = [name for name, _ in named_leaves(params)]
  for glob, rule in (overrides or {}).items():
    _as_override(glob, rule)
    if names:
      _match(names, [glob], "overrides")
  chosen = (
    select_leaves(params, select)
    if masks is None
    else sparse_flags(params, masks)
  )
  found = layout(params, chosen, overrides)
  return dataclasses.replace(found, sharded=_sharded(params, sharded))


def layout(
  params: PyTree, chosen: Iterable[bool], overrides: Overrides | None = None
) -> Layout:
  """Describes the leaves of `params` that `chosen` has True for, in tree order.

  Overrides map globs over names to `"dense"` (the leaf is not in the layout), a
  sparsity in [0, 1), or an `Override`; the last match wins.
  """
  leaves, named = [], named_leaves(params)
  shapes = {name: tuple(jnp.shape(leaf)) for name, leaf in named}
  pairs = zip(named, chosen, strict=True)
  for index, ((name, _), is_sparse) in enumerate(pairs):
    rule: Override | None = Override()
    for glob, given in (overrides or {}).items():
      if fnmatch.fnmatchcase(name, glob):
        rule = _as_override(glob, given)
    if is_sparse and rule is not None:
      leaves.append(_sparse_leaf(index, name, shapes, rule))
  return Layout(tuple(leaves), jax.tree.structure(params))


def _sharded(params: PyTree, given: bool | None) -> bool:
  if given is None:
    return placement.may_be_sharded(jax.tree.leaves(params))
  for name, leaf in named_leaves(params):
    if not given and isinstance(leaf, jax.Array) and placement.is_sharded(leaf):
      raise ValueError(
        f"`sharded` is False, but {name!r} is sharded over devices. Leave"
        " `sharded` out, or give True."
      )
  return given


def sparse_flags(params: PyTree, masks: Masks) -> list[bool]:
  """Returns for each leaf of `params` whether `masks` has a mask for it.

  Raises ValueError if the trees or shapes differ.
  """
  leaves = named_leaves(params)
  try:
    nodes = jax.tree.structure(params).flatten_up_to(masks)
  except ValueError as error:
    raise ValueError(
      f"`masks` is not a tree like `params`: {error}. "
      + _listing([name for name, _ in leaves])
    ) from error
  flags = [not (node is None or is_masked_node(node)) for node in nodes]
  for (name, leaf), mask, is_sparse in zip(leaves, nodes, flags, strict=True):
    if is_sparse and tuple(mask.shape) != tuple(leaf.shape):
      raise ValueError(
        f"`masks` has shape {tuple(mask.shape)} at {name!r}, where the"
        f" parameter has {tuple(leaf.shape)}. Give one bool per weight."
      )
  return flags


def _described(leaf: Any) -> str:
  if hasattr(leaf, "dtype"):
    return f"an array of dtype {leaf.dtype}"
  return f"a {type(leaf).__name__}"


def _listing(names: Sequence[str]) -> str:
  return "Leaves: " + ", ".join(names) + "."


def _match(
  names: Sequence[str], globs: Sequence[str], argument: str
) -> list[bool]:
  for glob in globs:
    if not any(fnmatch.fnmatchcase(name, glob) for name in names):
      near = difflib.get_close_matches(glob, names, n=1, cutoff=0)
      raise ValueError(
        f"`{argument}` has the glob {glob!r}, which matches no leaf. Nearest:"
        f" {near[0]!r}. {_listing(names)}"
      )
  return [any(fnmatch.fnmatchcase(n, g) for g in globs) for n in names]


def _flags(params: PyTree, select: PyTree) -> list[bool]:
  if jax.tree.structure(params) != jax.tree.structure(select):
    names = [name for name, _ in named_leaves(params)]
    raise ValueError(
      "`select` must be None, a glob, a list of globs, a function (name,"
      f" leaf) -> bool or a tree of bools like `params`, got {select!r}."
      f" {_listing(names)}"
    )
  return [bool(flag) for flag in jax.tree.leaves(select)]


def _as_override(glob: str, rule: str | float | Override) -> Override | None:
  """Returns the override as a record, None for a dense leaf."""
  if rule == "dense":
    return None
  if isinstance(rule, str):
    raise ValueError(
      f"`overrides` for {glob!r} must be 'dense', a sparsity or an `Override`,"
      f" got {rule!r}."
    )
  if not isinstance(rule, Override):
    rule = Override(sparsity=rule)
  if rule.sparsity is not None:
    arguments.check_sparsity(rule.sparsity, f"overrides[{glob!r}]")
  return rule


def _sparse_leaf(
  index: int,
  name: str,
  shapes: Mapping[str, tuple[int, ...]],
  rule: Override,
) -> SparseLeaf:
  axis, shape = rule.axis, shapes[name]
  if axis is not None:
    if not -len(shape) <= axis < len(shape):
      raise ValueError(
        f"`axis` of the override for {name!r} must be a dimension of shape"
        f" {shape}, got {axis}."
      )
    axis %= len(shape)
  matrix = kernels.matrix_shape(name, shapes, axis)
  return SparseLeaf(index, name, shape, axis, rule.sparsity, matrix)
