"""Solvers: from weights and statistics of their inputs to masks.

All see matrices [M, I, O] in float32. Most are a score per weight; SparseGPT
also moves the weights that stay.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sparsejax.calibration import comparisons, statistics
from sparsejax.calibration.comparisons import Comparison

GradientStatistic = Literal["batch", "example"]
"""Squares of the gradient of each batch, or of each example, are summed."""


class Problem(NamedTuple):
  """Matrices to prune.

  Attributes:
    weights: float32[M, I, O].
    inputs: the statistic of the inputs, float32[M, I] or [M, I, I]; None where
      the solver reads none.
    squares: float32[M, I, O], summed squares of the gradient; None where the
      solver reads none.
    counts: int32[blocks, groups], how many weights stay.
  """

  weights: Float[Array, "m i o"]
  inputs: Float[Array, "m i ..."] | None
  squares: Float[Array, "m i o"] | None
  counts: Int[Array, "blocks groups"]


class Solver(NamedTuple):
  """How weights are chosen, and what those that stay become.

  Attributes:
    solve: (problem, comparison, sharded) -> weights and bool mask [M, I, O].
    comparison: which weights compare, where none is given.
    inputs: the statistic of the inputs that it reads, or None.
    squares: which squared gradients it reads, or None; then `apply` returns a
      loss.
    block: (inputs, comparison) -> how many inputs it decides on at a time.
  """

  solve: Callable[
    [Problem, Comparison, bool],
    tuple[Float[Array, "m i o"], Bool[Array, "m i o"]],
  ]
  comparison: Comparison
  inputs: statistics.InputStatistic | None = None
  squares: GradientStatistic | None = None
  block: Callable[[int, Comparison], int] = lambda inputs, comparison: inputs


def scored(
  score: Callable[[Problem], Float[Array, "m i o"]],
  comparison: Comparison = comparisons.per_layer,
  **reads: Any,
) -> Solver:
  """The weights with the highest scores stay, as they are.

  Args:
    score: of each weight.
    comparison: which weights compare, where none is given.
    **reads: `inputs` and `squares` of the solver.
  """

  def solve(problem: Problem, comparison: Comparison, sharded: bool):
    kept = comparison.keep(score(problem), problem.counts[0], None, sharded)
    return problem.weights, kept

  return Solver(solve, comparison, **reads)


def _wanda(problem: Problem) -> Float[Array, "m i o"]:
  assert problem.inputs is not None  # It declares that it reads them.
  return jnp.abs(problem.weights) * jnp.sqrt(problem.inputs)[..., None]


def _relative_importance(problem: Problem) -> Float[Array, "m i o"]:
  assert problem.inputs is not None  # It declares that it reads them.
  size = jnp.abs(problem.weights)
  shares = _share(size, 1) + _share(size, 2)
  return shares * problem.inputs[..., None] ** 0.25  # ||x||^(1/2)


def _share(size: Float[Array, "m i o"], axis: int) -> Float[Array, "m i o"]:
  total = jnp.sum(size, axis=axis, keepdims=True)
  return size / jnp.where(total > 0, total, 1.0)


def _squared_change(problem: Problem) -> Float[Array, "m i o"]:
  assert problem.squares is not None  # It declares that it reads them.
  return jnp.square(problem.weights) * problem.squares


magnitude = scored(lambda problem: jnp.abs(problem.weights))
"""`|w|`: needs no data. All weights of a matrix compare."""

wanda = scored(_wanda, comparisons.per_output, inputs=statistics.SQUARED_NORMS)
"""Wanda: `|w| ||x||`, the norm over all rows of the input.

The weights of each output compare.

References:
  Sun et al., `A simple and effective pruning approach for large language models
  <https://arxiv.org/abs/2306.11695>`_, 2024, equation 1.
"""

ria = scored(_relative_importance, inputs=statistics.SQUARED_NORMS)
"""RIA: the share of a weight in its input and in its output, times ||x||^1/2.

`(|w_ij| / sum_i |w_ij| + |w_ij| / sum_j |w_ij|) ||x_i||^a` with a = 1/2, the
value of the paper. All weights of a matrix compare. The paper's permutation of
channels for N:M is not done.

References:
  Zhang et al., `Plug-and-play: an efficient post-training pruning method for
  large language models <https://openreview.net/forum?id=Tr0lPx9woF>`_, 2024.
"""

taylor = scored(_squared_change, squares="batch")
"""`(w dL/dw)^2`, summed over batches: the criterion `at_init.taylor`.

References:
  Molchanov et al., `Importance estimation for neural network pruning
  <https://arxiv.org/abs/1906.10771>`_, 2019, equation 8.
"""

fisher = scored(_squared_change, squares="example")
"""`w^2 sum_n (dL_n/dw)^2`: the diagonal of the empirical Fisher information.

The gradient of each example of a batch is squared on its own. Examples lie
along the first axis of every leaf of a batch.

References:
  Theis et al., `Faster gaze prediction with dense networks and Fisher pruning
  <https://arxiv.org/abs/1801.05787>`_, 2018, equation 9.
"""
