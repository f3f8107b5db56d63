"""OptG: supermask scores that accumulate gradients (Zhang et al., 2022).

Equations 7, 10, 16 and 17 and Algorithm 1; epochs count from 0, as in the
authors' code.
"""

import math

import numpy as np

from oracles import distributions, network, ranking


def sigmoid_of_epoch(k, alpha, epochs):
  """The curve of both the sparsity and the learning rate of the scores."""
  return 1.0 / (1.0 + math.exp(-alpha * (k - epochs / 2)))


def over_all_layers(leaves, scores, sparsity):
  """The highest scores of the whole network."""
  requested = ranking.floor_tol(
    sum(leaf.size for leaf in leaves) * (1.0 - sparsity)
  )
  return ranking.keep_top_over(
    [ranking.canonical(score) for score in scores],
    requested,
    [np.ones(leaf.mask.shape, bool) for leaf in leaves],
  )


def inside_layers(densities):
  """The highest scores per layer; densities: (shapes, density) -> list."""

  def choose(leaves, scores, sparsity):
    shapes = [leaf.weights.shape for leaf in leaves]
    counts = distributions.budgets(
      densities(shapes, 1.0 - sparsity), [leaf.size for leaf in leaves]
    )
    return [
      ranking.keep_top_in(
        ranking.canonical(score), count, np.ones(score.shape, bool)
      )
      for score, count in zip(scores, counts, strict=True)
    ]

  return choose


class Supermask:
  """Scores learn at every step, weights never: masks follow the scores.

  Equations 5 to 7: the highest scores of each layer, which start at |w|.
  """

  def __init__(self, leaves, sgd, *, sparsity, learning_rate, momentum=0.9):
    self.leaves, self.sgd, self.sparsity = leaves, sgd, sparsity
    self.learning_rate = np.float32(learning_rate)
    self.momentum, self.t = np.float32(momentum), 0
    sparse = network.sparse_leaves(leaves)
    self.scores = {leaf.name: np.abs(leaf.weights) for leaf in sparse}
    self.buffers = {leaf.name: np.zeros_like(leaf.weights) for leaf in sparse}
    self.update_masks()

  def update_masks(self):
    sparse = network.sparse_leaves(self.leaves)
    choose = inside_layers(distributions.uniform_densities)
    scores = [self.scores[leaf.name] for leaf in sparse]
    masks = choose(sparse, scores, self.sparsity)
    for leaf, mask in zip(sparse, masks, strict=True):
      leaf.mask = mask

  def step(self, gradients):
    for leaf, gradient in zip(self.leaves, gradients, strict=True):
      weights = leaf.weights
      if leaf.mask is not None:
        product = gradient * weights
        product = np.where(np.isfinite(product), product, np.float32(0))
        buffer = self.momentum * self.buffers[leaf.name] + product
        self.buffers[leaf.name] = buffer
        self.scores[leaf.name] = (
          self.scores[leaf.name] - self.learning_rate * buffer
        )
      self.sgd.move(leaf, gradient)
      if leaf.mask is not None:
        leaf.weights = weights
    self.t += 1
    if network.all_finite(gradients):
      self.update_masks()


class OptG:
  """Scores learn at every step; masks follow them once per epoch.

  Masks are updated from the scores before the first step of an epoch; the first
  epoch is dense. The last update uses the target sparsity, since the curve ends
  below it. Inactive weights get no gradient, only momentum and decay; scores
  get gradients everywhere, times the stored weight.

  Args:
    leaves: the network, dense.
    sgd: the optimizer of the weights.
    sparsity: the target.
    alpha: steepness of the curve, per epoch.
    epochs: the length of training.
    steps_per_epoch: steps between mask updates.
    learning_rate: completed steps -> learning rate of the scores at the end of
      the curve.
    momentum: momentum of the scores; they have no weight decay.
    choose: (leaves, scores, sparsity) -> masks.
    reach_target: whether the last update uses the target sparsity.
  """

  def __init__(
    self,
    leaves,
    sgd,
    *,
    sparsity,
    epochs,
    steps_per_epoch,
    learning_rate,
    alpha=0.5,
    momentum=0.9,
    choose=over_all_layers,
    reach_target=True,
  ):
    self.leaves, self.sgd, self.choose = leaves, sgd, choose
    self.sparsity, self.alpha, self.epochs = sparsity, alpha, epochs
    self.steps_per_epoch, self.learning_rate = steps_per_epoch, learning_rate
    self.momentum, self.reach_target = np.float32(momentum), reach_target
    self.t, self.pending, self.updated_at = 0, False, -1
    sparse = network.sparse_leaves(leaves)
    self.scores = {leaf.name: np.zeros_like(leaf.weights) for leaf in sparse}
    self.buffers = {leaf.name: np.zeros_like(leaf.weights) for leaf in sparse}

  def requested_sparsity(self, k):
    if self.reach_target and k >= self.epochs - 1:
      return self.sparsity
    return self.sparsity * sigmoid_of_epoch(k, self.alpha, self.epochs)

  def update_masks(self):
    sparse = network.sparse_leaves(self.leaves)
    masks = self.choose(
      sparse,
      [self.scores[leaf.name] for leaf in sparse],
      self.requested_sparsity(self.t // self.steps_per_epoch),
    )
    for leaf, mask in zip(sparse, masks, strict=True):
      leaf.mask = mask

  def learn_scores(self, leaf, gradient):
    """m - eta buf, with buf the momentum of G w."""
    k = self.t // self.steps_per_epoch
    learning_rate = self.learning_rate(self.t)
    learning_rate *= sigmoid_of_epoch(k, self.alpha, self.epochs)
    buffer = self.momentum * self.buffers[leaf.name] + gradient * leaf.weights
    self.buffers[leaf.name] = buffer
    self.scores[leaf.name] = self.scores[leaf.name] - (
      np.float32(learning_rate) * buffer
    )

  def starts_epoch(self):
    return self.t > 0 and self.t % self.steps_per_epoch == 0

  def between_steps(self):
    """Algorithm 1, line 4: before the gradient of the epoch's first step."""
    if self.starts_epoch():
      self.update_masks()
      self.updated_at = self.t

  def step(self, gradients):
    self.pending |= self.starts_epoch() and self.updated_at < self.t
    if self.pending and network.all_finite(gradients):
      self.update_masks()
      self.pending = False
    for leaf, gradient in zip(self.leaves, gradients, strict=True):
      if leaf.mask is not None:
        self.learn_scores(leaf, gradient)
      self.sgd.step(leaf, gradient)
    self.t += 1
