"""Methods that keep the values of pruned weights.

DPF (Lin et al., 2020), DNW (Wortsman et al., 2019) and Top-KAST (Jayakumar et
al., 2020). The leaves store dense weights, which the optimizer steps and from
which every mask is recomputed; the user's parameters are the masked weights.
"""

import numpy as np

from oracles import network, pruning


def keep_largest(leaves, sparsity, prune):
  """Recomputes masks from all weights, active or not, by magnitude."""
  for leaf in leaves:
    leaf.mask = np.ones(leaf.mask.shape, bool)
  prune(leaves, sparsity)


class StepThenRank:
  """Steps all weights, then recomputes the masks.

  If a gradient is not finite, a due mask update waits for the next finite step.

  Args:
    leaves: the network with its initial masks.
    sgd: the optimizer.
    due: step -> bool, whether masks are recomputed after it.
    rank: (sparse leaves, step) -> None, recomputes them.
    sees: (leaf, gradient) -> the gradient for a sparse leaf.
  """

  def __init__(self, leaves, sgd, *, due, rank, gradient_of):
    self.leaves, self.sgd = leaves, sgd
    self.due, self.rank, self.gradient_of = due, rank, gradient_of
    self.t, self.pending = 0, False

  def step(self, gradients):
    for leaf, gradient in zip(self.leaves, gradients, strict=True):
      if leaf.mask is not None:
        gradient = self.gradient_of(leaf, gradient)
      self.sgd.move(leaf, gradient)
    self.t += 1
    self.pending |= self.due(self.t)
    if self.pending and network.all_finite(gradients):
      self.rank(network.sparse_leaves(self.leaves), self.t)
      self.pending = False


def everywhere(leaf, gradient):
  """Straight-through: the gradient moves every weight, also inactive ones."""
  del leaf
  return gradient


def dpf(leaves, sgd, gradual):
  """Dynamic pruning with feedback: gradual, straight-through.

  Masks follow the weights to the end, also at the final sparsity.
  """

  def due(t):
    return t % gradual.every == 0 and gradual.begin_step < t

  def rank(sparse, t):
    keep_largest(sparse, gradual.sparsity(t), pruning.prune_global)

  return StepThenRank(leaves, sgd, due=due, rank=rank, gradient_of=everywhere)


def dnw(leaves, sgd, sparsity):
  """Discovering neural wirings: the largest per layer, straight-through."""

  def rank(sparse, t):
    del t  # Unused: every step is the same.
    keep_largest(sparse, sparsity, pruning.prune_uniform)

  rank(network.sparse_leaves(leaves), 0)
  return StepThenRank(
    leaves,
    sgd,
    due=lambda t: True,
    rank=rank,
    gradient_of=everywhere,
  )


class WeightSparse:
  """Weight-sparse training (Gao et al., 2025).

  After every step all but the largest weights of each layer are set to 0. The
  optimizer gets the dense gradient, steps all weights from what is left of
  them, and its state is never touched. The active fraction falls along a line.
  """

  def __init__(self, leaves, sgd, *, sparsity, end_step, every):
    self.leaves, self.sgd = leaves, sgd
    self.sparsity, self.end_step, self.every = sparsity, end_step, every
    self.t, self.pending = 0, False

  def step(self, gradients):
    for leaf, gradient in zip(self.leaves, gradients, strict=True):
      before = leaf.mask
      self.sgd.move(leaf, gradient)
      if before is not None:
        leaf.stepped = leaf.weights
        leaf.zero(~before)
    self.t += 1
    if not network.all_finite(gradients):
      return
    updates = self.end_step // self.every
    share = min(self.t // self.every, updates) / updates
    sparse = network.sparse_leaves(self.leaves)
    for leaf in sparse:
      leaf.weights = leaf.stepped
    keep_largest(sparse, self.sparsity * share, pruning.prune_uniform)
    for leaf in sparse:
      leaf.zero(~leaf.mask)


class TopKAST:
  """Always sparse: a forward set A, and a larger backward set B that learns.

  Both contain the largest weights of each layer. Outside B a weight does not
  move, while its optimizer state advances with a gradient of zero. The penalty
  lambda (|A| + |B without A| / D) of L2 norms, with D the density of A, keeps
  exploring weights small.
  """

  def __init__(
    self, leaves, sgd, *, sparsity, backward_sparsity, penalty, every=1
  ):
    self.leaves, self.sgd = leaves, sgd
    self.sparsity, self.backward_sparsity = sparsity, backward_sparsity
    self.penalty, self.every = penalty, every
    self.t, self.pending = 0, False
    self.update_sets()

  def update_sets(self):
    leaves = network.sparse_leaves(self.leaves)
    keep_largest(leaves, self.backward_sparsity, pruning.prune_uniform)
    backward = [leaf.mask for leaf in leaves]
    keep_largest(leaves, self.sparsity, pruning.prune_uniform)
    self.backward = {
      leaf.name: leaf.mask | b for leaf, b in zip(leaves, backward, strict=True)
    }

  def step(self, gradients):
    for leaf, gradient in zip(self.leaves, gradients, strict=True):
      if leaf.mask is None:
        self.sgd.move(leaf, gradient)
        continue
      learns, before = self.backward[leaf.name], leaf.weights
      gradient = gradient + penalty_gradient(leaf, learns, self.penalty)
      self.sgd.move(leaf, np.where(learns, gradient, np.float32(0)))
      leaf.weights = np.where(learns, leaf.weights, before)
    self.t += 1
    self.pending |= self.t % self.every == 0
    if self.pending and network.all_finite(gradients):
      self.update_sets()
      self.pending = False


def penalty_gradient(leaf, learns, penalty):
  """The gradient of the penalty; 0 on a set with norm 0."""
  weights = leaf.weights.astype(np.float64)
  gradient = np.zeros_like(weights)
  density = leaf.active / leaf.size
  for part, scale in [(leaf.mask, 1.0), (learns & ~leaf.mask, 1.0 / density)]:
    norm = np.sqrt(np.sum(weights[part] ** 2))
    if norm > 0:
      gradient[part] = penalty * scale * weights[part] / norm
  return gradient.astype(np.float32)
