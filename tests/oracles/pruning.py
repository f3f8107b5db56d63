"""Magnitude pruning, one-shot and gradual (Zhu & Gupta, 2017)."""

import numpy as np

from oracles import distributions, ranking, schedules
from oracles.network import sparse_leaves


def prune_global(leaves, sparsity):
  """Keeps the largest active weights of the whole network; never regrows."""
  requested = ranking.floor_tol(
    sum(leaf.size for leaf in leaves) * (1.0 - sparsity)
  )
  masks = ranking.keep_top_over(
    [ranking.magnitude(leaf.weights) for leaf in leaves],
    requested,
    [leaf.mask for leaf in leaves],
  )
  for leaf, mask in zip(leaves, masks, strict=True):
    leaf.mask = mask


def prune_inside_layers(densities):
  """The same within each layer; densities: (shapes, density) -> list.

  Budgets are rounded so that they sum to the requested count. None exceeds the
  active weights of its layer, since a layer cannot regrow to make up for
  others.
  """

  def prune(leaves, sparsity):
    shapes = [leaf.weights.shape for leaf in leaves]
    sizes = [leaf.size for leaf in leaves]
    budgets = ranking.largest_remainder(
      [
        size * density
        for size, density in zip(
          sizes, densities(shapes, 1.0 - sparsity), strict=True
        )
      ],
      [leaf.active for leaf in leaves],
      ranking.floor_tol(sum(sizes) * (1.0 - sparsity)),
    )
    for leaf, budget in zip(leaves, budgets, strict=True):
      leaf.mask = ranking.keep_top_in(
        ranking.magnitude(leaf.weights), budget, leaf.mask
      )

  return prune


prune_uniform = prune_inside_layers(distributions.uniform_densities)


class Gradual:
  """When and how far to prune between `begin_step` and `end_step`.

  Updates are at multiples of `every` after `begin_step`. Sparsity is a function
  of the update index and final at the last multiple up to `end_step`. Without a
  multiple in between, there is one update at `end_step`.
  """

  def __init__(
    self,
    initial,
    final,
    *,
    begin_step=0,
    end_step,
    every,
    curve=schedules.cubic,
  ):
    self.initial, self.final, self.curve = initial, final, curve
    self.begin_step, self.end_step, self.every = begin_step, end_step, every
    self.n = end_step // every - begin_step // every

  def prunes_at(self, t):
    if self.n == 0:
      return t == self.end_step
    return t % self.every == 0 and self.begin_step < t <= self.end_step

  def sparsity(self, t):
    if self.n == 0:
      return self.final
    i = t // self.every - self.begin_step // self.every
    return self.curve(self.initial, self.final, i, self.n)


def one_shot(sparsity, *, at_step, prune=prune_global):
  """One update at one step."""

  def update(leaves, gradients, t):
    del gradients, t
    prune(sparse_leaves(leaves), sparsity)

  return [(lambda t: t == at_step, update)]


def gmp(gradual, *, prune=prune_global):
  """Prunes gradually, among active weights only."""

  def update(leaves, gradients, t):
    del gradients
    prune(sparse_leaves(leaves), gradual.sparsity(t))

  return [(gradual.prunes_at, update)]


def gmp_kept(gradual, *, prune=prune_global):
  """Ranks all stored weights, so that pruned ones may return."""

  def update(leaves, gradients, t):
    del gradients
    for leaf in sparse_leaves(leaves):
      leaf.mask = np.ones(leaf.mask.shape, bool)
    prune(sparse_leaves(leaves), gradual.sparsity(t))

  return [(gradual.prunes_at, update)]
