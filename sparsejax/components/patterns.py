"""Patterns: rules of their own for which weights of a leaf stay."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from sparsejax.method import Pattern, Scores, Seen
from sparsejax.selection import search


@functools.cache
def n_of_m(n: int, m: int) -> Pattern:
  """Keeps the n highest of every m weights along the inputs.

  A group is m consecutive weights along the last axis but one, the reduction
  axis of kernels (in, out) and (height, width, in, out). Among equal scores the
  lower index stays. A leaf whose inputs are no multiple of m stays dense.

  Args:
    n: weights that stay, at least 1.
    m: weights in a group, above n.

  References:
    Zhou et al., `Learning N:M fine-grained structured sparse neural networks
    from scratch <https://arxiv.org/abs/2102.04010>`_, 2021.
  """
  if not 1 <= n < m:
    raise ValueError(f"`n` must be in [1, m), got n={n}, m={m}.")

  def keep(scores: Scores, seen: Seen) -> Bool[Array, "*dims"]:
    del seen  # The scores decide.
    shape = scores.shape
    if shape[-2] % m:
      return jnp.ones(shape, bool)
    ranks = search.ranks(scores)
    groups = ranks.reshape(*shape[:-2], shape[-2] // m, m, shape[-1])
    ahead = jnp.zeros(groups.shape, jnp.int32)
    place = jnp.arange(m)[:, None]
    for i in range(m):
      other = groups[..., i : i + 1, :]
      ahead += (other > groups) | ((other == groups) & (i < place))
    return (ahead < n).reshape(shape)

  return keep


def nonzero(scores: Scores, seen: Seen) -> Bool[Array, "*dims"]:
  """Keeps the weights whose score is not 0."""
  del seen  # The scores decide.
  return scores > 0


@functools.cache
def above_threshold(name: str) -> Pattern:
  """Keeps the weights whose score is above `sigmoid(s)`.

  Args:
    name: of the memory that holds s, which broadcasts over the leaf.

  References:
    Kusupati et al., `Soft threshold weight reparameterization
    <https://arxiv.org/abs/2002.03231>`_, 2020, equation 4.
  """

  def keep(scores: Scores, seen: Seen) -> Bool[Array, "*dims"]:
    return scores > jax.nn.sigmoid(seen.memory[name])

  return keep
