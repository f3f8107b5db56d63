"""Pruning at initialization: masks from scores, then static training."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from sparsejax import at_init, methods
from sparsejax.components import scopes
from sparsejax.method import Scope
from sparsejax.tasks import Batch, Task
from sparsejax.training import forward
from sparsejax.training.recipes import scoring_data
from sparsejax.training.recipes.recipe import MaskInputs, Recipe

# The loss behind the scores: task, outputs, targets -> a scalar, or outputs
# that are summed.
Loss = Callable[[Task, Any, Any], Any]


class _Scoring(NamedTuple):
  """How weights are scored.

  Attributes:
    criterion: one of `at_init`.
    data: the batches to score on.
    loss: the loss behind the scores.
    train: whether the model runs in training mode, with batch statistics.
  """

  criterion: at_init.NetworkCriterion
  data: scoring_data.ScoringData
  loss: Loss
  train: bool = True


def snip(
  sparsity: float,
  *,
  scope: Scope = scopes.global_scope,
  batches: int = 1,
  batch_size: int = 128,
) -> Recipe:
  """Prune by connection sensitivity, then train: `at_init.snip`.

  Args:
    sparsity: fraction of zeros in [0, 1).
    scope: which weights compete with each other.
    batches: number of batches the gradient is summed over (the paper: 1).
    batch_size: examples per batch (the paper: 128 on CIFAR).

  Returns:
    The recipe.
  """
  data = scoring_data.shuffled(batches, batch_size)
  scoring = _Scoring(at_init.snip, data, task_loss)
  return _recipe(scoring, sparsity, scope)


def taylor(
  sparsity: float,
  *,
  scope: Scope = scopes.global_scope,
  batches: int = 8,
  batch_size: int = 128,
) -> Recipe:
  """Prune by the squared change of batch losses: `at_init.taylor`.

  Args:
    sparsity: fraction of zeros in [0, 1).
    scope: which weights compete with each other.
    batches: number of batches whose squares are summed; with 1 it is `snip`.
    batch_size: examples per batch.

  Returns:
    The recipe.
  """
  data = scoring_data.shuffled(batches, batch_size)
  scoring = _Scoring(at_init.taylor, data, task_loss)
  return _recipe(scoring, sparsity, scope)


def grasp(
  sparsity: float,
  *,
  classes: int,
  scope: Scope = scopes.global_scope,
  samples_per_class: int = 10,
  temperature: float = 200.0,
) -> Recipe:
  """Prune while preserving gradient flow: `at_init.grasp`.

  Args:
    sparsity: fraction of zeros in [0, 1).
    classes: number of classes K of the data.
    scope: which weights compete with each other.
    samples_per_class: examples per class, in two halves; even.
    temperature: divides the logits; above 0.

  Returns:
    The recipe.
  """
  if not temperature > 0:
    raise ValueError(f"`temperature` must be above 0, got {temperature}.")
  scoring = _Scoring(
    at_init.grasp,
    scoring_data.balanced(classes, samples_per_class, batch_count=2),
    functools.partial(task_loss, temperature=float(temperature)),
  )
  return _recipe(scoring, sparsity, scope)


def synflow(
  sparsity: float,
  *,
  scope: Scope = scopes.global_scope,
  rounds: int = 100,
) -> Recipe:
  """Prune by synaptic flow, without data: `at_init.synflow`.

  Args:
    sparsity: fraction of zeros in [0, 1).
    scope: which weights compete with each other.
    rounds: number of rounds of scoring and pruning.

  Returns:
    The recipe.
  """
  if rounds < 1:
    raise ValueError(f"`rounds` must be at least 1, got {rounds}.")
  criterion = at_init.synflow._replace(rounds=rounds)
  scoring = _Scoring(criterion, scoring_data.ones, _outputs, train=False)
  return _recipe(scoring, sparsity, scope)


def magnitude_init(
  sparsity: float, *, scope: Scope = scopes.global_scope
) -> Recipe:
  """Prune the initial weights by magnitude.

  Args:
    sparsity: fraction of zeros in [0, 1).
    scope: which weights compete with each other.

  Returns:
    The recipe.
  """
  scoring = _Scoring(at_init.magnitude, scoring_data.ones, task_loss)
  return _recipe(scoring, sparsity, scope)


def random_init(
  sparsity: float, *, scope: Scope = scopes.global_scope
) -> Recipe:
  """Prune at random, with all layers in one group.

  Args:
    sparsity: fraction of zeros in [0, 1).
    scope: which weights compete with each other; with a distribution it is
      `static`.

  Returns:
    The recipe.
  """
  scoring = _Scoring(at_init.random, scoring_data.ones, task_loss)
  return _recipe(scoring, sparsity, scope)


def task_loss(
  task: Task, outputs: Any, targets: Any, *, temperature: float = 1.0
) -> jax.Array:
  """Returns the mean loss of outputs divided by a temperature."""
  cooled = jax.tree.map(lambda x: x / temperature, outputs)
  return task.loss(cooled, targets).mean()


def _outputs(task: Task, outputs: Any, targets: Any) -> Any:
  """Returns the outputs, which SynFlow sums."""
  del task, targets  # There is no data.
  return outputs


def _recipe(scoring: _Scoring, sparsity: float, scope: Scope) -> Recipe:
  return Recipe(
    methods.static(sparsity),
    initial_masks=functools.partial(
      _masks, scoring=scoring, sparsity=sparsity, scope=scope
    ),
  )


def _masks(
  inputs: MaskInputs, *, scoring: _Scoring, sparsity: float, scope: Scope
) -> Any:
  """Returns the masks of the highest scores."""
  model = _in_any_precision(inputs.setup.model)

  def loss_fn(params: Any, batch: Batch) -> Any:
    outputs, _ = forward.apply_model(
      model,
      params,
      inputs.weights.model_state,
      batch.inputs,
      dropout_key=inputs.key if scoring.train else None,
    )
    return scoring.loss(inputs.setup.task, outputs, batch.targets)

  return at_init.prune_at_init(
    loss_fn,
    inputs.weights.params,
    scoring.data(inputs),
    sparsity,
    criterion=scoring.criterion,
    scope=scope,
    select=inputs.select,
    overrides=inputs.overrides,
    key=inputs.key,
  )


def _in_any_precision(model: nn.Module) -> nn.Module:
  """Makes a model compute in the dtype of its inputs and parameters."""
  return model.clone(dtype=None) if hasattr(model, "dtype") else model
