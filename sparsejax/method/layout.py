"""The sparse leaves of a parameter tree, and their layers."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import optax
from jaxtyping import PyTree


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class SparseLeaf:
  """One sparse leaf of a parameter tree.

  Attributes:
    index: of the leaf among all leaves, in tree order.
    name: its path, like `block/conv/kernel`.
    shape: of the leaf.
    axis: axis along which every slice is its own layer; None for one layer.
    sparsity: final sparsity of the leaf where an override sets one.
    matrix: (inputs, outputs) of a layer that is a matrix although it has more
      dimensions, as those of attention; None for others.
  """

  index: int
  name: str
  shape: tuple[int, ...]
  axis: int | None = None
  sparsity: float | None = None
  matrix: tuple[int, ...] | None = None

  @property
  def num_layers(self) -> int:
    """Number of layers in the leaf."""
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


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Layout:
  """The sparse leaves of a tree, and their layers in tree order.

  Attributes:
    leaves: the sparse leaves, in tree order.
    treedef: of the parameters.
    sharded: whether the parameters are, or may be, sharded over devices.
  """

  leaves: tuple[SparseLeaf, ...]
  treedef: Any = None
  sharded: bool = False

  @functools.cached_property
  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Layer name -> shape."""
    return {n: f.layer_shape for f in self.leaves for n in f.layer_names}

  @functools.cached_property
  def kernels(self) -> dict[str, tuple[int, ...]]:
    """Layer name -> shape as a distribution sees it: heads are no window."""
    return {
      n: f.matrix or f.layer_shape for f in self.leaves for n in f.layer_names
    }

  @functools.cached_property
  def sizes(self) -> tuple[int, ...]:
    """Number of weights of each layer."""
    return tuple(math.prod(shape) for shape in self.shapes.values())

  @functools.cached_property
  def overrides(self) -> dict[str, float]:
    """Layer name -> final sparsity, for layers whose override sets one."""
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
    """Returns the sparse leaves of a tree like the parameters."""
    leaves = jax.tree.leaves(tree)
    return [leaves[leaf.index] for leaf in self.leaves]

  def put(self, tree: PyTree, sparse: Sequence[Any]) -> PyTree:
    """Returns a tree like the parameters with its sparse leaves replaced."""
    leaves, treedef = jax.tree.flatten(tree)
    for leaf, new in zip(self.leaves, sparse, strict=True):
      leaves[leaf.index] = new
    return jax.tree.unflatten(treedef, leaves)

  def masked_tree(self, sparse: Sequence[Any]) -> PyTree:
    """Returns a tree of the sparse leaves, with `MaskedNode` at dense ones."""
    nodes: list[Any] = [optax.MaskedNode()] * self.treedef.num_leaves
    for leaf, array in zip(self.leaves, sparse, strict=True):
      nodes[leaf.index] = array
    return jax.tree.unflatten(self.treedef, nodes)
