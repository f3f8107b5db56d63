"""Pruning: the highest scores of each group stay."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from sparsejax.components import ranking, scopes
from sparsejax.method import Layout, Prune, Scope
from sparsejax.selection import random_bits, search
from sparsejax.selection.lazy import materialize
from sparsejax.selection.packing import Packing
from sparsejax.updates.context import PackedLeaves


def prune(
  part: Prune,
  leaves: PackedLeaves,
  budgets: Int[Array, " groups"] | None,
  *,
  revives: bool,
) -> list[Array]:
  """Returns the masks after pruning, packed.

  Each group keeps as many weights as `budgets` say, or a pattern decides. With
  `revives`, inactive weights compete too, as kept storage has it.
  """
  if part.pattern is not None:
    scores = leaves.score_leaves(part.criterion, random_bits.PRUNE)
    pairs = zip(scores, leaves.current.leaves, strict=True)
    packed = leaves.packing.pack([part.pattern.keep(x, y) for x, y in pairs])
    if revives:
      return packed
    return [x & y for x, y in zip(packed, leaves.masks, strict=True)]
  valid = leaves.packing.is_weight() if revives else leaves.masks
  scores = leaves.score(part.criterion, random_bits.PRUNE)
  layout = leaves.context.layout
  return keep_highest(
    part.scope, layout, leaves.packing, scores, budgets, valid
  )


def keep_highest(
  scope: Scope, layout: Layout, packing: Packing, scores, budgets, valid
) -> list[Array]:
  """Returns masks of the highest scores of each group, packed.

  Scores, and the `valid` positions, which compete, are packed as well; budgets
  are int32[groups].
  """
  groups = packing.groups(scopes.groups_of(scope, layout))
  if scope.min_active_per_layer:
    least = np.asarray(scopes.least_counts(scope, layout))
    first = search.select(scores, least, packing.each_layer, valid=valid)
    scores = [
      jnp.where(f, ranking.HIGHEST_RANK, ranking.ranks(materialize(x)))
      for f, x in zip(first, scores, strict=True)
    ]
  return search.select(scores, budgets, groups, valid=valid)
