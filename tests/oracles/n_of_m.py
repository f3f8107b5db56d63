"""N:M sparsity learned from scratch: SR-STE (Zhou et al., 2021)."""

import numpy as np

from oracles import kept, network, pruning, ranking


def largest_of_groups(weights, n, m):
  """The n largest of every m weights in a row along the input axis.

  That axis is the last but one: HWIO kernels have (..., in, out). A leaf whose
  input axis does not divide into groups stays dense.
  """
  mask = np.ones(weights.shape, bool)
  if weights.shape[-2] % m:
    return mask
  scores = np.moveaxis(ranking.magnitude(weights), -2, -1)
  columns = np.moveaxis(mask, -2, -1)  # A view of the same memory.
  for place in np.ndindex(scores.shape[:-1]):
    for start in range(0, scores.shape[-1], m):
      group = scores[place][start : start + m]
      columns[place][start : start + m] = ranking.keep_top_in(
        group, n, np.ones(m, bool)
      )
  return mask


def sr_ste(leaves, sgd, rank, *, decay):
  """Straight through, and weights that are off decay by lambda."""

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
    del t  # Every step is like the first.
    for leaf in leaves:
      leaf.mask = largest_of_groups(leaf.weights, n, m)

  return rank


def by_layers(sparsity):
  """Ranks within whole layers, at one sparsity for all."""

  def rank(leaves, t):
    del t  # Every step is like the first.
    kept.keep_largest(leaves, sparsity, pruning.prune_uniform)

  return rank
