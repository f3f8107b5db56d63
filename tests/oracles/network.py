"""A network as a list of leaves, and plain momentum SGD on it."""

import dataclasses

import numpy as np

from oracles import distributions, ranking

NEVER_SPARSE = ["bias", "scale", "b", "offset", "embedding", "embeddings"]


@dataclasses.dataclass
class Leaf:
  """One array with its momentum and, where it is sparse, its mask."""

  name: str
  index: int  # Among all leaves, in tree order.
  weights: np.ndarray
  momentum: np.ndarray
  mask: np.ndarray | None

  @property
  def size(self):
    return self.weights.size

  @property
  def active(self):
    return int(self.mask.sum())

  @property
  def held(self):
    """What the user holds: zeros where the mask is off."""
    if self.mask is None:
      return self.weights
    return np.where(self.mask, self.weights, np.float32(0))

  def restart(self, where):
    """Sets weights and momentum to zero at the given positions."""
    self.weights = np.where(where, np.float32(0), self.weights)
    self.momentum = np.where(where, np.float32(0), self.momentum)


def is_sparse(name, shape):
  """At least two dimensions larger than 1, and no bias, scale or embedding."""
  return (
    sum(size > 1 for size in shape) >= 2
    and name.split("/")[-1] not in NEVER_SPARSE
  )


def make_leaves(named_weights):
  """Leaves in the order given, dense, with zero momentum."""
  return [
    Leaf(
      name=name,
      index=index,
      weights=weights.copy(),
      momentum=np.zeros_like(weights),
      mask=np.ones(weights.shape, bool)
      if is_sparse(name, weights.shape)
      else None,
    )
    for index, (name, weights) in enumerate(named_weights.items())
  ]


def sparse_leaves(leaves):
  return [leaf for leaf in leaves if leaf.mask is not None]


def draw_first_masks(leaves, densities, key):
  """Exact random masks: the highest draws of each layer stay."""
  counts = distributions.budgets(densities, [leaf.size for leaf in leaves])
  for leaf, count in zip(leaves, counts, strict=True):
    bits = ranking.random_bits(
      key, 0, leaf.index, ranking.FIRST_MASKS, leaf.weights.shape
    )
    leaf.mask = ranking.keep_top_in(bits, count, np.ones(bits.shape, bool))


@dataclasses.dataclass(frozen=True)
class MomentumSGD:
  """Nesterov momentum with coupled weight decay, as PyTorch's SGD.

  Operations are in float32 and in the order in which optax chains
  add_decayed_weights, trace and scale, so that an un-jitted optax agrees in
  the last bit.
  """

  learning_rate: float = 0.1
  momentum: float = 0.9
  weight_decay: float = 1e-3

  def step(self, leaf, gradient):
    """Moves one leaf; where the mask is off there is no task gradient."""
    decay = np.float32(self.weight_decay)
    mu = np.float32(self.momentum)
    if leaf.mask is not None:
      gradient = np.where(leaf.mask, gradient, np.float32(0))
    gradient = gradient + decay * leaf.weights
    leaf.momentum = gradient + mu * leaf.momentum
    direction = gradient + mu * leaf.momentum
    leaf.weights = leaf.weights + np.float32(-self.learning_rate) * direction


def all_finite(gradients):
  return all(np.isfinite(gradient).all() for gradient in gradients)
