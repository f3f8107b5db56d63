"""Deep Rewiring (Bellec et al., 2018): a walk in the space of networks.

A weight has a sign for life. One that would change it leaves, and another is
switched on in its place, at random and at zero, in every step.
"""

import jax
import numpy as np

from oracles import growth, training
from oracles.network import sparse_leaves

NOISE = 3  # The purpose that the noise is drawn for.


class NoisyStepThenRewire(training.StepThenUpdate):
  """A step by the gradient, a pull to zero and noise; then the rewiring.

  What a sparse leaf is moved by is (G + alpha sign) - sigma N(0, 1) where its
  mask is on: the optimizer scales all three. The noise is drawn for the steps
  completed before the call; the masks are those of the step that it makes.

  Args:
    leaves: the network at its first masks, its weights still dense: signs are
      those of the first weights, also where the mask is off; 0 counts as +.
    sgd: the optimizer.
    alpha: strength of the pull.
    sigma: deviation of the noise.
    key: what bits and noise are drawn from.
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
        gradient if leaf.mask is None else self.disturbed(leaf, gradient)
        for leaf, gradient in zip(self.leaves, gradients, strict=True)
      ]
    )

  def disturbed(self, leaf, gradient):
    noise = self.sigma * standard_normal(
      self.key, self.t, leaf.index, gradient.shape
    )
    return (gradient + self.alpha * self.signs[leaf.index]) - noise

  def rewire(self, leaves, gradients, t):
    """Per layer, as many grow as have left; the just lost may return at 0."""
    del gradients
    grow = growth.at_random(self.key)
    for leaf in sparse_leaves(leaves):
      left = leaf.mask & (leaf.weights * self.signs[leaf.index] < 0)
      kept = leaf.mask & ~left
      leaf.reset(~kept)
      leaf.mask = kept | grow(leaf, int(left.sum()), ~kept, t)


def standard_normal(key, step, leaf_index, shape):
  for number in (step, leaf_index, NOISE):
    key = jax.random.fold_in(key, number)
  return np.asarray(jax.random.normal(key, shape, np.float32))
