"""STR: a learned soft threshold per layer (Kusupati et al., 2020)."""

import math

import numpy as np

from oracles import network


def sigmoid(x):
  """In float64, without overflow for large |x|."""
  x = float(x)
  if x >= 0:
    return 1.0 / (1.0 + math.exp(-x))
  return math.exp(x) / (1.0 + math.exp(x))


def softened(weights, threshold):
  """sign(w) relu(|w| - sigmoid(s))."""
  margin = np.float32(sigmoid(threshold))
  zero = np.float32(0)
  return np.sign(weights) * np.maximum(np.abs(weights) - margin, zero)


def slopes(weights, threshold, gradient):
  """Gradients of weights and threshold by the chain rule."""
  margin = sigmoid(threshold)
  on = np.abs(weights) > np.float32(margin)
  through = np.where(on, gradient, np.float32(0))
  pull = np.sum(np.sign(weights) * through, dtype=np.float64)
  return through, np.float32(-margin * (1.0 - margin) * pull)


class SoftThreshold:
  """Steps weights and thresholds together; masks follow from both.

  The given weights are the initial sparse weights, so the threshold is added to
  nonzero ones. Zeros stay zero.

  Args:
    leaves: the network.
    sgd: the optimizer of the weights.
    threshold: initial s of every layer.
    threshold_sgd: the optimizer of the thresholds.
  """

  def __init__(self, leaves, sgd, *, threshold, threshold_sgd):
    self.leaves, self.sgd, self.threshold_sgd = leaves, sgd, threshold_sgd
    self.t = 0
    self.thresholds = {
      leaf.name: network.Leaf(
        leaf.name, leaf.index, np.array(threshold, np.float32), None
      )
      for leaf in network.sparse_leaves(leaves)
    }
    margin = np.float32(sigmoid(threshold))
    for leaf in network.sparse_leaves(leaves):
      given = leaf.weights
      leaf.weights = np.sign(given) * (np.abs(given) + margin)
      leaf.weights = np.where(given == 0, np.float32(0), leaf.weights)
    self.update_masks()

  def update_masks(self):
    for leaf in network.sparse_leaves(self.leaves):
      margin = np.float32(sigmoid(self.thresholds[leaf.name].weights))
      leaf.mask = np.abs(leaf.weights) > margin

  def sparse_weights(self, leaf):
    if leaf.mask is None:
      return leaf.weights
    return softened(leaf.weights, self.thresholds[leaf.name].weights)

  def step(self, gradients):
    for leaf, gradient in zip(self.leaves, gradients, strict=True):
      if leaf.mask is not None:
        threshold = self.thresholds[leaf.name]
        gradient, slope = slopes(leaf.weights, threshold.weights, gradient)
        self.threshold_sgd.move(threshold, slope)
      self.sgd.move(leaf, gradient)
    self.t += 1
    self.update_masks()
