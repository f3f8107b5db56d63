"""Calibration in plain loops of numpy, from the papers alone."""

import numpy as np


def forward(x, first, blocks, last):
  """Returns the inputs of each matrix of a network of tanh layers."""
  inputs = {"first": x}
  x = np.tanh(x @ first)
  inputs["blocks"] = []
  for matrix in blocks:
    inputs["blocks"].append(x)
    x = np.tanh(x @ matrix)
  inputs["last"] = x
  return inputs


def patches(images, kernel, strides, padding, dilation, groups):
  """Returns the patches of a convolution, [groups, positions, h w c]."""
  height, width, channels, _ = kernel
  (top, bottom), (left, right) = padding
  images = np.pad(images, ((0, 0), (top, bottom), (left, right), (0, 0)))
  reach = [
    (size - 1) * d + 1 for size, d in zip(kernel[:2], dilation, strict=True)
  ]
  found = [[] for _ in range(groups)]
  for image in images:
    for y in range(0, image.shape[0] - reach[0] + 1, strides[0]):
      for x in range(0, image.shape[1] - reach[1] + 1, strides[1]):
        window = image[
          y : y + reach[0] : dilation[0], x : x + reach[1] : dilation[1]
        ]
        for group in range(groups):
          part = window[..., group * channels : (group + 1) * channels]
          found[group].append(part.ravel())
  return np.asarray(found)


def lowest(scores, count):
  """Returns which `count` scores are lowest, ties at the higher index first."""
  order = np.argsort(-scores.ravel(), kind="stable")
  pruned = np.zeros(scores.size, bool)
  pruned[order[scores.size - count :]] = True
  return pruned.reshape(scores.shape)


def sparsegpt(
  weights, inputs, pruned_by_block, *, block, dampening, n_of_m=None
):
  """Algorithm 1 of Frantar & Alistarh (2023), for the rows of `W X`.

  Args:
    weights: float64[rows, columns], outputs and inputs.
    inputs: float64[T, columns].
    pruned_by_block: how many weights of each block of columns are pruned.
    block: columns of a block.
    dampening: share of the mean of the diagonal.
    n_of_m: (n, m): n of every m columns of a row stay, in place of the counts.

  Returns:
    The weights, and which of them were pruned.
  """
  weights = weights.copy()
  rows, columns = weights.shape
  hessian = inputs.T @ inputs
  hessian += dampening * np.mean(np.diag(hessian)) * np.eye(columns)
  # Cholesky of the inverse, as an upper triangular matrix: H^-1 = U^T U.
  factor = np.linalg.cholesky(np.linalg.inv(hessian)).T
  mask = np.zeros((rows, columns), bool)
  for number, begin in enumerate(range(0, columns, block)):
    end = min(begin + block, columns)
    errors = np.zeros((rows, end - begin))
    if n_of_m is None:
      scores = weights[:, begin:end] ** 2 / np.diag(factor)[begin:end] ** 2
      # Ties by the input, then by the output.
      mask[:, begin:end] = lowest(scores.T, pruned_by_block[number]).T
    for column in range(begin, end):
      if n_of_m and (column - begin) % n_of_m[1] == 0:
        group = slice(column, column + n_of_m[1])
        scores = weights[:, group] ** 2 / np.diag(factor)[group] ** 2
        for row in range(rows):
          mask[row, group] = lowest(scores[row], n_of_m[1] - n_of_m[0])
      kept = np.where(mask[:, column], 0.0, weights[:, column])
      error = (weights[:, column] - kept) / factor[column, column]
      errors[:, column - begin] = error
      weights[:, column:end] -= np.outer(error, factor[column, column:end])
      weights[:, column] = kept
    weights[:, end:] -= errors @ factor[begin:end, end:]
  return weights, mask
