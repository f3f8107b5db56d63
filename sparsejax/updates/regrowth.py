"""Prune-and-regrow: regrowth is inside each layer."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from sparsejax.components import scopes, wide_counts
from sparsejax.components.wide_counts import Counted
from sparsejax.method import PruneAndRegrow, Quota
from sparsejax.selection import counting, random_bits, search
from sparsejax.selection.groups import Groups
from sparsejax.updates import pruning
from sparsejax.updates.context import PackedLeaves


class Regrown(NamedTuple):
  """The masks after prune-and-regrow, packed, and its counts.

  Attributes:
    new: active weights.
    keep: those that keep their value and optimizer state.
    pruned: [layers], weights that were pruned before regrowth.
    counts: [layers], active weights.
  """

  new: list[Bool[Array, "..."]]
  keep: list[Bool[Array, "..."]]
  pruned: Counted
  counts: Counted


def prune_and_regrow(
  part: PruneAndRegrow, leaves: PackedLeaves, quota: Quota | None = None
) -> Regrown:
  """Prunes active weights and regrows others of each layer.

  With a quota, its cells keep their best weights, or regrow what they lost.
  """
  prune = _prune_in_layers if part.scope is None else _prune_in_groups
  refilled = quota is not None and quota.refills
  left, active, pruned = prune(part, leaves, None if refilled else quota)
  if part.by is None:
    return Regrown(left, left, pruned, active - pruned)
  context, before = leaves.current, leaves.masks
  free = wide_counts.like(context.layout.sizes, active) - active
  if not part.exclude_just_pruned:
    free += pruned
  wanted = part.regrow_count(context, active, pruned)
  regrown = wide_counts.clip(wanted, 0, free)
  taken = before if part.exclude_just_pruned else left
  inactive = [
    ~t if w is None else ~t & w
    for t, w in zip(taken, leaves.packing.is_weight(), strict=True)
  ]
  scores = leaves.with_masks(left).score(part.by, random_bits.REGROW)
  if quota is not None and quota.refills:
    scores = pruning.with_first(
      scores,
      pruning.needed(
        quota,
        context.layout,
        scores,
        active,
        inactive,
        present=left,
        ties=leaves.bits(random_bits.REGROW),
      ),
    )
  grown = search.select(
    scores,
    regrown,
    leaves.packing.each_layer,
    valid=inactive,
    # A score of exactly 0 carries no information: those regrow at random.
    shuffle=lambda: leaves.bits(random_bits.REGROW),
  )
  new = [x | y for x, y in zip(left, grown, strict=True)]
  survivors = left if part.restart else before
  keep = [x & y for x, y in zip(new, survivors, strict=True)]
  return Regrown(new, keep, pruned, active - pruned + regrown)


def only_counted(leaves: PackedLeaves) -> Regrown:
  """The masks as they are, where prune-and-regrow is not due."""
  masks = list(leaves.masks)
  counts = counting.count_active(masks, leaves.packing.each_layer)
  none = jax.tree.map(jnp.zeros_like, counts)
  return Regrown(masks, masks, none, counts)


def _prune_in_layers(
  part: PruneAndRegrow, leaves: PackedLeaves, quota: Quota | None
) -> tuple[list[Array], Counted, Counted]:
  """Returns what is left, packed, and [layers] active and pruned."""
  groups, context = leaves.packing.each_layer, leaves.current
  scores = leaves.score(part.prune_by, random_bits.PRUNE)
  scores, prunable = _spared(quota, leaves, scores)
  left: list[Array] = []
  pruned = active = wide_counts.zeros(groups.count, groups.limbs)
  for valid in _parts(part, leaves):
    count = counting.count_active(valid, groups)
    most = prunable(count, valid, groups)
    fewer = wide_counts.clip(part.prune_count(context, count), 0, most)
    kept = search.select(scores, count - fewer, groups, valid=valid)
    left = [x | y for x, y in zip(left, kept, strict=True)] if left else kept
    pruned, active = pruned + fewer, active + count
  return left, active, pruned


def _prune_in_groups(
  part: PruneAndRegrow, leaves: PackedLeaves, quota: Quota | None
) -> tuple[list[Array], Counted, Counted]:
  """Returns the same where the weights of several layers compete."""
  assert part.scope is not None  # The caller asked.
  context, packing = leaves.current, leaves.packing
  layout, layers = context.layout, packing.each_layer
  groups = packing.groups(scopes.groups_of(part.scope, layout))
  scores = leaves.score(part.prune_by, random_bits.PRUNE)
  scores, prunable = _spared(quota, leaves, scores)
  left = [jnp.zeros(mask.shape, bool) for mask in leaves.masks]
  for valid in _parts(part, leaves):
    count = counting.count_active(valid, groups)
    most = prunable(count, valid, groups)
    fewer = wide_counts.clip(part.prune_count(context, count), 0, most)
    kept = pruning.keep_highest(
      part.scope, layout, packing, scores, count - fewer, valid
    )
    left = [x | y for x, y in zip(left, kept, strict=True)]
  active = counting.count_active(leaves.masks, layers)
  return left, active, active - counting.count_active(left, layers)


def _spared(
  quota: Quota | None, leaves: PackedLeaves, scores: Sequence[Any]
) -> tuple[Sequence[Any], Callable[..., Counted]]:
  """Puts first what a quota needs, which is not pruned.

  Returns the scores, and (count, valid, groups) -> how many of a count of valid
  units in each group may be pruned.
  """
  if quota is None:
    return scores, lambda count, valid, groups: count
  packing, layout = leaves.packing, leaves.context.layout
  active = counting.count_active(leaves.masks, packing.each_layer)
  first = pruning.needed(quota, layout, scores, active, leaves.masks)

  def prunable(count: Counted, valid: Sequence[Array], groups: Groups):
    both = [x & y for x, y in zip(first, valid, strict=True)]
    return count - counting.count_active(both, groups)

  return pruning.with_first(scores, first), prunable


def _parts(part: PruneAndRegrow, leaves: PackedLeaves) -> list[list[Array]]:
  """Returns the active weights of each part that is pruned by itself."""
  if part.parts is None:
    return [leaves.masks]
  divided = [part.parts(weights) for weights in leaves.weights]
  return [
    [m & p for m, p in zip(leaves.masks, each, strict=True)]
    for each in zip(*divided, strict=True)
  ]
