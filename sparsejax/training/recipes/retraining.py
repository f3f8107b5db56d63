"""Retraining: train the masks of a finished run again."""

import functools
from typing import Any

from sparsejax import at_init, methods
from sparsejax.components import scopes
from sparsejax.method import Scope
from sparsejax.training.recipes.recipe import MaskInputs, Recipe


def retrain(
  sparsity: float | None = None, *, scope: Scope = scopes.global_scope
) -> Recipe:
  """Train the masks of the run in `config.init_from`, or part of them.

  Args:
    sparsity: fraction of zeros in [0, 1), at least that of the masks. Keeps the
      weights that are largest at the end of the source run, as in a round of
      iterative magnitude pruning. None uses the masks as they are.
    scope: which weights compete with each other.

  Returns:
    The recipe.

  References:
    Frankle & Carbin, `The lottery ticket hypothesis
    <https://arxiv.org/abs/1803.03635>`_, 2019; Renda et al., `Comparing
    rewinding and fine-tuning <https://arxiv.org/abs/2003.02389>`_, 2020.
  """
  return Recipe(
    methods.dense() if sparsity is None else methods.static(sparsity),
    initial_masks=functools.partial(_masks, sparsity=sparsity, scope=scope),
    needs_init_from=True,
  )


def _masks(inputs: MaskInputs, *, sparsity: float | None, scope: Scope) -> Any:
  """Returns the masks of the source run, pruned further if requested."""
  assert inputs.source is not None  # The config was refused without one.
  if sparsity is None:
    return inputs.source.masks
  return at_init.prune_at_init(
    None,
    inputs.source.params,
    None,
    sparsity,
    criterion=at_init.magnitude,
    scope=scope,
    masks=inputs.source.masks,
    overrides=inputs.overrides,
  )
