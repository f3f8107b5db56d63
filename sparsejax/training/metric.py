"""The epoch metric that performance-driven methods follow.

Every step passes the loss or another metric of the last finished epoch to the
optimizer as `metric=`. It is the mean over the training batches of that epoch,
or an evaluation of the validation split at its end. The value is part of the
training state, so a resumed run passes the same one.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsejax import command_line
from sparsejax.method import Method, MetricKind as Kind
from sparsejax.tasks import Task

_SPLITS = ("train", "validation")


def sources(task: Task) -> dict[str, Kind]:
  """Returns the choices of `config.metric`, and the kind of each.

  A metric of which higher values are better is followed like an accuracy, any
  other like a loss.

  Args:
    task: what is trained.
  """
  kinds: dict[str, Kind] = {"loss": "loss"}
  for measure in task.measures:
    if measure.of_means is None:
      better: Kind = "accuracy" if measure.higher_is_better else "loss"
      kinds[measure.name] = better
  return {
    f"{split}_{name}": kind for split in _SPLITS for name, kind in kinds.items()
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
  requested: str | None, method: Method, task: Task, *, validates: bool
) -> str | None:
  """Choose the metric for a method.

  Args:
    requested: one of `sources`, or `None` for the default: the training loss,
      or the validation accuracy.
    method: the method of the run.
    task: what is trained.
    validates: whether the data has a validation split.

  Returns:
    One of `sources`; `None` if the method follows no metric.

  Raises:
    InputError: if the metric is unknown, not available, or not of the kind that
      the method follows.
  """
  known = sources(task)
  if requested is not None and requested not in known:
    raise command_line.unknown("`config.metric`", requested, known)
  if method.metric is None:
    return None
  valid = [name for name in known if known[name] == method.metric]
  if not valid:
    raise command_line.InputError(
      f"`config.method` follows the {method.metric}, but the task"
      f" {task.name!r} measures none. Use a method that follows the loss, or"
      " none."
    )
  chosen = requested or _default(method.metric, valid)
  if chosen not in valid:
    raise command_line.InputError(
      f"`config.metric` must be one of {', '.join(valid)}, because the method"
      f" follows the {method.metric}; got {chosen!r}."
    )
  if uses_validation(chosen) and not validates:
    raise command_line.InputError(
      f"`config.metric` is {chosen!r}, but the data has no validation split."
      " Hold one out (`config.data.validation`, or fewer"
      " `config.data.train_examples`), or use"
      f" {'train_' + _name(chosen)!r}."
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
  metrics: Mapping[str, jax.Array],
  step: jax.Array,
  steps_per_epoch: int,
) -> EpochMetric | tuple[()]:
  """Add a step to the current epoch.

  Args:
    metric: before the step.
    source: one of `sources`, or `None`.
    loss: float32[], mean over the batch.
    metrics: float32[] by name, over the batch.
    step: int32[], completed steps, including this one.
    steps_per_epoch: steps per epoch.

  Returns:
    The metric after the step.
  """
  if not isinstance(metric, EpochMetric) or source is None:
    return metric
  if uses_validation(source):
    return metric
  total = metric.sum + {"loss": loss, **metrics}[_name(source)]
  is_last = step % steps_per_epoch == 0
  return EpochMetric(
    last=jnp.where(is_last, total / steps_per_epoch, metric.last),
    sum=jnp.where(is_last, jnp.zeros_like(total), total),
  )


def after_validation(
  metric: EpochMetric,
  source: str,
  *,
  totals: Mapping[str, jax.Array],
  examples: int,
) -> EpochMetric:
  """Returns the metric after evaluating the validation split.

  Args:
    metric: before the evaluation.
    source: one of `sources`.
    totals: sums over the split, int32[] or float32[]: `loss`, and metrics.
    examples: number of examples in the split.
  """
  total = totals[_name(source)]
  last = total.astype(jnp.float32) / jnp.float32(examples)
  return metric._replace(last=last)


def _default(kind: Kind, valid: list[str]) -> str:
  """Returns the training loss, or the first accuracy of the validation."""
  return next(
    name for name in valid if (kind == "accuracy") == uses_validation(name)
  )


def _name(source: str) -> str:
  """Returns the metric's name: `accuracy` for `train_accuracy`."""
  return source.partition("_")[2]
