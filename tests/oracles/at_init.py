"""Pruning at initialization by finite differences, without derivatives.

Everything is float64. A slope is a central difference of the loss, a curvature
a difference of slopes. The network is an MLP with tanh, or ReLU for SynFlow.
"""

import numpy as np

from oracles import ranking

STEP = 1e-4


def outputs(weights, inputs, activation):
  """Returns the logits of an MLP; `weights` are (kernel, bias) in order."""
  x = inputs
  for number, (kernel, bias) in enumerate(weights):
    x = x @ kernel + bias
    if number + 1 < len(weights):
      x = activation(x)
  return x


def cross_entropy(weights, inputs, labels, temperature=1.0):
  """Returns the mean cross-entropy of logits / temperature."""
  logits = outputs(weights, inputs, np.tanh) / temperature
  logits = logits - logits.max(-1, keepdims=True)
  log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  return -log_probs[np.arange(len(labels)), labels].mean()


def total_flow(weights, inputs):
  """Returns SynFlow's R: the sum of the outputs with absolute parameters."""
  positive = [(np.abs(kernel), np.abs(bias)) for kernel, bias in weights]
  return outputs(positive, inputs, lambda x: np.maximum(x, 0)).sum()


def slopes(loss, weights):
  """Returns the slope of the loss in every weight, for each kernel."""
  found = []
  for layer, (kernel, _) in enumerate(weights):
    slope = np.zeros(kernel.shape)
    for place in np.ndindex(kernel.shape):
      slope[place] = difference(
        lambda h, layer=layer, place=place: loss(
          moved(weights, layer, place, h)
        )
      )
    found.append(slope)
  return found


def difference(f, step=STEP):
  """Returns the slope at 0, with fourth-order error in the step."""
  near, far = f(step) - f(-step), f(2 * step) - f(-2 * step)
  return (8 * near - far) / (12 * step)


def moved(weights, layer, place, by):
  """Returns the weights with one of them shifted."""
  kernel, bias = weights[layer]
  kernel = kernel.copy()
  kernel[place] += by
  return [*weights[:layer], (kernel, bias), *weights[layer + 1 :]]


def snip(loss, weights):
  """Scores |dL / dc| at c = 1, where every weight is c * w."""
  return [
    np.abs(kernel * slope)
    for (kernel, _), slope in zip(weights, slopes(loss, weights), strict=True)
  ]


def grasp(loss, weights):
  """Scores by the slope in c of half the squared gradient norm.

  The norm is over the kernels, which alone are pruned. Pruning a weight
  decreases the norm by its score, so the smallest scores are pruned first.
  """
  step = 1e-2

  def half_squared_norm(at):
    return sum((slope**2).sum() for slope in slopes(loss, at)) / 2

  found = []
  for layer, (kernel, _) in enumerate(weights):
    score = np.zeros(kernel.shape)
    for place in np.ndindex(kernel.shape):
      score[place] = kernel[place] * difference(
        lambda h, layer=layer, place=place: half_squared_norm(
          moved(weights, layer, place, h)
        ),
        step,
      )
    found.append(score)
  return found


def synflow(weights, inputs):
  """Scores dR / dc at c = 1, where every weight is c * |w|."""
  positive = [(np.abs(kernel), np.abs(bias)) for kernel, bias in weights]
  slope = slopes(lambda at: outputs_sum(at, inputs), positive)
  return [kernel * s for (kernel, _), s in zip(positive, slope, strict=True)]


def outputs_sum(weights, inputs):
  return outputs(weights, inputs, lambda x: np.maximum(x, 0)).sum()


def prune(score, weights, sparsity, rounds=1):
  """Returns masks after rounds of global pruning to density (1 - s)^(i / n).

  Args:
    score: weights -> scores of the kernels; higher is better.
    weights: (kernel, bias) of each layer.
    sparsity: fraction of zeros at the end.
    rounds: n.
  """
  masks = [np.ones(kernel.shape, bool) for kernel, _ in weights]
  size = sum(mask.size for mask in masks)
  for i in range(1, rounds + 1):
    density = 1 - sparsity if i == rounds else (1 - sparsity) ** (i / rounds)
    pruned = [
      (np.where(mask, kernel, 0.0), bias)
      for mask, (kernel, bias) in zip(masks, weights, strict=True)
    ]
    masks = ranking.keep_top_over(
      score(pruned), ranking.floor_tol(size * density), masks
    )
  return masks
