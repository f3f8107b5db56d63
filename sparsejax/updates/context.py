"""What a mask update looks at: the leaves, how they are packed, randomness."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from sparsejax.components import criteria
from sparsejax.components.trees import Layout
from sparsejax.method import Criterion, Key, Memory, Seen
from sparsejax.selection import random_bits
from sparsejax.selection.packing import Packing
from sparsejax.selection.search import Competition, Recipe, recipe


class View(NamedTuple):
  """The sparse leaves at one moment.

  Attributes:
    layout: the sparse leaves.
    packed: how they are packed.
    leaves: one entry per leaf, in layout order, without keys; with the masks
      of the first look.
    step: int32[].
    key: typed key of the run; None where there is none.
    params: the weights, packed.
    grads: the gradients, packed.
    masks: the masks, packed.
    changed: whether they are others than those of `leaves`.
  """

  layout: Layout
  packed: Packing
  leaves: Sequence[Seen]
  step: Int[Array, ""]
  key: Key | None
  params: list[Array]
  grads: list[Array]
  masks: list[Bool[Array, "..."]]
  changed: bool = False

  @property
  def seen(self) -> Sequence[Seen]:
    """One entry per leaf, in layout order, without keys."""
    if not self.changed:
      return self.leaves
    masks_ = self.packed.unpack(self.masks)
    pairs = zip(self.leaves, masks_, strict=True)
    return [seen._replace(mask=mask) for seen, mask in pairs]

  @property
  def each_layer(self) -> Competition:
    """Every layer on its own."""
    return self.contest(np.arange(len(self.layout.sizes)))

  def contest(self, groups: Sequence[int] | np.ndarray) -> Competition:
    """Returns the competition of the layers in groups."""
    return self.packed.contest(groups, self.layout.sizes)

  def with_masks(self, packed_masks: Sequence[Array]) -> "View":
    """Returns the same view with other masks, given packed."""
    return self._replace(masks=list(packed_masks), changed=True)

  def score(
    self, criterion: Criterion, purpose: int
  ) -> Sequence[Array | Recipe]:
    """Scores all weights, packed; what is elementwise as recipes.

    Args:
      criterion: the score.
      purpose: of the random bits, one of `draws`.
    """
    if isinstance(criterion, criteria.Elementwise):
      return [recipe(criterion, seen) for seen in self._packed_seen()]
    if criterion is criteria.random and self.key is not None:
      return self.bits(purpose)
    return self.packed.pack(self.score_leaves(criterion, purpose))

  def score_leaves(self, criterion: Criterion, purpose: int) -> list[Array]:
    """Scores all weights, leaf by leaf."""
    return [criterion(seen) for seen in self.with_keys(purpose)]

  def with_keys(self, purpose: int) -> list[Seen]:
    """Returns the leaves with a key for each."""
    return keyed(self.layout, self.seen, self.step, self.key, purpose)

  def bits(self, purpose: int) -> list[Array]:
    """Draws random ranks for all weights, packed."""
    assert self.key is not None  # `sparsify` refused to go on without one.
    return random_bits.bits(
      self.layout, self.packed, self.key, self.step, purpose
    )

  def _packed_seen(self) -> list[Seen]:
    first = self.leaves[0]
    shaped = [
      name for name, x in first.memory.items() if x.shape == first.param.shape
    ]
    memory = {
      name: self.packed.pack([seen.memory[name] for seen in self.leaves])
      for name in shaped
    }
    columns = zip(self.params, self.grads, self.masks, strict=True)
    return [
      Seen(param, grad, mask, {name: memory[name][i] for name in shaped})
      for i, (param, grad, mask) in enumerate(columns)
    ]


def seen_leaves(
  layout: Layout,
  params: Sequence[Array],
  grads: Sequence[Array],
  masks_: Sequence[Array],
  memories: Mapping[str, Memory],
  memory: Mapping[str, PyTree],
) -> list[Seen]:
  """Returns what slot functions see of each sparse leaf, in layout order.

  Args:
    layout: the sparse leaves.
    params: their weights.
    grads: their dense gradients.
    masks_: their masks.
    memories: the slots, which say what of a memory belongs to a leaf.
    memory: what they hold.
  """
  by_leaf = {
    name: jax.tree.leaves(slot.leaves(memory[name]))
    for name, slot in memories.items()
    if slot.leaves is not None
  }
  return [
    Seen(
      param,
      grad,
      mask,
      {name: leaves[i] for name, leaves in by_leaf.items()},
      axis=leaf.axis,
    )
    for i, (leaf, param, grad, mask) in enumerate(
      zip(layout.leaves, params, grads, masks_, strict=True)
    )
  ]


def keyed(
  layout: Layout,
  seen: Sequence[Seen],
  step: Int[Array, ""],
  key: Key | None,
  purpose: int,
) -> list[Seen]:
  """Returns the leaves with the key of each, for one step and purpose."""
  keys = random_bits.leaf_keys(layout, key, step, purpose)
  return [s._replace(key=k) for s, k in zip(seen, keys, strict=True)]


def look(
  layout: Layout,
  seen: Sequence[Seen],
  packed: Packing,
  step: Int[Array, ""],
  key: Key | None,
) -> View:
  """Returns the view of leaves, packed once for all that looks at them."""
  return View(
    layout,
    packed,
    seen,
    step,
    key,
    params=packed.pack([s.param for s in seen]),
    grads=packed.pack([s.grad for s in seen]),
    masks=packed.pack([s.mask for s in seen]),
  )
