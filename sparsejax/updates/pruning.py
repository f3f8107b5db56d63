"""Pruning: the highest scores of each group stay."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sparsejax.components import ranking, scopes, wide_counts
from sparsejax.components.wide_counts import Counted
from sparsejax.method import Layout, Prune, Quota, Scope
from sparsejax.selection import random_bits, search
from sparsejax.selection.lazy import materialize
from sparsejax.selection.packing import Packing
from sparsejax.updates.context import PackedLeaves


def prune(
  part: Prune,
  leaves: PackedLeaves,
  budgets: Counted | None,
  *,
  revives: bool,
  quota: Quota | None = None,
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
    part.scope, layout, leaves.packing, scores, budgets, valid, quota
  )


def keep_highest(
  scope: Scope,
  layout: Layout,
  packing: Packing,
  scores: Sequence[Any],
  budgets: Any,
  valid: Sequence[Any],
  quota: Quota | None = None,
) -> list[Array]:
  """Returns masks of the highest scores of each group, packed.

  Scores, and the `valid` positions, which compete, are packed as well; budgets
  are whole numbers [groups]. With a quota, what it needs comes first.
  """
  groups = packing.groups(scopes.groups_of(scope, layout))
  if scope.min_active_per_layer:
    least = np.asarray(scopes.least_counts(scope, layout))
    first = search.select(scores, least, packing.each_layer, valid=valid)
    scores = with_first(scores, first)
  if quota is not None:
    counts = wide_counts.on_device(budgets, groups.limbs)
    scores = with_first(scores, needed(quota, layout, scores, counts, valid))
  return search.select(scores, budgets, groups, valid=valid)


def with_first(scores: Sequence[Any], first: Sequence[Array]) -> list[Array]:
  """Returns scores as ranks, the highest one for what comes first."""
  return [
    jnp.where(f, ranking.HIGHEST_RANK, ranking.ranks(materialize(x)))
    for f, x in zip(first, scores, strict=True)
  ]


def needed(
  quota: Quota,
  layout: Layout,
  scores: Sequence[Any],
  counts: Counted,
  valid: Sequence[Any],
  *,
  present: Sequence[Array] | None = None,
  ties: Sequence[Array] | None = None,
) -> list[Array]:
  """Returns the best valid units that every cell of a quota needs.

  Args:
    quota: how many.
    layout: of the arrays, which are leaves as they are.
    scores: higher comes first.
    counts: whole numbers [layers], how many units each layer is to have.
    valid: which may be chosen; all where None.
    present: which count as there already; none where None.
    ties: ranks that order scores of exactly 0; the index does where None.
  """
  least, found = quota.least(layout, counts), []
  for i, leaf in enumerate(layout.leaves):
    ranks = ranking.ranks(materialize(scores[i]))
    ones, allowed = jnp.ones(ranks.shape, bool), materialize(valid[i])
    at_zero = None
    if ties is not None:
      at_zero = jnp.where(ranks == ranking.ZERO_RANK, ties[i], 0)
    layers = layout.layers_of(i)
    per_layer = least[layers.start : layers.stop]
    found.append(
      quota.best(
        jnp.minimum(ranks, ranking.HIGHEST_RANK - 1),
        at_zero,
        per_layer,
        ones if allowed is None else allowed,
        ~ones if present is None else present[i],
        leaf,
      )
    )
  return found
