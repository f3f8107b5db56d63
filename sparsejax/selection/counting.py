"""Counting: how many elements of each group have a flag, exactly.

A search counts which scores reach its probes, a summary counts masks. Where
more weights compete than an int32 can count, counts have two limbs
(`components.wide_counts`). Over sharded arrays the partial counts are summed by
an all-reduce of a few integers.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool

from sparsejax.components import placement, wide_counts
from sparsejax.components.wide_counts import Counted
from sparsejax.selection.groups import Groups, each_layer


def count_active(
  masks: Sequence[Bool[Array, "..."]], groups: Groups
) -> Counted:
  """Returns the number of ones of each group, int32[groups] or limbs."""
  if groups.at_once:
    return group_counts([[mask[None]] for mask in masks], groups)[0]
  return group_counts([[mask, ~mask] for mask in masks], groups)[0]


def count_each(masks: Sequence[Bool[Array, "..."]]) -> Counted:
  """Returns the number of ones of each mask, int32[masks] or limbs."""
  sharded = placement.may_be_sharded(masks)
  sizes = [mask.size for mask in masks]
  groups = each_layer([None] * len(masks), sizes, sharded=sharded)
  return count_active(masks, groups)


def group_counts(flags: Sequence[Sequence[Array]], groups: Groups) -> Counted:
  """Counts what `Field.reaching` returns: [n, groups]."""
  counted = [
    _count_at_once(some[0], axis, groups.limbs)
    if groups.at_once
    else jnp.stack(_count(list(some), axis))
    for some, axis in zip(flags, groups.axes, strict=True)
  ]
  counts = counted[0]
  if len(counted) > 1:
    counts = wide_counts.concatenate(counted, 1)
  if groups.limbs is None:
    return _by_group(counts, groups)
  return wide_counts.added(
    counts,
    len(groups.of_slice),
    groups.limbs,
    functools.partial(_by_group, groups=groups),
  )


def _count(flags, axis):
  """Counts several bool arrays of one shape in one pass: int32[slices] each.

  One variadic reduction, because XLA's CPU compiler vectorizes it and does not
  vectorize a reduction with a single output.
  """
  dims = tuple(d for d in range(flags[0].ndim) if d != axis)
  counted = lax.reduce(
    tuple(flag.astype(jnp.int32) for flag in flags),
    (np.int32(0),) * len(flags),
    _added,
    dims,
  )
  return [jnp.atleast_1d(c) for c in counted]


def _added(x, y):
  """A function of the module: jax compiles anew for each new one, if eager."""
  return tuple(a + b for a, b in zip(x, y, strict=True))


def _count_at_once(flags, axis, limbs):
  """Counts a bool array [n, ...]: [n, slices].

  A plain sum: of a reduction with several outputs XLA gathers the operands, or
  the partial results of all devices.
  """
  kept = (0,) if axis is None else (0, axis + 1)
  counted = wide_counts.ones(flags, kept, limbs)
  return counted[:, None] if axis is None else counted


def _by_group(counts, groups):
  """Sums int32[n, slices] up to int32[n, groups]."""
  of_slice = np.asarray(groups.of_slice)
  if groups.count == len(np.unique(of_slice)) == len(of_slice):
    return counts[:, np.argsort(of_slice)]
  if groups.count == 1:
    return jnp.sum(counts, axis=1, keepdims=True, dtype=jnp.int32)
  # Along the first axis: XLA's CPU backend compiles `zeros.at[:, of_slice]
  # .add(counts)` wrongly where counts are a 7 x 7 square (jax 0.10.2).
  return jax.ops.segment_sum(counts.T, of_slice, groups.count).T
