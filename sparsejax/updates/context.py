"""What a mask update looks at: the leaves, and the same leaves packed."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Int, PyTree

from sparsejax.components import criteria
from sparsejax.method import Context, Criterion, Layout, Leaf, Method
from sparsejax.selection import packing as packings, random_bits
from sparsejax.selection.lazy import LazyArray, lazy
from sparsejax.selection.packing import Packing


def leaves_of(
  method: Method,
  layout: Layout,
  weights: Sequence[Array],
  gradients: Sequence[Array] | None,
  masks: Sequence[Array],
  accumulators: Mapping[str, PyTree],
) -> list[Leaf]:
  """Returns what parts see of each sparse leaf, in layout order, without keys.

  There are no dense gradients before the first step, and only the accumulators
  that exist by then.
  """
  by_leaf = {
    each.name: jax.tree.leaves(each.per_leaf(accumulators[each.name]))
    for each in method.all_accumulators
    if each.per_leaf is not None and each.name in accumulators
  }
  return [
    Leaf(
      weights=weights[i],
      gradient=None if gradients is None else gradients[i],
      mask=masks[i],
      accumulators={name: leaves[i] for name, leaves in by_leaf.items()},
      sparse=sparse,
    )
    for i, sparse in enumerate(layout.leaves)
  ]


def packing_of(method: Method, layout: Layout) -> Packing:
  """Returns how the layout that a method counts is packed.

  Quotas look at leaves, whose cells no packing keeps together.
  """
  if method.granularity.quota is None:
    return packings.packing_for(layout)
  return packings.leaves(layout)


def with_keys(
  context: Context, step: Int[Array, ""], purpose: int
) -> list[Leaf]:
  """Returns the leaves with the key of each, for one step and purpose."""
  keys = random_bits.leaf_keys(context.layout, context.key, step, purpose)
  pairs = zip(context.leaves, keys, strict=True)
  return [leaf._replace(key=key) for leaf, key in pairs]


class PackedLeaves(NamedTuple):
  """The sparse leaves of a context, packed once for all that search them.

  `context` has the masks before the update; `masks` may differ from them, as
  `changed` says, after `with_masks`.
  """

  context: Context
  packing: Packing
  weights: list[Array]
  gradients: list[Array] | None
  momentum: list[Array] | None
  hessian_gradient: list[Array] | None
  masks: list[Bool[Array, "..."]]
  changed: bool = False

  @property
  def current(self) -> Context:
    """The context with the current masks."""
    if not self.changed:
      return self.context
    masks = self.packing.unpack(self.masks)
    pairs = zip(self.context.leaves, masks, strict=True)
    return self.context._replace(
      leaves=[leaf._replace(mask=mask) for leaf, mask in pairs]
    )

  def with_masks(self, masks: Sequence[Array]) -> "PackedLeaves":
    """Returns the same leaves with other masks, given packed."""
    return self._replace(masks=list(masks), changed=True)

  def score(
    self, criterion: Criterion, purpose: int
  ) -> Sequence[Array | LazyArray]:
    """Scores all weights, packed; elementwise criteria as lazy arrays."""
    if criterion.is_elementwise:
      return [lazy(criterion, leaf) for leaf in self._packed_leaves()]
    if criterion is criteria.random and self.context.key is not None:
      return self.bits(purpose)
    return self.packing.pack(self.score_leaves(criterion, purpose))

  def score_leaves(self, criterion: Criterion, purpose: int) -> list[Array]:
    """Scores all weights, leaf by leaf."""
    current = self.current
    return [criterion(x) for x in with_keys(current, current.step, purpose)]

  def bits(self, purpose: int) -> list[Array]:
    """Returns random ranks for all weights, packed."""
    context = self.context
    assert context.key is not None  # `sparsify` requires one.
    return random_bits.bits(
      context.layout, self.packing, context.key, context.step, purpose
    )

  def _packed_leaves(self) -> list[Leaf]:
    first = self.context.leaves[0]
    shaped = [
      name
      for name, x in first.accumulators.items()
      if x.shape == first.weights.shape
    ]
    accumulators = {
      name: self.packing.pack(
        [leaf.accumulators[name] for leaf in self.context.leaves]
      )
      for name in shaped
    }
    return [
      Leaf(
        weights=self.weights[i],
        gradient=None if self.gradients is None else self.gradients[i],
        mask=mask,
        accumulators={name: accumulators[name][i] for name in shaped},
        momentum=None if self.momentum is None else self.momentum[i],
        hessian_gradient=None
        if self.hessian_gradient is None
        else self.hessian_gradient[i],
      )
      for i, mask in enumerate(self.masks)
    ]


def pack(context: Context, packing: Packing) -> PackedLeaves:
  """Packs the leaves of a context."""
  leaves = context.leaves

  def packed(arrays: Sequence[Array | None]) -> list[Array] | None:
    found = [x for x in arrays if x is not None]
    return packing.pack(found) if found else None

  return PackedLeaves(
    context,
    packing,
    weights=packing.pack([leaf.weights for leaf in leaves]),
    gradients=packed([leaf.gradient for leaf in leaves]),
    momentum=packed([leaf.momentum for leaf in leaves]),
    hessian_gradient=packed([leaf.hessian_gradient for leaf in leaves]),
    masks=packing.pack([leaf.mask for leaf in leaves]),
  )
