"""Exact top-k over many leaves: `select` keeps the highest of each group.

Scores are ranked as unsigned integers in the order of the floats
(`components.ranking`). The k-th highest rank is found by counting: each pass
counts, in every group at once, how many scores reach a few probes, and narrows
the interval that holds the k-th one. Ties at the k-th rank are then broken by
index in the same way. The search needs only sums of counts: it neither sorts
nor gathers, k may be traced, and over sharded leaves the only collective is an
all-reduce of a few integers.

`groups` says what competes, `fields` which scores reach a probe, `counting`
counts them in each group, `probes` says where to probe next, and `positions`
orders ties.

The search ends early in a group when some bound is reached by exactly k scores:
which rank is the k-th does not matter then.

What else was measured (25.5 million weights, two CPU cores):
  * `lax.top_k` sorts: 7.6 s for a global selection, 0.05 s here. It wins by 12
    to 34 microseconds on leaves of up to some thousand weights, which are
    searched together with all others anyway, so there is no second backend.
  * One variadic reduction for the bounds of all groups: more fusions, and no
    faster.
  * Scores written to memory once: slower than computing them at every pass
    (see `selection.lazy`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, UInt32

from sparsejax.components import placement, wide_counts
from sparsejax.components.ranking import HIGHEST_RANK, ZERO_RANK
from sparsejax.components.wide_counts import Counted
from sparsejax.selection import positions
from sparsejax.selection.counting import group_counts
from sparsejax.selection.fields import Field
from sparsejax.selection.groups import Groups, join_rows, split_rows, spread
from sparsejax.selection.lazy import LazyArray, materialize
from sparsejax.selection.probes import first_probes, next_probes


def select(
  scores: Sequence[Float[Array, "..."] | UInt32[Array, "..."] | LazyArray],
  counts: Counted | np.ndarray,
  groups: Groups,
  *,
  valid: Sequence[Bool[Array, "..."] | LazyArray | None] | None = None,
  shuffle: Callable[[], Sequence[UInt32[Array, "..."]]] | None = None,
) -> list[Bool[Array, "..."]]:
  """Keeps the highest scores of each group, exactly as many as requested.

  Args:
    scores: one array per leaf, or a lazy one; floats of any dtype, or uint32
      ranks.
    counts: whole numbers [groups], how many to keep; may be traced. Groups
      beyond the end keep none.
    groups: which elements compete.
    valid: positions that take part; all of them where None.
    shuffle: makes uint32 ranks that order scores of exactly 0; called only
      where the count ends among those.

  Returns:
    Masks with exactly `min(count, valid positions)` ones in each group; among
    equal scores the earlier leaf, then the lower row-major index is kept.
  """
  if not scores:
    return []
  everywhere = [None] * len(scores) if valid is None else list(valid)
  counts = wide_counts.on_device(counts, groups.limbs)
  more = groups.count - len(counts)
  counts = jax.tree.map(lambda x: jnp.pad(x, (0, more)), counts)
  field = Field(list(scores), everywhere)
  search = _search(field, counts, groups)
  if shuffle is None:
    return _break_ties_by_index(search, groups)
  among_zeros = jnp.any(search.ambiguous & (search.bound == ZERO_RANK))

  def placed(masks: list[Array]) -> list[Array]:
    """Keeps masks where `valid` is, which the conditional may gather."""
    pairs = zip(masks, field.valid, strict=True)
    return [
      x
      if valid is None or not groups.sharded
      else placement.alike(x, materialize(valid))
      for x, valid in pairs
    ]

  return placed(
    lax.cond(
      among_zeros,
      lambda: placed(_break_ties_at_random(search, groups, shuffle())),
      lambda: placed(_break_ties_by_index(search, groups)),
    )
  )


class _Search(NamedTuple):
  """Where the k-th highest score of each group lies.

  Attributes:
    field: what was searched.
    bound: uint32[groups]; the bound, a rank.
    level: the same, spread over each array.
    missing: counts [groups]; how many of the scores at the bound are kept.
    ambiguous: bool[groups]; whether more lie at the bound than are kept.
  """

  field: Field
  bound: UInt32[Array, " groups"]
  level: list[Array]
  missing: Counted
  ambiguous: Bool[Array, " groups"]


def _search(field, counts, groups) -> _Search:
  bound, above, reached = _kth_highest(field, counts, groups)
  # Without the barrier XLA computes scores for the search and for what follows
  # in one kernel, keeps them, and writes 4 bytes a weight.
  field = lax.optimization_barrier(field)
  missing = counts - above
  # `above` is exact only where the search went on to a single rank.
  ambiguous = (missing > 0) & (missing < reached - above)
  level = spread(bound, field.shapes, groups)
  return _Search(field, bound, level, missing, ambiguous)


def _kth_highest(field, counts, groups):
  """Finds, in each group, a bound that exactly k elements reach, if one exists.

  Otherwise the largest bound that at least k reach. The field goes through a
  barrier at every pass, or XLA hoists the scores out of the loop and writes
  them to memory.

  Returns:
    uint32[groups], the bound; counts [groups], how many are known to exceed it,
    and how many reach it (the largest number where none was counted).
  """

  def unsettled(state):
    _, low, high, _, reached = state
    return jnp.any((low < high) & wide_counts.differ(reached, counts))

  def narrow(state):
    i, low, high, above, reached = state
    seen, i = lax.optimization_barrier((field, i))
    guesses = next_probes(low, high, above, reached, counts)
    start = jnp.broadcast_to(first[:, None], guesses.shape)
    probes = jnp.where(i == 0, start, guesses)
    total = group_counts(seen.reaching(probes, groups), groups)
    enough = total >= counts
    low = jnp.maximum(low, jnp.max(jnp.where(enough, probes, 0), axis=0))
    reached = wide_counts.minimum(
      reached, wide_counts.lowest(wide_counts.where(enough, total, unknown))
    )
    below = jnp.where(enough | (probes == 0), HIGHEST_RANK, probes - 1)
    high = jnp.minimum(high, jnp.min(below, axis=0))
    above = wide_counts.maximum(
      above, wide_counts.highest(wide_counts.where(enough, 0, total))
    )
    # Where even the lowest bound is not reached by k, all are kept.
    none = (probes == 0) & ~enough
    none = jnp.any(none, axis=0)
    high = jnp.where(none, 0, high)
    reached = wide_counts.where(none, above, reached)
    return i + 1, low, jnp.maximum(low, high), above, reached

  first = first_probes(of_floats=field.has_floats)
  nothing = counts < 1
  unknown = wide_counts.upper_bound(groups.limbs)
  start = (
    jnp.uint32(0),
    jnp.where(nothing, HIGHEST_RANK, np.uint32(0)),
    jnp.full(len(counts), HIGHEST_RANK),
    wide_counts.zeros(len(counts), groups.limbs),
    jax.tree.map(lambda x: jnp.full(len(counts), x), unknown),
  )
  _, low, _, above, reached = lax.while_loop(unsettled, narrow, start)
  return low, above, reached


def _break_ties_by_index(search: _Search, groups: Groups) -> list[Array]:
  """Keeps what exceeds the bound, and the first elements at the bound."""
  shapes, missing = search.field.shapes, search.missing

  def last_tie():
    """The place in its group of the last of the ties that are kept."""
    return _kth_first(*join_rows(_tied(search, groups), groups), missing)

  last = lax.cond(
    jnp.any(search.ambiguous),
    last_tie,
    lambda: [jnp.zeros_like(search.bound)] * groups.words,
  )
  last = [jnp.where(missing > 0, word, HIGHEST_RANK) for word in last]
  settles = search.ambiguous | (missing <= 0)
  last = [jnp.where(settles, word, 0) for word in last]
  return [
    higher | (reach & positions.not_after(words, bounds))
    for (higher, reach), words, bounds in zip(
      _around(search, groups),
      zip(*positions.words_of(shapes, groups), strict=True),
      zip(*[spread(word, shapes, groups) for word in last], strict=True),
      strict=True,
    )
  ]


@functools.partial(jax.jit, static_argnums=1)
def _kth_first(ties, groups, counts):
  """Finds the words of the position of the k-th of some ties, in each group.

  The first word is searched, then the second among the ties of that chunk.
  """
  shapes = [flags.shape for flags in ties]
  words, *after = positions.words_of(shapes, groups)
  bound, above, reached = _kth_highest(Field(words, ties), counts, groups)
  if not after:
    return [bound]
  triples = zip(ties, words, spread(bound, shapes, groups), strict=True)
  ties = [flags & (materialize(word) == b) for flags, word, b in triples]
  missing = counts - above
  inside, _, _ = _kth_highest(Field(after[0], ties), missing, groups)
  # Where exactly k reach the chunk, all ties in it are kept.
  return [bound, jnp.where(wide_counts.equal(reached, counts), 0, inside)]


def _break_ties_at_random(search: _Search, groups: Groups, bits) -> list[Array]:
  """Keeps what exceeds the bound, and at zero the highest random bits."""
  bits = [
    jnp.where(b == ZERO_RANK, materialize(drawn), 0)
    for drawn, b in zip(bits, search.level, strict=True)
  ]
  ties, joined_groups = join_rows(_tied(search, groups), groups)
  bits, _ = join_rows(bits, groups)
  kept = _break_ties_by_index(
    _search(Field(bits, ties), search.missing, joined_groups), joined_groups
  )
  kept = split_rows(kept, search.field.shapes)
  around = _around(search, groups)
  return [higher | k for (higher, _), k in zip(around, kept, strict=True)]


def _tied(search: _Search, groups: Groups) -> list[Array]:
  return [reach & ~higher for higher, reach in _around(search, groups)]


def _around(search: _Search, groups: Groups) -> list[tuple[Array, Array]]:
  """Returns for each array which elements exceed the bound, and reach it."""
  bound = search.bound
  above = jnp.where(bound == HIGHEST_RANK, bound, bound + np.uint32(1))
  flags = search.field.reaching(jnp.stack([above, bound]), groups)
  pairs = [(few[0][0], few[0][1]) if groups.at_once else few for few in flags]
  return [
    (higher & (b != HIGHEST_RANK), reach)
    for (higher, reach), b in zip(pairs, search.level, strict=True)
  ]
