"""SparseGPT: what is pruned is made up for by the weights that stay.

For a matrix with inputs X the error `||X W - X W'||^2` has the Hessian
H = X^T X, the same for every output. Let U be the upper triangular matrix with
`U^T U = H^-1`. Inputs are taken in order: when weight w of input i is pruned,
the weights of the inputs after it move by `-w / U_ii  U_i,j`, which is the best
that they can do. Which weights of a block of inputs are pruned is decided when
the block begins: those with the lowest `w^2 / U_ii^2`.

U comes from one Cholesky factorization: with H = R R^T for an upper triangular
R, which is that of the reversed matrix, U = R^-1. The authors' code inverts H
and factorizes the inverse; U is unique, so the two agree, and ours loses fewer
digits in float32.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Int

from sparsejax.calibration import comparisons, statistics
from sparsejax.calibration.comparisons import Comparison
from sparsejax.calibration.solvers import Problem, Solver


def sparsegpt(*, dampening: float = 0.01, block: int = 128) -> Solver:
  """Prunes in blocks of inputs, and updates the weights that stay.

  Each block keeps its share of the count. An input that is always 0 has its
  weights set to 0, active ones too.

  Args:
    dampening: added to the diagonal of the Hessian, as a share of its mean;
      above 0.
    block: inputs whose weights are chosen together.

  Raises:
    ValueError: if a number is out of range.

  References:
    Frantar & Alistarh, `SparseGPT: massive language models can be accurately
    pruned in one-shot <https://arxiv.org/abs/2301.00774>`_, 2023, Algorithm 1.
  """
  if not dampening > 0:
    raise ValueError(f"`dampening` must be above 0, got {dampening}.")
  if block < 1:
    raise ValueError(f"`block` must be at least 1, got {block}.")
  return Solver(
    functools.partial(_solve, dampening=float(dampening), block=block),
    comparisons.per_layer,
    inputs=statistics.GRAM,
    block=functools.partial(_decided_together, block),
  )


def _decided_together(block: int, inputs: int, comparison: Comparison) -> int:
  """Returns how many inputs one decision is about."""
  return comparison.inputs or min(block, inputs)


def inverse_factor(
  gram: Float[Array, "m i i"], dampening: float
) -> Float[Array, "m i i"]:
  """Returns the upper triangular U with `U^T U = (gram + lambda 1)^-1`.

  Lambda is a share `dampening` of the mean of the diagonal. Inputs that are
  always 0 are left alone: their rows are those of the unit matrix, scaled.
  """
  size = gram.shape[-1]
  diagonal = jnp.diagonal(gram, axis1=1, axis2=2)
  added = dampening * jnp.mean(diagonal, axis=1, keepdims=True)
  added = jnp.where(diagonal > 0, added, 1.0)
  damped = gram + added[..., None] * jnp.eye(size, dtype=gram.dtype)
  lower = jnp.linalg.cholesky(damped[:, ::-1, ::-1])
  eye = jnp.broadcast_to(jnp.eye(size, dtype=gram.dtype), gram.shape)
  inverse = jax.vmap(functools.partial(solve_triangular, lower=True))
  return inverse(lower, eye)[:, ::-1, ::-1]


class _Block(NamedTuple):
  """A block of inputs, and what it needs.

  Attributes:
    weights: float32[M, C, O].
    factor: float32[M, C, C], its part of U.
    counts: int32[decisions, groups].
    valid: bool[M, C, O]; False at padding.
  """

  weights: Float[Array, "m c o"]
  factor: Float[Array, "m c c"]
  counts: Int[Array, "decisions groups"]
  valid: Bool[Array, "m c o"]


def _solve(
  problem: Problem,
  comparison: Comparison,
  sharded: bool,
  *,
  dampening: float,
  block: int,
) -> tuple[Float[Array, "m i o"], Bool[Array, "m i o"]]:
  assert problem.inputs is not None  # It declares that it reads them.
  _, inputs, _ = problem.weights.shape
  together = _decided_together(block, inputs, comparison)
  size = max(together, min(block, inputs) // together * together)
  padding = -inputs % size
  alive = jnp.diagonal(problem.inputs, axis1=1, axis2=2)[..., None] > 0
  weights = jnp.where(alive, problem.weights, 0.0)
  weights = jnp.pad(weights, ((0, 0), (0, padding), (0, 0)))
  gram = jnp.pad(problem.inputs, ((0, 0), (0, padding), (0, padding)))
  # Padding is an input that is always 0; it must not lower the mean.
  share = dampening * (inputs + padding) / inputs
  factor = inverse_factor(gram, share)
  table = _padded(problem.counts, (inputs + padding) // together)
  table = table.reshape(-1, size // together, table.shape[-1])
  valid = jnp.arange(inputs + padding)[:, None] < inputs
  valid = jnp.broadcast_to(valid, weights.shape)

  def one_block(weights, begin_and_counts):
    begin, counts = begin_and_counts
    rows = lax.dynamic_slice_in_dim(factor, begin, size, 1)
    now = _Block(
      lax.dynamic_slice_in_dim(weights, begin, size, 1),
      lax.dynamic_slice_in_dim(rows, begin, size, 2),
      counts,
      lax.dynamic_slice_in_dim(valid, begin, size, 1),
    )
    pruned, errors, mask = _prune_block(now, comparison, sharded)
    later = jnp.arange(weights.shape[1]) >= begin + size
    rows = jnp.where(later, rows, 0.0)
    weights = weights - jnp.einsum(
      "mci,mco->mio", rows, errors, precision=lax.Precision.HIGHEST
    )
    weights = lax.dynamic_update_slice_in_dim(weights, pruned, begin, 1)
    return weights, mask

  begins = jnp.arange(0, inputs + padding, size)
  weights, masks = lax.scan(one_block, weights, (begins, table))
  mask = jnp.moveaxis(masks, 0, 1).reshape(weights.shape)
  return weights[:, :inputs], mask[:, :inputs]


def _padded(
  counts: Int[Array, "decisions groups"], decisions: int
) -> Int[Array, "all groups"]:
  return jnp.pad(counts, ((0, decisions - len(counts)), (0, 0)))


def _prune_block(
  now: _Block, comparison: Comparison, sharded: bool
) -> tuple[Float[Array, "m c o"], Float[Array, "m c o"], Bool[Array, "m c o"]]:
  """Returns the weights of a block, their errors over U_ii, and the mask."""
  size, decisions = now.weights.shape[1], len(now.counts)
  together = size // decisions
  diagonal = jnp.diagonal(now.factor, axis1=1, axis2=2)[..., None]

  def decide(state, begin_and_counts):
    begin, counts = begin_and_counts
    parts = (state.weights, diagonal, now.valid)
    weights, scale, valid = (
      lax.dynamic_slice_in_dim(x, begin, together, 1) for x in parts
    )
    kept = comparison.keep(jnp.square(weights / scale), counts, valid, sharded)
    mask = lax.dynamic_update_slice_in_dim(state.mask, kept, begin, 1)
    state = lax.fori_loop(
      begin,
      begin + together,
      functools.partial(_prune_input, now.factor),
      state._replace(mask=mask),
    )
    return state, None

  start = _State(
    now.weights, jnp.zeros_like(now.weights), jnp.zeros(now.weights.shape, bool)
  )
  begins = jnp.arange(0, size, together)
  state, _ = lax.scan(decide, start, (begins, now.counts))
  return state


class _State(NamedTuple):
  """A block on the way: weights, errors over U_ii, and the mask, [M, C, O]."""

  weights: Float[Array, "m c o"]
  errors: Float[Array, "m c o"]
  mask: Bool[Array, "m c o"]


def _prune_input(
  factor: Float[Array, "m c c"], i: Int[Array, ""], state: _State
) -> _State:
  """Prunes the weights of one input, and moves those after it."""

  def at(x: Array) -> Array:
    return lax.dynamic_index_in_dim(x, i, 1, keepdims=False)

  row, old = at(factor), at(state.weights)
  new = jnp.where(at(state.mask), old, 0.0)
  scale = lax.dynamic_index_in_dim(row, i, 1, keepdims=True)
  error = (old - new) / scale
  weights = state.weights - row[..., None] * error[:, None, :]
  put = functools.partial(lax.dynamic_update_index_in_dim, index=i, axis=1)
  return _State(put(weights, new), put(state.errors, error), state.mask)
