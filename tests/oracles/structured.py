"""Pruning in units: filters, blocks, N:M cells, minima of rows and columns.

From section 2.23 and 2.24 of the rules: a unit is pruned by the sum of its
magnitudes and regrown by that of its gradient magnitudes.
"""

import math

import numpy as np

from oracles import ranking
from oracles.network import sparse_leaves

# Units


class Units:
  """A leaf whose entries are the units of another one.

  `slices` lists the index of every unit in the leaf, in the order of `shape`.
  """

  def __init__(self, leaf, shape, slices):
    self.leaf, self.shape, self.slices = leaf, shape, slices
    self.name, self.index = leaf.name, leaf.index

  def sums(self, values):
    """The sums of absolute values over every unit."""
    found = [np.abs(values[at]).sum(dtype=np.float32) for at in self.slices]
    return np.array(found, np.float32).reshape(self.shape)

  @property
  def weights(self):
    return self.sums(self.leaf.weights)

  @property
  def mask(self):
    found = [bool(self.leaf.mask[at].any()) for at in self.slices]
    return np.array(found).reshape(self.shape)

  @mask.setter
  def mask(self, mask):
    new = np.zeros(self.leaf.mask.shape, bool)
    for at, active in zip(self.slices, mask.ravel(), strict=True):
      new[at] = active
    self.leaf.mask = new

  @property
  def size(self):
    return len(self.slices)

  @property
  def active(self):
    return int(self.mask.sum())

  def reset(self, where):
    for at, off in zip(self.slices, where.ravel(), strict=True):
      if off:
        inside = np.zeros(self.leaf.mask.shape, bool)
        inside[at] = True
        self.leaf.reset(inside)


def filters(leaf):
  """The outputs, along the last axis."""
  outputs = leaf.weights.shape[-1]
  return Units(leaf, (outputs,), [(..., j) for j in range(outputs)])


def blocks(height, width):
  """Blocks of the last two axes; smaller ones at the edges."""

  def units(leaf):
    *taps, rows, columns = leaf.weights.shape
    shape = (*taps, math.ceil(rows / height), math.ceil(columns / width))
    slices = [
      (
        *tap,
        slice(i * height, (i + 1) * height),
        slice(j * width, (j + 1) * width),
      )
      for *tap, i, j in np.ndindex(shape)
    ]
    return Units(leaf, shape, slices)

  return units


def in_units(units, events):
  """The same events, which see units in the place of weights."""

  def seen(update):
    def changed(leaves, gradients, t):
      of = {leaf.index: units(leaf) for leaf in sparse_leaves(leaves)}
      sums = {i: each.sums(gradients[i]) for i, each in of.items()}
      update(list(of.values()), sums, t)

    return changed

  return [(due, seen(update)) for due, update in events]


def prune_filters(weights, active, rate):
  """Which filters stay: without `floor(rate |U|)` of the smallest L1 norm."""
  norms = ranking.magnitude(
    np.abs(weights).sum(axis=tuple(range(weights.ndim - 1)), dtype=np.float32)
  )
  left = int(active.sum()) - math.floor(rate * int(active.sum()) + 1e-6)
  return ranking.keep_top([norms], left, active)


def regrow_filters(gradient, active, count):
  """The inactive filters of the largest sums of gradient magnitudes."""
  sums = ranking.magnitude(
    np.abs(gradient).sum(axis=tuple(range(gradient.ndim - 1)), dtype=np.float32)
  )
  return ranking.keep_top([sums], count, ~active)


# N:M


def cells(shape, m):
  """Index of every m consecutive entries along the last axis but one.

  None for a leaf whose inputs are no multiple of m: it is dense.
  """
  *taps, rows, columns = shape
  if rows % m:
    return None
  return [
    (*tap, slice(i * m, (i + 1) * m), j)
    for *tap, i, j in np.ndindex(*taps, rows // m, columns)
  ]


def keep_in_cells(leaf, scores, count, m, valid):
  """The mask of the `count` best valid entries of every cell."""
  found = cells(scores.shape, m)
  if found is None:
    return np.ones(scores.shape, bool)
  mask = np.zeros(scores.shape, bool)
  for at in found:
    mask[at] = ranking.keep_top([scores[at]], count, valid[at])
  return mask


def first_cells(leaves, n, m, key):
  """Random first masks with n of every m."""
  for leaf in sparse_leaves(leaves):
    bits = ranking.random_bits(
      key, 0, leaf.index, ranking.FIRST_MASKS, leaf.weights.shape
    )
    every = np.ones(bits.shape, bool)
    leaf.mask = keep_in_cells(leaf, bits, n, m, every)


def prune_cells(n, m, *, kept=False):
  """Prunes to `ceil(m (1 - s))` of every m, n at the least."""

  def prune(leaves, sparsity):
    count = max(n, ranking.ceil_tol(m * (1 - sparsity)))
    for leaf in leaves:
      valid = np.ones(leaf.mask.shape, bool) if kept else leaf.mask
      scores = ranking.magnitude(leaf.weights)
      leaf.mask = keep_in_cells(leaf, scores, count, m, valid)

  return prune


def regrow_cells(leaf, scores, kept, m, bits):
  """Every cell regrows as many entries as it lost; zeros at random."""
  found = cells(leaf.weights.shape, m)
  if found is None:
    return leaf.mask
  new = kept.copy()
  ties = np.where(scores == 0.0, bits, 0)
  for at in found:
    lost = int(leaf.mask[at].sum()) - int(kept[at].sum())
    new[at] |= ranking.keep_top([scores[at], ties[at]], lost, ~kept[at])
  return new


def swap_in_cells(fraction, rounding, m, key):
  """Prunes a fraction of a layer, and regrows in each cell by gradient."""

  def update(leaves, gradients, t):
    for leaf in sparse_leaves(leaves):
      count = rounding(fraction(t) * leaf.active)
      kept = ranking.keep_top_in(
        ranking.magnitude(leaf.weights), leaf.active - count, leaf.mask
      )
      bits = ranking.random_bits(
        key, t, leaf.index, ranking.REGROW, leaf.weights.shape
      )
      scores = ranking.magnitude(gradients[leaf.index])
      leaf.mask = regrow_cells(leaf, scores, kept, m, bits)

  return update


# Minima of rows and columns


def best_of_lines(scores, valid, rows, columns):
  """The best valid entries of every column, then of rows that have too few."""
  chosen = np.zeros(scores.shape, bool)
  for axis, least in ((-1, columns), (-2, rows)):
    lines, mask = np.moveaxis(scores, axis, 0), np.moveaxis(chosen, axis, 0)
    free = np.moveaxis(valid & ~chosen, axis, 0)
    for i in range(len(lines)):
      missing = max(0, least - int(mask[i].sum()))
      mask[i] |= ranking.keep_top_in(lines[i], missing, free[i])
  return chosen


def keep_with_minima(scores, k, valid, rows, columns):
  """The k best valid entries of a leaf, those that lines need first."""
  chosen = best_of_lines(scores, valid, rows, columns)
  rest = ranking.keep_top_in(scores, k - int(chosen.sum()), valid & ~chosen)
  return chosen | rest


def prune_global_with_minima(rows, columns):
  """As `pruning.prune_global`, but lines keep their best entries."""

  def prune(leaves, sparsity):
    total = sum(leaf.size for leaf in leaves)
    requested = ranking.floor_tol(total * (1.0 - sparsity))
    scores = [ranking.magnitude(leaf.weights) for leaf in leaves]
    chosen = [
      best_of_lines(score, leaf.mask, rows, columns)
      for score, leaf in zip(scores, leaves, strict=True)
    ]
    rest = ranking.keep_top_over(
      scores,
      requested - sum(int(c.sum()) for c in chosen),
      [x.mask & ~c for x, c in zip(leaves, chosen, strict=True)],
    )
    for leaf, first, others in zip(leaves, chosen, rest, strict=True):
      leaf.mask = first | others

  return prune


def swap_with_minima(fraction, rounding, rows, columns, key):
  """Prunes a fraction of a layer, but for what its lines need, and regrows."""

  def update(leaves, gradients, t):
    for leaf in sparse_leaves(leaves):
      scores = ranking.magnitude(leaf.weights)
      needed = int(best_of_lines(scores, leaf.mask, rows, columns).sum())
      count = min(rounding(fraction(t) * leaf.active), leaf.active - needed)
      kept = keep_with_minima(
        scores, leaf.active - count, leaf.mask, rows, columns
      )
      bits = ranking.random_bits(
        key, t, leaf.index, ranking.REGROW, leaf.weights.shape
      )
      leaf.mask = kept | ranking.grow_by_gradient(
        gradients[leaf.index], count, ~kept, bits
      )

  return update
