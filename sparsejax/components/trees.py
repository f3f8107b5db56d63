"""Which leaves of a parameter tree are sparse, their names and their layers."""

import dataclasses
import difflib
import fnmatch
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from sparsejax.components import arguments
from sparsejax.method import Masks

_DENSE_NAMES = frozenset(
  {"bias", "scale", "b", "offset", "embedding", "embeddings"}
)

Select = str | Sequence[str] | Callable[[str, Any], bool] | PyTree | None


@dataclasses.dataclass(frozen=True)
class Override:
  """What one leaf, or all leaves that a glob matches, do differently.

  Attributes:
    sparsity: final sparsity of the leaf in [0, 1), in place of its share of
      the network's.
    axis: makes each slice along this axis a layer of its own, as for the
      leading axis of `nn.scan` or of a stack of experts.
  """

  sparsity: float | None = None
  axis: int | None = None


Overrides = Mapping[str, "str | float | Override"]


@dataclasses.dataclass(frozen=True)
class SparseLeaf:
  """A sparse leaf: where it is, and what competes in it."""

  index: int
  name: str
  shape: tuple[int, ...]
  axis: int | None = None
  sparsity: float | None = None

  @property
  def num_layers(self) -> int:
    """Slices that are layers of their own; 1 for a whole leaf."""
    return 1 if self.axis is None else self.shape[self.axis]

  @property
  def layer_shape(self) -> tuple[int, ...]:
    """Shape of one layer."""
    if self.axis is None:
      return self.shape
    return self.shape[: self.axis] + self.shape[self.axis + 1 :]

  @property
  def one_per_layer(self) -> tuple[int, ...]:
    """Shape of one number per layer that broadcasts over the leaf."""
    if self.axis is None:
      return ()
    return tuple(n if d == self.axis else 1 for d, n in enumerate(self.shape))

  @property
  def layer_names(self) -> tuple[str, ...]:
    """One name per layer, with the slice where a leaf has several."""
    if self.axis is None:
      return (self.name,)
    return tuple(f"{self.name}[{i}]" for i in range(self.num_layers))


@dataclasses.dataclass(frozen=True)
class Layout:
  """The sparse leaves of a tree, and their layers in tree order."""

  leaves: tuple[SparseLeaf, ...]

  @functools.cached_property
  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Layer name -> shape."""
    return {n: f.layer_shape for f in self.leaves for n in f.layer_names}

  @functools.cached_property
  def sizes(self) -> tuple[int, ...]:
    """Weights of each layer."""
    return tuple(math.prod(shape) for shape in self.shapes.values())

  @functools.cached_property
  def overrides(self) -> dict[str, float]:
    """Layer name -> its own final sparsity, for those that have one."""
    return {
      n: f.sparsity
      for f in self.leaves
      for n in f.layer_names
      if f.sparsity is not None
    }

  @property
  def axes(self) -> tuple[int | None, ...]:
    """The layer axis of each leaf."""
    return tuple(leaf.axis for leaf in self.leaves)

  def layers_of(self, number: int) -> range:
    """Returns the numbers of the layers of a leaf, in tree order."""
    start = sum(leaf.num_layers for leaf in self.leaves[:number])
    return range(start, start + self.leaves[number].num_layers)

  def take(self, tree: PyTree) -> list[Any]:
    """Returns the sparse leaves of a tree that is like the parameters."""
    leaves = jax.tree.leaves(tree)
    return [leaves[leaf.index] for leaf in self.leaves]

  def put(self, tree: PyTree, sparse: Sequence[Any]) -> PyTree:
    """Returns a tree that is like the parameters with other sparse leaves."""
    leaves, treedef = jax.tree.flatten(tree)
    for leaf, new in zip(self.leaves, sparse, strict=True):
      leaves[leaf.index] = new
    return jax.tree.unflatten(treedef, leaves)


def is_masked_node(x: Any) -> bool:
  """Whether `x` stands where the mask of a dense leaf would be."""
  return isinstance(x, optax.MaskedNode)


def leaf_name(path: tuple[Any, ...]) -> str:
  """Returns `a/b/kernel` for a key path, without the `.value` of NNX."""
  if len(path) > 1 and getattr(path[-1], "name", None) == "value":
    path = path[:-1]
  return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
  """Returns (name, leaf) of every leaf, in tree order."""
  pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
  return [(leaf_name(path), leaf) for path, leaf in pairs]


def is_sparse_by_default(name: str, leaf: Any) -> bool:
  """Whether a leaf is a kernel: two dimensions above 1, no bias by name.

  Convolution and dense kernels are, 1 x 1 and depthwise ones included. Biases,
  normalisation scales and embeddings are not, nor are vectors that are stored
  with dimensions of size 1.
  """
  large = sum(size > 1 for size in leaf.shape)
  return large >= 2 and name.rsplit("/", 1)[-1] not in _DENSE_NAMES


def select_leaves(params: PyTree, select: Select) -> list[bool]:
  """Returns for each leaf, in tree order, whether it is sparse.

  Args:
    params: tree of arrays or of shapes with dtypes.
    select: None for the default rule; a glob or several over names such as
      `block_*/conv/kernel`; a function (name, leaf) -> bool; or a tree of bools
      like `params`.

  Raises:
    ValueError: if nothing is selected, a glob matches nothing, or a selected
      leaf is not floating.
  """
  leaves = named_leaves(params)
  if not leaves:
    return []
  names = [name for name, _ in leaves]
  if select is None:
    chosen = [_is_floating(x) and is_sparse_by_default(n, x) for n, x in leaves]
  elif isinstance(select, str):
    chosen = _match(names, [select], "select")
  elif isinstance(select, (list, tuple)) and all(
    isinstance(s, str) for s in select
  ):
    chosen = _match(names, select, "select")
  elif callable(select):
    chosen = [bool(select(n, x)) for n, x in leaves]
  else:
    chosen = _flags(params, select)
  if not any(chosen):
    raise ValueError(
      f"`select` matches no leaf, got {select!r}. {_listing(names)}"
    )
  for (name, leaf), on in zip(leaves, chosen, strict=True):
    if on and not _is_floating(leaf):
      raise ValueError(
        f"`select` chose {name!r} of dtype {leaf.dtype}; only floating leaves"
        " can be sparse. Leave it out."
      )
  return chosen


def layout(
  params: PyTree, chosen: Iterable[bool], overrides: Overrides | None = None
) -> Layout:
  """Describes the chosen leaves of `params`.

  Args:
    params: tree of arrays or of shapes.
    chosen: for each leaf, in tree order, whether it is sparse.
    overrides: glob over names -> `"dense"`, a sparsity in [0, 1), or an
      `Override`; where several match a leaf, the last one wins.

  Returns:
    The layout; leaves that an override calls dense are not in it.
  """
  leaves = []
  for index, ((name, leaf), on) in enumerate(
    zip(named_leaves(params), chosen, strict=True)
  ):
    rules = [
      _as_override(glob, rule)
      for glob, rule in (overrides or {}).items()
      if fnmatch.fnmatchcase(name, glob)
    ]
    rule = rules[-1] if rules else Override()
    if on and rule is not None:
      leaves.append(_sparse_leaf(index, name, tuple(leaf.shape), rule))
  return Layout(tuple(leaves))


def check_overrides(params: PyTree, overrides: Overrides | None) -> None:
  """Raises ValueError for an override that is malformed or matches nothing."""
  names = [name for name, _ in named_leaves(params)]
  for glob, rule in (overrides or {}).items():
    _as_override(glob, rule)
    if names:
      _match(names, [glob], "overrides")


def masks_tree(params: PyTree, chosen: Layout, masks: Sequence[Any]) -> PyTree:
  """Returns a tree like `params`: the masks, `MaskedNode` at dense leaves."""
  treedef = jax.tree.structure(params)
  nodes: list[Any] = [optax.MaskedNode()] * treedef.num_leaves
  for leaf, mask in zip(chosen.leaves, masks, strict=True):
    nodes[leaf.index] = mask
  return jax.tree.unflatten(treedef, nodes)


def sparse_flags(params: PyTree, masks: Masks) -> list[bool]:
  """Returns for each leaf of `params` whether `masks` has a mask for it.

  Raises:
    ValueError: if the trees differ, or a mask has another shape than its leaf.
  """
  leaves = named_leaves(params)
  try:
    nodes = jax.tree.structure(params).flatten_up_to(masks)
  except ValueError as error:
    raise ValueError(
      f"`masks` is not a tree like `params`: {error}. "
      + _listing([name for name, _ in leaves])
    ) from error
  for (name, leaf), mask in zip(leaves, nodes, strict=True):
    if not _is_absent(mask) and tuple(mask.shape) != tuple(leaf.shape):
      raise ValueError(
        f"`masks` has shape {tuple(mask.shape)} at {name!r}, where the"
        f" parameter has {tuple(leaf.shape)}. Give one bool per weight."
      )
  return [not _is_absent(mask) for mask in nodes]


def map_masked(
  f: Callable[..., Any],
  masks: Masks,
  *trees: PyTree,
  dense: Callable[..., Any] = lambda *leaves: leaves[0],
) -> PyTree:
  """Maps `f(mask, *leaves)` over sparse leaves, `dense(*leaves)` elsewhere."""
  return jax.tree.map(
    lambda m, *x: dense(*x) if is_masked_node(m) else f(m, *x),
    masks,
    *trees,
    is_leaf=is_masked_node,
  )


def sparse_only(masks: Masks, tree: PyTree) -> PyTree:
  """Returns `tree` with `MaskedNode` in the place of dense leaves."""
  return map_masked(
    lambda _, x: x, masks, tree, dense=lambda _: optax.MaskedNode()
  )


def where(masks: Masks, params: PyTree) -> PyTree:
  """Returns the parameters with exact zeros where a mask is off.

  A select, not a product: a NaN times 0 is NaN.
  """
  return map_masked(
    lambda m, p: jnp.where(m, p, jnp.zeros_like(p)), masks, params
  )


def _is_absent(x: Any) -> bool:
  return x is None or is_masked_node(x)


def _is_floating(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jnp.floating)


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
  """Returns the override in its long form, None for a dense leaf."""
  if isinstance(rule, str):
    if rule != "dense":
      raise ValueError(
        f"`overrides` for {glob!r} must be 'dense', a sparsity or an"
        f" `Override`, got {rule!r}."
      )
    return None
  if not isinstance(rule, Override):
    rule = Override(sparsity=rule)
  if rule.sparsity is not None:
    arguments.check_sparsity(rule.sparsity, f"overrides[{glob!r}]")
  return rule


def _sparse_leaf(
  index: int, name: str, shape: tuple[int, ...], rule: Override
) -> SparseLeaf:
  axis = rule.axis
  if axis is not None:
    if not -len(shape) <= axis < len(shape):
      raise ValueError(
        f"`axis` of the override for {name!r} must be a dimension of shape"
        f" {shape}, got {axis}."
      )
    axis %= len(shape)
  return SparseLeaf(index, name, shape, axis, rule.sparsity)
