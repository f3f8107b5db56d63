"""Criteria: how much each weight of a leaf is worth."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, UInt32

from sparsejax.components import accumulators
from sparsejax.method import Accumulator, Criterion, Input, Leaf, Scores

Plane = Literal["out", "hw", "flat"]

_ROUNDS = 8  # of growth next to active weights
_LEVEL_BITS = 4  # of a rank, for distance or count; the rest is random


magnitude = Criterion(
  lambda leaf: jnp.abs(leaf.weights.astype(jnp.float32)),
  reads=(Input.WEIGHTS,),
)
"""Scores a weight by `|w|`, in float32."""


def _gradient_magnitude(leaf: Leaf) -> Scores:
  assert leaf.gradient is not None  # There is one at every mask update.
  return jnp.abs(leaf.gradient.astype(jnp.float32))


gradient_magnitude = Criterion(_gradient_magnitude, reads=(Input.GRADIENT,))
"""Scores a position by `|dL/dw|` of the dense gradient, in float32."""


def _first_order(leaf: Leaf) -> Array:
  """Returns `w dL/dw`, in float32."""
  assert leaf.gradient is not None  # There is one at every mask update.
  weights, gradient = leaf.weights, leaf.gradient
  return weights.astype(jnp.float32) * gradient.astype(jnp.float32)


snip = Criterion(
  lambda leaf: jnp.abs(_first_order(leaf)),
  reads=(Input.WEIGHTS, Input.GRADIENT),
)
"""Scores a weight by `|w dL/dw|`, how much the loss depends on its presence.

References:
  Lee et al., `SNIP <https://arxiv.org/abs/1810.02340>`_, 2019, Equation 5.
"""

taylor = Criterion(
  lambda leaf: jnp.square(_first_order(leaf)),
  reads=(Input.WEIGHTS, Input.GRADIENT),
)
"""Scores a weight by `(w dL/dw)^2` (Taylor-FO).

The square of the change of the loss, to first order, when it is removed. With
one gradient it ranks as `snip` does, except that it underflows earlier: below
`|w dL/dw|` of 2^-63 all scores are 0.

References:
  Molchanov et al., `Importance estimation for neural network pruning
  <https://arxiv.org/abs/1906.10771>`_, 2019, Equation 8.
"""


def _gradient_flow(leaf: Leaf) -> Array:
  assert leaf.hessian_gradient is not None  # `sparsify` requires it.
  product = leaf.hessian_gradient.astype(jnp.float32)
  return leaf.weights.astype(jnp.float32) * product


gradient_flow = Criterion(
  _gradient_flow, reads=(Input.WEIGHTS, Input.HESSIAN_GRADIENT)
)
"""Scores a weight by `w (H g)`, to preserve the gradient flow (GraSP).

H is the Hessian of the loss and g the gradient of the active weights, both at
the weights before the step, as the gradient of other criteria is. It needs
`hvp=`, which the trainer gives; loops of your own pass it to `update`. The
product takes about as long as two gradients, in the steps that update masks;
FLOPs that the trainer reports do not count it.

References:
  Wang et al., `Picking winning tickets before training by preserving gradient
  flow <https://arxiv.org/abs/2002.07376>`_, 2020, Equation 8.
"""


@functools.cache
def accumulated(accumulator: Accumulator) -> Criterion:
  """Scores a position by the number accumulated there, in float32."""
  return Criterion(
    lambda leaf: accumulator.of(leaf).astype(jnp.float32), reads=(accumulator,)
  )


@functools.cache
def accumulated_magnitude(accumulator: Accumulator) -> Criterion:
  """Scores a position by the absolute value of the number accumulated there."""
  score = accumulated(accumulator)
  return Criterion(lambda leaf: jnp.abs(score(leaf)), reads=(accumulator,))


momentum = accumulated_magnitude(accumulators.momentum)
"""Scores a position by `|v|`, v the momentum of the dense gradient."""


def _optimizer_momentum(leaf: Leaf) -> Scores:
  assert leaf.momentum is not None  # `sparsify` requires it.
  return jnp.abs(leaf.momentum.astype(jnp.float32))


optimizer_momentum = Criterion(_optimizer_momentum, reads=(Input.MOMENTUM,))
"""Scores a position by the absolute momentum of the inner optimizer.

At inactive positions there is some only where the storage keeps it, as
`zeroed_with_momentum` does.
"""


def _random(leaf: Leaf) -> Scores:
  if leaf.key is None:
    raise ValueError(
      "`key` must be given to a method that draws at random, got None. Pass"
      " key=jax.random.key(0) to `sparsify`."
    )
  return jax.random.bits(leaf.key, leaf.weights.shape, jnp.uint32)


random = Criterion(_random, reads=(Input.KEY,))
"""Scores every position by 32 random bits."""


def _never_active_first(leaf: Leaf) -> Scores:
  never = ~accumulators.ever_active.of(leaf)
  return (never.astype(jnp.uint32) << 31) | (random(leaf) >> 1)


never_active_first = Criterion(
  _never_active_first, reads=(accumulators.ever_active, Input.KEY)
)
"""Ranks positions that were never active above all others, at random in each.

References:
  Liu et al., `Do we actually need dense over-parameterization?
  <https://arxiv.org/abs/2102.02887>`_, 2021, code (`random_unfired`).
"""


@functools.cache
def near_active(plane: Plane = "out") -> Criterion:
  """Ranks positions next to an active weight first, at random among them.

  Positions with an active neighbor among the 8 around them come first; then
  their neighbors, as if they were active, and so on for 8 rounds; all others
  come last. There is nothing beyond the edges. For planes see
  `active_neighbors`.

  References:
    Scholte, Regrowing strategies for dynamic sparse training, Twente 2022,
    regrowth by one activated neighbor.
  """
  checked = _plane(plane)

  def score(leaf: Leaf) -> Scores:
    level = jnp.zeros(leaf.mask.shape, jnp.uint32)
    reached = leaf.mask
    for round_ in range(_ROUNDS):
      wider = reached | (active_neighbors(reached, checked) > 0)
      first = wider & ~reached
      level = jnp.where(first, jnp.uint32(_ROUNDS - round_), level)
      reached = wider
    return _ranked(level, leaf)

  return Criterion(score, reads=(Input.MASK, Input.POSITION, Input.KEY))


@functools.cache
def most_active_neighbors(plane: Plane = "out") -> Criterion:
  """Ranks positions by how many of the 8 around are active, ties at random.

  As `near_active`, from the same thesis: regrowth by most activated neighbors.
  """
  checked = _plane(plane)

  def score(leaf: Leaf) -> Scores:
    count = active_neighbors(leaf.mask, checked)
    return _ranked(count.astype(jnp.uint32), leaf)

  return Criterion(score, reads=(Input.MASK, Input.POSITION, Input.KEY))


def active_neighbors(
  mask: Bool[Array, "*dims"], plane: Plane = "out"
) -> Int[Array, "*dims"]:
  """Counts the active ones of the 8 positions around each, in a plane.

  Args:
    mask: of one leaf, at least two dimensions, the output last.
    plane: "out" for the plane of inputs and outputs at each tap of a
      convolution, "hw" for that of its taps for each pair of input and output,
      "flat" for all inputs and taps as rows and the outputs as columns. A
      matrix is one plane in all of them.

  Returns:
    int32 in [0, 8]; nothing is active beyond the edges.

  Raises:
    ValueError: if the mask has fewer than two dimensions.
  """
  if mask.ndim < 2:
    raise ValueError(
      f"`mask` must have at least two dimensions, got shape {mask.shape}:"
      " neighbors are counted in a plane."
    )
  shape = mask.shape
  if plane == "flat":
    mask = mask.reshape(-1, shape[-1])
  axes = (0, 1) if plane == "hw" else (mask.ndim - 2, mask.ndim - 1)
  window = [3 if d in axes else 1 for d in range(mask.ndim)]
  around = lax.reduce_window(
    mask.astype(jnp.int32), 0, lax.add, window, [1] * mask.ndim, "SAME"
  )
  return (around - mask).reshape(shape)


def _ranked(level: UInt32[Array, "*dims"], leaf: Leaf) -> Scores:
  return (level << (32 - _LEVEL_BITS)) | (random(leaf) >> _LEVEL_BITS)


def _plane(plane: Plane) -> Plane:
  if plane not in ("out", "hw", "flat"):
    raise ValueError(f"`plane` must be 'out', 'hw' or 'flat', got {plane!r}.")
  return plane
