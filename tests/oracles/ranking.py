"""Counts and rankings: exact counts, ties to the lower index."""

import math

import jax
import numpy as np

FIRST_MASKS, PRUNE, REGROW = 0, 1, 2
SMALLEST_NORMAL = np.float32(2.0**-126)


def floor_tol(x):
  return math.floor(x + 1e-6)


def ceil_tol(x):
  return math.ceil(x - 1e-6)


def canonical(scores):
  """Scores for ranking: NaN last, no -0, no subnormals."""
  scores = np.array(scores, np.float32)
  scores[np.isnan(scores)] = -np.inf
  scores[np.abs(scores) < SMALLEST_NORMAL] = 0.0  # Also turns -0 into +0.
  return scores


def magnitude(weights):
  return canonical(np.abs(weights))


def keep_top(columns, k, valid):
  """Returns the mask of the k best valid entries of flat arrays.

  Args:
    columns: list of flat arrays; the first decides, later ones break ties, then
      the lower index. Higher is better.
    k: number of entries to keep; all valid ones if there are fewer.
    valid: flat bool array.
  """
  candidates = [int(j) for j in np.flatnonzero(valid)]
  rows = {j: tuple(column[j].item() for column in columns) for j in candidates}
  # Python's sort is stable, also reversed, so ties stay ordered by index.
  best_first = sorted(candidates, key=rows.__getitem__, reverse=True)
  mask = np.zeros(valid.shape, bool)
  mask[best_first[:k]] = True
  return mask


def keep_top_in(scores, k, valid):
  """`keep_top` within one leaf of any shape, by one score."""
  mask = keep_top([scores.ravel()], k, valid.ravel())
  return mask.reshape(valid.shape)


def keep_top_over(scores, k, valid):
  """`keep_top` over several leaves at once; ties to the lower leaf."""
  flat_scores = np.concatenate([score.ravel() for score in scores])
  flat_valid = np.concatenate([v.ravel() for v in valid])
  flat_mask = keep_top([flat_scores], k, flat_valid)
  masks, start = [], 0
  for v in valid:
    masks.append(flat_mask[start : start + v.size].reshape(v.shape))
    start += v.size
  return masks


def random_bits(key, step, leaf_index, purpose, shape):
  """The uint32 bits of a step, leaf and purpose."""
  for number in (step, leaf_index, purpose):
    key = jax.random.fold_in(key, number)
  return np.asarray(jax.random.bits(key, shape, np.uint32))


def grow_by_gradient(gradient, k, valid, bits):
  """Grows the k largest |gradient|; zeros come last, at random.

  Among scores of exactly 0 the upper 23 random bits decide, then the lower
  index.
  """
  scores = magnitude(gradient).ravel()
  tie_break = np.where(scores == 0.0, bits.ravel(), 0)
  mask = keep_top([scores, tie_break], k, valid.ravel())
  return mask.reshape(valid.shape)


def grow_at_random(k, valid, bits):
  return keep_top_in(bits, k, valid)


def largest_remainder(shares, limits, total):
  """Rounds real `shares` to integers that sum to `total`, none above its limit.

  Every share is rounded down; the remaining units go to the largest remainders,
  ties to the lower layer. Remainders are compared to 6 digits, like all counts.
  """
  total = min(total, sum(limits))
  counts = [
    min(floor_tol(share), limit)
    for share, limit in zip(shares, limits, strict=True)
  ]
  remainders = [round(share - floor_tol(share), 6) for share in shares]
  order = sorted(range(len(shares)), key=lambda layer: -remainders[layer])
  while sum(counts) < total:
    for layer in order:
      if sum(counts) < total and counts[layer] < limits[layer]:
        counts[layer] += 1
  return counts
