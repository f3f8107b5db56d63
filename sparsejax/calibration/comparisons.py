"""Which weights of a matrix compare with each other, and how many stay.

Scores are those of matrices [M, I, O], of some inputs at a time: all of them,
or the block that SparseGPT decides on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sparsejax.components import patterns
from sparsejax.method import Leaf
from sparsejax.selection import search
from sparsejax.selection.groups import each_layer


class Comparison(NamedTuple):
  """How the weights to keep are chosen.

  Attributes:
    groups: (outputs) -> groups of weights in each matrix that share a budget.
    keep: (scores [M, C, O], int32[groups] to keep, valid [M, C, O] or None,
      sharded) -> bool mask with exactly those counts.
    inputs: how many consecutive inputs are decided together; None for any
      number.
    own_count: (inputs, outputs) -> weights that stay of a matrix; None where a
      sparsity says so.
  """

  groups: Callable[[int], int]
  keep: Callable[..., Bool[Array, "m c o"]]
  inputs: int | None = None
  own_count: Callable[[int, int], int] | None = None


def counts_table(
  comparison: Comparison,
  counts: np.ndarray,
  shape: tuple[int, int],
  block: int,
) -> np.ndarray:
  """Divides the counts of matrices among their groups and blocks of inputs.

  Args:
    comparison: of the weights.
    counts: int64[M], the weights that each matrix keeps.
    shape: inputs and outputs of the matrices.
    block: inputs that are decided together; the last block may have fewer.

  Returns:
    int32[blocks, groups] that sums to the counts: equal shares, what is left
    over going to the first groups; in each group evenly over the inputs.
  """
  inputs, outputs = shape
  groups = comparison.groups(outputs)
  share, rest = np.divmod(np.asarray(counts, np.int64)[:, None], groups)
  each = (share + (np.arange(groups) < rest)).ravel()
  ends = np.minimum(np.arange(1, -(-inputs // block) + 1) * block, inputs)
  up_to = each * ends[:, None] // inputs
  return np.diff(up_to, axis=0, prepend=0).astype(np.int32)


def _keep_in_layer(
  scores: Float[Array, "m c o"], counts: Int[Array, " m"], valid, sharded: bool
) -> Bool[Array, "m c o"]:
  matrices, inputs, outputs = scores.shape
  sizes = (inputs * outputs,) * matrices
  groups = each_layer((0,), sizes, sharded=sharded)
  return search.select([scores], counts, groups, valid=[valid])[0]


def _keep_per_output(
  scores: Float[Array, "m c o"], counts: Int[Array, " mo"], valid, sharded: bool
) -> Bool[Array, "m c o"]:
  matrices, inputs, outputs = scores.shape

  def columns(x: Any) -> Any:
    return jnp.moveaxis(x, 1, 0).reshape(inputs, matrices * outputs)

  sizes = (inputs,) * (matrices * outputs)
  groups = each_layer((1,), sizes, sharded=sharded)
  valid = None if valid is None else columns(valid)
  mask = search.select([columns(scores)], counts, groups, valid=[valid])[0]
  return jnp.moveaxis(mask.reshape(inputs, matrices, outputs), 0, 1)


per_layer = Comparison(lambda outputs: 1, _keep_in_layer)
"""All weights of a matrix compare with each other."""

per_output = Comparison(lambda outputs: outputs, _keep_per_output)
"""The weights of one output compare: a row of a PyTorch weight (Wanda)."""


def n_of_m(n: int, m: int) -> Comparison:
  """The n highest of every m consecutive inputs of an output stay.

  A matrix whose number of inputs is not a multiple of m stays dense. Hardware
  takes 2:4.

  Raises:
    ValueError: if n is not in [1, m).
  """
  pattern = patterns.n_of_m(n, m)

  def keep(
    scores: Float[Array, "m c o"], counts: Any, valid: Any, sharded: bool
  ) -> Bool[Array, "m c o"]:
    del counts, valid, sharded  # The pattern decides, within each column.
    leaf = Leaf(scores, None, jnp.ones(scores.shape, bool), {})
    return pattern.keep(scores, leaf)

  def own_count(inputs: int, outputs: int) -> int:
    return inputs * outputs if inputs % m else inputs // m * n * outputs

  return Comparison(lambda outputs: 1, keep, inputs=m, own_count=own_count)
