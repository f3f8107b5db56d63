"""Patterns: rules for which weights of a leaf stay, in place of a count."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from sparsejax.components import ranking
from sparsejax.method import Accumulator, Leaf, Pattern, Scores


@functools.cache
def n_of_m(n: int, m: int) -> Pattern:
  """Keeps the n highest of every m weights along the inputs.

  A block is m consecutive weights along the last axis but one, the contraction
  axis of kernels (in, out) and (height, width, in, out). Among equal scores the
  lower index stays. A leaf whose number of inputs is not a multiple of m stays
  dense.

  Raises:
    ValueError: if n is not in [1, m).

  References:
    Zhou et al., `Learning N:M fine-grained structured sparse neural networks
    from scratch <https://arxiv.org/abs/2102.04010>`_, 2021.
  """
  if not 1 <= n < m:
    raise ValueError(f"`n` must be in [1, m), got n={n}, m={m}.")

  def keep(scores: Scores, leaf: Leaf) -> Bool[Array, "*dims"]:
    del leaf  # The scores decide.
    shape = scores.shape
    if shape[-2] % m:
      return jnp.ones(shape, bool)
    ranks = ranking.ranks(scores)
    blocks = ranks.reshape(*shape[:-2], shape[-2] // m, m, shape[-1])
    higher = jnp.zeros(blocks.shape, jnp.int32)
    place = jnp.arange(m)[:, None]
    for i in range(m):
      other = blocks[..., i : i + 1, :]
      higher += (other > blocks) | ((other == blocks) & (i < place))
    return (higher < n).reshape(shape)

  return Pattern(keep, first=keep)


@functools.cache
def above_threshold(threshold: Accumulator) -> Pattern:
  """Keeps the weights whose score exceeds `sigmoid(s)`; at first all but zeros.

  `threshold` holds s, which broadcasts over the leaf.

  References:
    Kusupati et al., `Soft threshold weight reparameterization
    <https://arxiv.org/abs/2002.03231>`_, 2020, equation 4.
  """
  return Pattern(
    lambda scores, leaf: scores > jax.nn.sigmoid(threshold.of(leaf)),
    first=lambda scores, leaf: scores > 0,
    reads=(threshold,),
    sets_counts=True,
  )
