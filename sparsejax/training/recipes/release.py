"""Dense fine-tuning of a sparse network: the masks are released at a step."""

from typing import Any

from sparsejax import methods
from sparsejax.components import storage
from sparsejax.training.recipes.recipe import MaskInputs, Recipe


def release(*, at_step: int) -> Recipe:
  """Train the masks of the run in `config.init_from`, then all weights.

  Weights that return start at 0, as they were in the sparse network.

  Args:
    at_step: the optimizer step after which all weights are active; 0 trains all
      of them from the beginning.

  Returns:
    The recipe.

  Raises:
    ValueError: if `at_step` is negative.

  References:
    Thangarasa et al., `SPDF: Sparse pre-training and dense fine-tuning for
    large language models <https://arxiv.org/abs/2303.10464>`_, 2023.
  """
  if at_step == 0:
    return Recipe(methods.dense(), needs_init_from=True)
  # All latent weights compete for as many places, and no gradient moves those
  # that are inactive before.
  method = methods.gmp(
    0.0, end_step=at_step, every_steps=at_step, storage=storage.kept
  )
  return Recipe(method, initial_masks=_masks, needs_init_from=True)


def _masks(inputs: MaskInputs) -> Any:
  assert inputs.source is not None  # The config was refused without one.
  return inputs.source.masks
