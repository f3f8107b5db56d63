"""A network as a list of leaves, and two optimizers for it."""

import dataclasses

import numpy as np

from oracles import distributions, ranking

NEVER_SPARSE = ["bias", "scale", "b", "offset", "embedding", "embeddings"]


@dataclasses.dataclass
class Leaf:
  """One parameter array, its mask if it is sparse, and its optimizer state."""

  name: str
  index: int  # Among all leaves, in tree order.
  weights: np.ndarray
  mask: np.ndarray | None
  inner_state: dict = dataclasses.field(default_factory=dict)
  steps: int = 0  # Taken by the optimizer.

  @property
  def size(self):
    return self.weights.size

  @property
  def active(self):
    return int(self.mask.sum())

  @property
  def sparse_weights(self):
    """The user's parameters: zero where the mask is false."""
    if self.mask is None:
      return self.weights
    return np.where(self.mask, self.weights, np.float32(0))

  def inner_value(self, name):
    """An entry of the optimizer state; zeros before the first step."""
    return self.inner_state.get(name, np.zeros_like(self.weights))

  def masked(self, gradient):
    """The masked gradient."""
    if self.mask is None:
      return gradient
    return np.where(self.mask, gradient, np.float32(0))

  def zero(self, where):
    """Sets weights to zero at the given positions, and keeps their state."""
    self.weights = np.where(where, np.float32(0), self.weights)

  def reset(self, where):
    """Sets weights and their optimizer state to zero at the given positions."""
    self.weights = np.where(where, np.float32(0), self.weights)
    for name, values in self.inner_state.items():
      self.inner_state[name] = np.where(where, np.float32(0), values)


def is_sparse(name, shape):
  """At least two dimensions above 1, and not a bias, scale or embedding."""
  return (
    sum(size > 1 for size in shape) >= 2
    and name.split("/")[-1] not in NEVER_SPARSE
  )


def make_leaves(named_weights):
  """Dense leaves in the given order, before the first step."""
  return [
    Leaf(
      name=name,
      index=index,
      weights=weights.copy(),
      mask=np.ones(weights.shape, bool)
      if is_sparse(name, weights.shape)
      else None,
    )
    for index, (name, weights) in enumerate(named_weights.items())
  ]


def sparse_leaves(leaves):
  return [leaf for leaf in leaves if leaf.mask is not None]


def sample_initial_masks(leaves, densities, key):
  """Random masks with exact counts: the highest bits of each layer."""
  counts = distributions.budgets(densities, [leaf.size for leaf in leaves])
  for leaf, count in zip(leaves, counts, strict=True):
    bits = ranking.random_bits(
      key, 0, leaf.index, ranking.FIRST_MASKS, leaf.weights.shape
    )
    leaf.mask = ranking.keep_top_in(bits, count, np.ones(bits.shape, bool))


@dataclasses.dataclass(frozen=True)
class MomentumSGD:
  """Momentum with coupled weight decay, like PyTorch's SGD.

  Operations are float32 and in the order of optax's add_decayed_weights, trace
  and scale, so un-jitted optax agrees in the last bit.
  """

  learning_rate: float = 0.1
  momentum: float = 0.9
  weight_decay: float = 1e-3
  nesterov: bool = True

  names = ("trace",)

  def step(self, leaf, gradient):
    """Steps one leaf with the masked gradient."""
    self.move(leaf, leaf.masked(gradient))

  def move(self, leaf, gradient):
    """Steps one leaf with the gradient as it is."""
    decay = np.float32(self.weight_decay)
    mu = np.float32(self.momentum)
    gradient = gradient + decay * leaf.weights
    trace = gradient + mu * leaf.inner_value("trace")
    direction = gradient + mu * trace if self.nesterov else trace
    leaf.weights = leaf.weights + np.float32(-self.learning_rate) * direction
    leaf.inner_state["trace"] = trace
    leaf.steps += 1


@dataclasses.dataclass(frozen=True)
class AdamW:
  """Adam with decoupled weight decay (Loshchilov & Hutter, 2019), like optax's.

  Decay does not enter the moments. Bias correction counts all steps, whether or
  not a weight was active.
  """

  learning_rate: float = 0.01
  b1: float = 0.9
  b2: float = 0.999
  epsilon: float = 1e-8
  weight_decay: float = 0.1

  names = ("mu", "nu")

  def step(self, leaf, gradient):
    """Steps one leaf with the masked gradient."""
    self.move(leaf, leaf.masked(gradient))

  def move(self, leaf, gradient):
    """Steps one leaf with the gradient as it is."""
    one, b1, b2 = np.float32([1, self.b1, self.b2])
    leaf.steps += 1
    mu = np.float32(1 - self.b1) * gradient + b1 * leaf.inner_value("mu")
    nu = np.float32(1 - self.b2) * gradient**2 + b2 * leaf.inner_value("nu")
    mean = mu / (one - b1 ** np.float32(leaf.steps))
    variance = nu / (one - b2 ** np.float32(leaf.steps))
    direction = mean / (np.sqrt(variance) + np.float32(self.epsilon))
    direction = direction + np.float32(self.weight_decay) * leaf.weights
    leaf.weights = leaf.weights + np.float32(-self.learning_rate) * direction
    leaf.inner_state = {"mu": mu, "nu": nu}


def all_finite(gradients):
  return all(np.isfinite(gradient).all() for gradient in gradients)
