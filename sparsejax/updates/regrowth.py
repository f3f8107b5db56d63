"""The exchange of weights inside each layer: prune some, regrow some."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from sparsejax.method import Criterion, Fraction, Layers, Lose, Regrow, Seen
from sparsejax.selection import random_bits, search
from sparsejax.updates.context import View


class Exchanged(NamedTuple):
  """What an exchange leaves behind.

  Attributes:
    masks: the new masks, packed.
    stays: what was on and was not pruned, packed.
    lost: int32[layers], weights that were pruned.
    counts: int32[layers], weights that are to be on.
  """

  masks: list[Bool[Array, "..."]]
  stays: list[Bool[Array, "..."]]
  lost: Int[Array, " layers"]
  counts: Int[Array, " layers"]


def share_of(
  fraction: Fraction, rounding: Callable[[Array], Array] = search.ceil
) -> Lose:
  """Every layer loses a share of its active weights.

  Args:
    fraction: step -> share in [0, 1].
    rounding: to a number of weights, in float64: `ceil` or `floor` of `masks`.
  """

  def lose(layers: Layers) -> Int[Array, " layers"]:
    return search.share(layers.active, fraction, layers.step, rounding)

  return lose


def exchange(
  regrow: Regrow,
  view: View,
  *,
  metric: Float[Array, ""] | None,
  memory: Mapping[str, PyTree],
) -> Exchanged:
  """Prunes active weights of each layer and regrows others.

  Args:
    regrow: the slots.
    view: the leaves; its masks are those before.
    metric: what `update` was given.
    memory: by name.
  """
  contest = view.each_layer
  before = view.masks
  by = view.score(regrow.prune_by, random_bits.PRUNE)
  parts = [regrow.split(param) for param in view.params]
  stays: list[Array] = []
  lost = jnp.zeros(contest.num_groups, jnp.int32)
  active = jnp.zeros(contest.num_groups, jnp.int32)
  layers = _layers(view, active, metric, memory)
  for part in zip(*parts, strict=True):
    valid = [m & p for m, p in zip(before, part, strict=True)]
    there = search.count_active(valid, contest)
    gone = regrow.lose(layers._replace(active=there))
    gone = jnp.clip(gone, 0, there)
    left = search.select(by, there - gone, contest, valid=valid)
    stays = _either(stays, left) if stays else left
    lost, active = lost + gone, active + there
  layers = layers._replace(active=active)
  free = jnp.asarray(layers.sizes, jnp.int32) - active
  if not regrow.exclude_just_pruned:
    free += lost
  gained = jnp.clip(regrow.gain(layers, lost), 0, free)
  taken = before if regrow.exclude_just_pruned else stays
  off = [
    ~t if i is None else ~t & i
    for t, i in zip(taken, view.packed.inside(), strict=True)
  ]
  grown = search.select(
    view.with_masks(stays).score(regrow.by, random_bits.REGROW),
    gained,
    contest,
    valid=off,
    # A score of exactly 0 says nothing, so those are drawn at random.
    shuffle=lambda: view.bits(random_bits.REGROW),
  )
  return Exchanged(_either(stays, grown), stays, lost, active - lost + gained)


def _layers(view: View, active, metric, memory) -> Layers:
  def count(property_: Callable[[Seen], Array]) -> Int[Array, " layers"]:
    flags = [property_(seen) & seen.mask for seen in view.seen]
    return search.count_active(view.packed.pack(flags), view.each_layer)

  def total(criterion: Criterion) -> Float[Array, " layers"]:
    scores = view.score_leaves(criterion, random_bits.PRUNE)
    sums = [_sum(x, seen) for x, seen in zip(scores, view.seen, strict=True)]
    return jnp.concatenate(sums)

  return Layers(
    step=view.step,
    sizes=np.asarray(view.layout.sizes, np.int64),
    active=active,
    metric=metric,
    memory=memory,
    counted=count,
    total=total,
  )


def _sum(scores: Array, seen: Seen) -> Float[Array, " layers"]:
  """Sums the scores of active weights in float64, for each slice."""
  exact = lax.convert_element_type(scores, jnp.float64)
  exact = jnp.where(seen.mask, exact, jnp.zeros_like(exact))
  others = tuple(d for d in range(exact.ndim) if d != seen.axis)
  return jnp.atleast_1d(jnp.sum(exact, axis=others))


def _either(a, b):
  return [x | y for x, y in zip(a, b, strict=True)]
