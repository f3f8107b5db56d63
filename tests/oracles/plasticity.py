"""One-shot pruning by a rate, with and without regrowth (GraNet, section 3).

Also gradual pruning by other criteria than magnitude, as its section 3.3
compares. A score is a function (leaf, gradient) -> float32 array.
"""

import numpy as np

from oracles import prune_and_regrow, ranking
from oracles.network import sparse_leaves


def by_magnitude(leaf, gradient):
  del gradient
  return ranking.magnitude(leaf.weights)


def by_snip(leaf, gradient):
  return ranking.magnitude(leaf.weights * gradient)


def by_taylor(leaf, gradient):
  return ranking.magnitude((leaf.weights * gradient) ** 2)


def prune_jointly(leaves, gradients, rate, score):
  """Keeps `floor(A (1 - p))` of A active weights in all layers."""
  active = sum(leaf.active for leaf in leaves)
  masks = ranking.keep_top_over(
    [score(leaf, gradients[leaf.index]) for leaf in leaves],
    ranking.floor_tol(active * (1.0 - rate)),
    [leaf.mask for leaf in leaves],
  )
  for leaf, mask in zip(leaves, masks, strict=True):
    leaf.mask = mask


def prune_in_layers(leaves, gradients, rate, score):
  """Removes `ceil(p a)` of the a active weights of each layer."""
  for leaf in leaves:
    keep = leaf.active - ranking.ceil_tol(rate * leaf.active)
    found = score(leaf, gradients[leaf.index])
    leaf.mask = ranking.keep_top_in(found, keep, leaf.mask)


def prune_once(
  leaves, gradients, t, rate, *, prune, score, regrows=False, key=None
):
  """Prunes, zeroes what was pruned, then regrows as many in each layer."""
  leaves = sparse_leaves(leaves)
  before = [leaf.active for leaf in leaves]
  prune(leaves, gradients, rate, score)
  for leaf, active in zip(leaves, before, strict=True):
    leaf.reset(~leaf.mask)
    if regrows:
      bits = prune_and_regrow.regrow_bits(leaf, key, t)
      leaf.mask = leaf.mask | ranking.grow_by_gradient(
        gradients[leaf.index], active - leaf.active, ~leaf.mask, bits
      )


def one_shot(rate, *, at_step, **options):
  """One update at one step."""

  def update(leaves, gradients, t):
    prune_once(leaves, gradients, t, rate, **options)

  return [(lambda t: t == at_step, update)]


def gmp(gradual, score):
  """Gradual pruning of the whole network by a score."""

  def update(leaves, gradients, t):
    leaves = sparse_leaves(leaves)
    size = sum(leaf.size for leaf in leaves)
    masks = ranking.keep_top_over(
      [score(leaf, gradients[leaf.index]) for leaf in leaves],
      ranking.floor_tol(size * (1.0 - gradual.sparsity(t))),
      [leaf.mask for leaf in leaves],
    )
    for leaf, mask in zip(leaves, masks, strict=True):
      leaf.mask = mask

  return [(gradual.prunes_at, update)]


def filter_sums(values):
  """The sum of |x| over each output filter, on the last axis."""
  return np.abs(values).reshape(-1, values.shape[-1]).sum(axis=0)


def prune_filters(leaf, gradient, rate, *, regrows):
  """Prunes `floor(p |U|)` of the active filters U of a layer by L1 norm.

  Regrows as many of the inactive ones by the sum of |gradient|, at zero.
  """
  active = leaf.mask.reshape(-1, leaf.mask.shape[-1]).any(axis=0)
  count = ranking.floor_tol(rate * int(active.sum()))
  norms = filter_sums(leaf.weights).astype(np.float32)
  left = ranking.keep_top([norms], int(active.sum()) - count, active)
  leaf.reset(~np.broadcast_to(left, leaf.mask.shape))
  if regrows:
    sums = filter_sums(gradient).astype(np.float32)
    left = left | ranking.keep_top([sums], count, ~left)
  leaf.mask = np.broadcast_to(left, leaf.mask.shape).copy()
