"""Pruning after training: a finished run, pruned with data, then fine-tuned."""

import functools
from typing import Any

import jax

from sparsejax import calibration, methods
from sparsejax.calibration import Comparison, Solver
from sparsejax.components import distributions
from sparsejax.method import Distribution
from sparsejax.methods import compositions
from sparsejax.tasks import Batch
from sparsejax.training import forward
from sparsejax.training.recipes import scoring_data
from sparsejax.training.recipes.recipe import (
  MaskInputs,
  Recipe,
  SparseNetwork,
)


def _calibrated(
  sparsity: float | None = None,
  *,
  solver: Solver,
  n: int | None = None,
  m: int | None = None,
  distribution: Distribution = distributions.uniform,
  batches: int = 8,
  batch_size: int = 16,
  sequential: bool = False,
) -> Recipe:
  """Prune the run in `config.init_from` with data, then fine-tune its weights.

  Give `config.init_mode=lr_rewind`, which starts from the weights at its end.

  Args:
    sparsity: fraction of zeros in [0, 1); or
    solver: how weights are chosen.
    n: weights that stay of every m inputs of an output, and
    m: weights of a group.
    distribution: sparsity per layer.
    batches: number of calibration batches of the training split.
    batch_size: examples per batch.
    sequential: whether each block is calibrated with what the pruned blocks
      before it put out.

  Returns:
    The recipe.

  Raises:
    ValueError: unless either `sparsity` or `n` and `m` are given.
  """
  if (n is None) != (m is None) or (sparsity is None) == (n is None):
    raise ValueError(
      "`sparsity`, or `n` and `m`, must be given, and not both, got"
      f" sparsity={sparsity}, n={n}, m={m}."
    )
  comparison: Comparison | None = None
  reached = sparsity
  if n is not None and m is not None:
    comparison, reached = calibration.n_of_m(n, m), 1 - n / m
  assert reached is not None  # Either was given.
  masks = functools.partial(
    _pruned,
    data=scoring_data.shuffled(batches, batch_size),
    sparsity=sparsity,
    solver=solver,
    comparison=comparison,
    distribution=distribution,
    sequential=sequential,
  )
  return Recipe(
    methods.static(reached), initial_masks=masks, needs_init_from=True
  )


wanda = compositions.row_of(
  _calibrated,
  "wanda",
  """Prune the run in `config.init_from` by `wanda`, and fine-tune it.""",
  fixed={"solver": calibration.wanda},
)
ria = compositions.row_of(
  _calibrated,
  "ria",
  """Prune the run in `config.init_from` by `ria`, and fine-tune it.""",
  fixed={"solver": calibration.ria},
)
sparsegpt = compositions.row_of(
  _calibrated,
  "sparsegpt",
  """Prune the run in `config.init_from` by SparseGPT, and fine-tune it.""",
  fixed={"solver": calibration.sparsegpt()},
)


def _pruned(
  inputs: MaskInputs,
  *,
  data: scoring_data.ScoringData,
  sparsity: float | None,
  **options: Any,
) -> SparseNetwork:
  """Returns the pruned network."""

  def apply(params: Any, batch: Batch) -> Any:
    outputs, _ = forward.apply_model(
      inputs.setup.model, params, inputs.weights.model_state, batch.inputs
    )
    return outputs

  stacked = data(inputs)
  count = len(jax.tree.leaves(stacked)[0])
  batches = [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(count)]
  found = calibration.prune_with_calibration(
    apply,
    inputs.weights.params,
    batches,
    sparsity,
    select=inputs.select,
    overrides=inputs.overrides,
    **options,
  )
  return SparseNetwork(*found)
