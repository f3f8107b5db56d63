"""Deep Rewiring (Bellec et al., 2018): a random walk over sparse networks.

Every weight has a constant sign. In every step, weights that would change it
are pruned, and as many are regrown at random, at zero.
"""

import jax
import numpy as np

from oracles import growth, training
from oracles.network import sparse_leaves

NOISE = 3  # The purpose of the noise's random bits.


class NoisyStepThenRewire(training.StepThenUpdate):
  """Steps by gradient, L1 penalty and noise, then rewires.

  The gradient of an active weight is (G + alpha sign) - sigma N(0, 1), so the
  optimizer scales all three terms. The noise is keyed by the steps completed
  before the call.

  Args:
    leaves: the network with its initial masks and still dense weights: signs
      are those of the initial weights, also of inactive ones; 0 counts as +.
    sgd: the optimizer.
    alpha: strength of the L1 penalty.
    sigma: standard deviation of the noise.
    key: PRNG key of bits and noise.
  """

  def __init__(self, leaves, sgd, *, alpha, sigma, key):
    self.alpha, self.sigma = np.float32(alpha), np.float32(sigma)
    self.key = key
    self.signs = {
      leaf.index: np.where(leaf.weights < 0, np.float32(-1), np.float32(1))
      for leaf in sparse_leaves(leaves)
    }
    super().__init__(leaves, sgd, [(lambda t: True, self.rewire)])

  def step(self, gradients):
    super().step(
      [
        gradient if leaf.mask is None else self.noisy(leaf, gradient)
        for leaf, gradient in zip(self.leaves, gradients, strict=True)
      ]
    )

  def noisy(self, leaf, gradient):
    noise = self.sigma * standard_normal(
      self.key, self.t, leaf.index, gradient.shape
    )
    return (gradient + self.alpha * self.signs[leaf.index]) - noise

  def rewire(self, leaves, gradients, t):
    """Regrows as many as were pruned, per layer; those may return at 0."""
    del gradients
    grow = growth.at_random(self.key)
    for leaf in sparse_leaves(leaves):
      pruned = leaf.mask & (leaf.weights * self.signs[leaf.index] < 0)
      kept = leaf.mask & ~pruned
      leaf.reset(~kept)
      leaf.mask = kept | grow(leaf, int(pruned.sum()), ~kept, t)


def standard_normal(key, step, leaf_index, shape):
  for number in (step, leaf_index, NOISE):
    key = jax.random.fold_in(key, number)
  return np.asarray(jax.random.normal(key, shape, np.float32))
