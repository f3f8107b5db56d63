"""N:M sparsity learned from scratch: SR-STE (Zhou et al., 2021)."""

import numpy as np

from oracles import kept, network, pruning, ranking


def largest_of_groups(weights, n, m):
  """The n largest of every m consecutive weights along the input axis.

  That is the second to last axis: HWIO kernels are (..., in, out). A leaf whose
  input axis is not a multiple of m stays dense.
  """
  mask = np.ones(weights.shape, bool)
  if weights.shape[-2] % m:
    return mask
  scores = np.moveaxis(ranking.magnitude(weights), -2, -1)
  columns = np.moveaxis(mask, -2, -1)  # A view.
  for place in np.ndindex(scores.shape[:-1]):
    for start in range(0, scores.shape[-1], m):
      group = scores[place][start : start + m]
      columns[place][start : start + m] = ranking.keep_top_in(
        group, n, np.ones(m, bool)
      )
  return mask


def sr_ste(leaves, sgd, rank, *, decay):
  """Straight-through, with decay lambda of inactive weights."""

  def gradient_of(leaf, gradient):
    decayed = gradient + np.float32(decay) * leaf.weights
    return np.where(leaf.mask, gradient, decayed)

  rank(network.sparse_leaves(leaves), 0)
  return kept.StepThenRank(
    leaves, sgd, due=lambda t: True, rank=rank, gradient_of=gradient_of
  )


def by_groups(n, m):
  """Ranks within groups of m."""

  def rank(leaves, t):
    del t  # Unused: every step is the same.
    for leaf in leaves:
      leaf.mask = largest_of_groups(leaf.weights, n, m)

  return rank


def by_layers(sparsity):
  """Ranks within layers, at the same sparsity for all."""

  def rank(leaves, t):
    del t  # Unused: every step is the same.
    kept.keep_largest(leaves, sparsity, pruning.prune_uniform)

  return rank
