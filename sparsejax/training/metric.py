"""The epoch metric that performance-driven methods follow.

Every step passes the loss or accuracy of the last finished epoch to the
optimizer as `metric=`. It is the mean over the training batches of that epoch,
or an evaluation of the validation split at its end. The value is part of the
training state, so a resumed run passes the same one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsejax import command_line
from sparsejax.method import Method, MetricKind as Kind

SOURCES: dict[str, Kind] = {
  "train_loss": "loss",
  "train_accuracy": "accuracy",
  "validation_loss": "loss",
  "validation_accuracy": "accuracy",
}
"""Choices of `config.metric`, and the kind of each."""

_DEFAULTS: dict[Kind, str] = {
  "loss": "train_loss",
  "accuracy": "validation_accuracy",
}


class EpochMetric(NamedTuple):
  """The metric of the last finished epoch, and of the current one so far.

  Attributes:
    last: float32[], of the last finished epoch; 0 during the first.
    sum: float32[], over the steps of the current epoch; stays 0 if the metric
      comes from the validation split.
  """

  last: jax.Array
  sum: jax.Array


def source(
  requested: str | None, method: Method, *, validates: bool
) -> str | None:
  """Choose the metric for a method.

  Args:
    requested: one of `SOURCES`, or `None` for the default: the training loss,
      or the validation accuracy.
    method: the method of the run.
    validates: whether the data has a validation split.

  Returns:
    One of `SOURCES`; `None` if the method follows no metric.

  Raises:
    InputError: if the metric is unknown, not available, or not of the kind that
      the method follows.
  """
  if requested is not None and requested not in SOURCES:
    raise command_line.unknown("`config.metric`", requested, SOURCES)
  if method.metric is None:
    return None
  chosen = _DEFAULTS[method.metric] if requested is None else requested
  if SOURCES[chosen] != method.metric:
    valid = [name for name in SOURCES if SOURCES[name] == method.metric]
    raise command_line.InputError(
      f"`config.metric` must be one of {', '.join(valid)}, because the method"
      f" follows the {method.metric}; got {chosen!r}."
    )
  if uses_validation(chosen) and not validates:
    raise command_line.InputError(
      f"`config.metric` is {chosen!r}, but the data has no validation split."
      " Hold one out (`config.data.validation`, or fewer"
      " `config.data.train_examples`), or use"
      f" {'train_' + method.metric!r}."
    )
  return chosen


def uses_validation(source: str | None) -> bool:
  """Returns whether the validation split is evaluated after every epoch."""
  return source is not None and source.startswith("validation")


def init(source: str | None) -> EpochMetric | tuple[()]:
  """Returns the value before the first step; `()` if there is no source."""
  if source is None:
    return ()
  return EpochMetric(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))


def update_kwargs(metric: EpochMetric | tuple[()]) -> dict[str, jax.Array]:
  """Returns the extra arguments for the optimizer's `update`."""
  if not isinstance(metric, EpochMetric):
    return {}
  return {"metric": metric.last}


def after_step(
  metric: EpochMetric | tuple[()],
  source: str | None,
  *,
  loss: jax.Array,
  accuracy: jax.Array,
  step: jax.Array,
  steps_per_epoch: int,
) -> EpochMetric | tuple[()]:
  """Add a step to the current epoch.

  Args:
    metric: before the step.
    source: one of `SOURCES`, or `None`.
    loss: float32[], mean over the batch.
    accuracy: float32[], over the batch.
    step: int32[], completed steps, including this one.
    steps_per_epoch: steps per epoch.

  Returns:
    The metric after the step.
  """
  if not isinstance(metric, EpochMetric) or source is None:
    return metric
  if uses_validation(source):
    return metric
  value = loss if SOURCES[source] == "loss" else accuracy
  total = metric.sum + value
  is_last = step % steps_per_epoch == 0
  return EpochMetric(
    last=jnp.where(is_last, total / steps_per_epoch, metric.last),
    sum=jnp.where(is_last, jnp.zeros_like(total), total),
  )


def after_validation(
  metric: EpochMetric,
  source: str,
  *,
  loss: jax.Array,
  correct: jax.Array,
  examples: int,
) -> EpochMetric:
  """Returns the metric after evaluating the validation split.

  Args:
    metric: before the evaluation.
    source: one of `SOURCES`.
    loss: float32[], sum over the split.
    correct: int32[], correct predictions.
    examples: number of examples in the split.
  """
  total = loss if SOURCES[source] == "loss" else correct
  last = total.astype(jnp.float32) / jnp.float32(examples)
  return metric._replace(last=last)
