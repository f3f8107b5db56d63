"""What a search reads: scores, and which of them reach a bound.

Bounds are ranks (`components.ranking`), and scores are floats or ranks. Where
they are floats, the few bounds become floats, and not the many scores ranks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32, UInt32

from sparsejax.components.ranking import NORMAL_RANK, SIGN, ZERO_RANK
from sparsejax.selection.groups import Groups, spread
from sparsejax.selection.lazy import LazyArray, materialize

_LOWEST_RANK = np.uint32(0x007FFFFF)  # of -inf
_LOWEST_ZERO_BITS = np.uint32(0x807FFFFF)  # of the float just above -2^-126


class Field(NamedTuple):
  """What a search reads: scores, and the positions that take part.

  Scores are floats or uint32 ranks; where `valid` has None, all take part.
  """

  scores: Sequence[Array | LazyArray]
  valid: Sequence[Array | LazyArray | None]

  @property
  def shapes(self) -> list[tuple[int, ...]]:
    """Shapes of the arrays."""
    return [score.shape for score in self.scores]

  @property
  def has_floats(self) -> bool:
    """Whether scores are floats."""
    return all(score.dtype != jnp.uint32 for score in self.scores)

  def reaching(
    self, bounds: UInt32[Array, "n groups"], groups: Groups
  ) -> list[list[Array]]:
    """Returns, for each array, which elements reach each of n bounds.

    Bounds are ranks. Floats are compared as floats, which is exact because
    every bound is turned into the least float whose canonical score has that
    rank. Arrays that may be sharded give one array [n, ...] and not n, which
    keeps the code for many leaves short.
    """
    if self.has_floats:
      bounds = _score_of(bounds)
    each = spread(bounds, self.shapes, groups)
    return [
      _reaching(materialize(score), materialize(valid), few, groups.at_once)
      for score, valid, few in zip(self.scores, self.valid, each, strict=True)
    ]


def _reaching(score, valid, bounds, at_once):
  """Returns which elements reach bounds [n, ...] that broadcast.

  That is n arrays, or `at_once` a single one with a leading axis.
  """
  is_rank = score.dtype == jnp.uint32
  if not is_rank:
    score = score.astype(jnp.float32)
    score = jnp.where(jnp.isnan(score), -jnp.inf, score)
    if valid is not None:
      score = jnp.where(valid, score, jnp.nan)  # reaches no bound
  if at_once:
    flags = [score[None] >= bounds]
    valid = None if valid is None else valid[None]
  else:
    flags = [score >= bound for bound in bounds]
  if is_rank and valid is not None:
    flags = [flag & valid for flag in flags]
  return flags


def _score_of(rank: UInt32[Array, "*dims"]) -> Float32[Array, "*dims"]:
  """Returns the least score whose canonical one has at least a rank.

  NaN above +inf.
  """
  rank = jnp.maximum(rank, _LOWEST_RANK)
  gap = rank - ZERO_RANK < np.uint32(0x00800000)  # 0 and the denormals
  rank = jnp.where(gap & (rank > ZERO_RANK), NORMAL_RANK, rank)
  gap = ZERO_RANK - rank <= np.uint32(0x00800000)
  rank = jnp.where(gap & (rank < ZERO_RANK), ZERO_RANK, rank)
  bits = jnp.where(rank & SIGN != 0, rank & ~SIGN, ~rank)
  bits = jnp.where(rank == ZERO_RANK, _LOWEST_ZERO_BITS, bits)
  return lax.bitcast_convert_type(bits, jnp.float32)
