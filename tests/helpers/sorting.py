"""The reference of the exact search: it sorts."""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.components import ranking
from sparsejax.selection.groups import slices_of
from sparsejax.selection.lazy import materialize


def select_by_sorting(scores, counts, groups, *, valid=None, shuffle=None):
  """What `search.select` returns, by `lax.top_k` over the joined leaves."""
  valid = [None] * len(scores) if valid is None else valid
  rank = [ranking.ranks(materialize(score)) for score in scores]
  valid = [materialize(v) for v in valid]
  shapes = [r.shape for r in rank]
  group, order = _places(shapes, groups)

  def flat(arrays):
    return jnp.concatenate([array.ravel() for array in arrays])

  on = flat(
    [
      jnp.ones(r.shape, bool) if v is None else v
      for r, v in zip(rank, valid, strict=True)
    ]
  )
  everything = flat(rank)
  drawn = jnp.zeros_like(everything)
  if shuffle is not None:
    drawn = jnp.where(
      everything == ranking.SIGN, flat(map(materialize, shuffle())), drawn
    )
  chosen = jnp.zeros(everything.size, bool)
  for g in range(groups.count):
    members = np.flatnonzero(group == g)
    if not members.size:
      continue
    best = jnp.asarray(members[np.argsort(order[members])])
    for key in (drawn, everything):  # stable: the last key decides first
      best = best[lax.top_k(key[best], len(members))[1]]
    taking = on[best] & (jnp.cumsum(on[best]) <= counts[g])
    chosen = chosen.at[best].set(taking)
  sizes = np.cumsum([r.size for r in rank])[:-1]
  return [
    part.reshape(shape)
    for part, shape in zip(jnp.split(chosen, sizes), shapes, strict=True)
  ]


def _places(shapes, groups):
  """Returns int64 arrays over all elements: the group, the order in it."""
  of_element, orders = [], []
  for shape, slices in zip(shapes, slices_of(shapes, groups), strict=True):
    group = np.reshape(groups.of_slice[slices.numbers], slices.shape)
    offset = np.reshape(groups.offsets[slices.numbers], slices.shape)
    inside = [1 if d == slices.axis else n for d, n in enumerate(shape)]
    order = np.arange(math.prod(inside)).reshape(inside) + offset
    of_element.append(np.broadcast_to(group, shape).ravel())
    orders.append(np.broadcast_to(order, shape).ravel())
  return np.concatenate(of_element), np.concatenate(orders)
