"""How well the epochs went, for methods whose masks follow that.

Such a method is told the loss or the accuracy of the last epoch that has
ended, at every step of the next one. The number is part of the training state,
so a resume goes on with it. It comes from the batches of the epoch, summed
while it trains, or from the validation part, judged when it has ended.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsejax import command_line
from sparsejax.method import Method
from sparsejax.method import MetricKind as Kind

SOURCES: dict[str, Kind] = {
  "train_loss": "loss",
  "train_accuracy": "accuracy",
  "validation_loss": "loss",
  "validation_accuracy": "accuracy",
}
"""What `config.metric` may be, and which kind of number each is."""

_USUAL: dict[Kind, str] = {
  "loss": "train_loss",
  "accuracy": "validation_accuracy",
}


class EpochMetric(NamedTuple):
  """What is known of the epochs.

  Attributes:
    last: float32[], of the last epoch that has ended; 0 before.
    sum: float32[], over the steps of the epoch that is under way; stays 0
      where the validation part is judged.
  """

  last: jax.Array
  sum: jax.Array


def source(
  requested: str | None, method: Method, *, validates: bool
) -> str | None:
  """Returns where a method's metric comes from.

  Args:
    requested: one of `SOURCES`, or `None` for the usual one: the training loss, or
      the validation accuracy.
    method: of the run.
    validates: whether the data has a validation part.

  Returns:
    One of `SOURCES`; `None` where the method follows nothing.

  Raises:
    InputError: if there is no such number, or it is not what the method
      follows.
  """
  if requested is not None and requested not in SOURCES:
    raise command_line.unknown("`config.metric`", requested, SOURCES)
  if method.follows is None:
    return None
  found = _USUAL[method.follows] if requested is None else requested
  if SOURCES[found] != method.follows:
    fitting = [name for name in SOURCES if SOURCES[name] == method.follows]
    raise command_line.InputError(
      f"`config.metric` must be one of {', '.join(fitting)}: the method"
      f" follows the {method.follows}, got {found!r}."
    )
  if is_judged(found) and not validates:
    raise command_line.InputError(
      f"`config.metric` is {found!r}, but the data has no validation part."
      " Hold one out (`config.data.validation`, or fewer"
      " `config.data.train_examples`), or follow"
      f" {'train_' + method.follows!r}."
    )
  return found


def is_judged(source: str | None) -> bool:
  """Says whether the validation part is judged at the end of every epoch."""
  return source is not None and source.startswith("validation")


def start(source: str | None) -> EpochMetric | tuple[()]:
  """Returns what is known before the first step; `()` of no source."""
  if source is None:
    return ()
  return EpochMetric(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))


def told(metric: EpochMetric | tuple[()]) -> dict[str, jax.Array]:
  """Returns what the optimizer's `update` is given beside the gradients."""
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
  """Add a step to the epoch that is under way.

  Args:
    metric: before the step.
    source: one of `SOURCES`, or `None`.
    loss: float32[], mean of the batch.
    accuracy: float32[], of the batch.
    step: int32[], completed steps, this one included.
    steps_per_epoch: steps in an epoch.

  Returns:
    What is known after the step.
  """
  if not isinstance(metric, EpochMetric) or source is None:
    return metric
  if is_judged(source):
    return metric
  number = loss if SOURCES[source] == "loss" else accuracy
  total = metric.sum + number
  ends = step % steps_per_epoch == 0
  return EpochMetric(
    last=jnp.where(ends, total / steps_per_epoch, metric.last),
    sum=jnp.where(ends, jnp.zeros_like(total), total),
  )


def judged(
  metric: EpochMetric,
  source: str,
  *,
  loss: jax.Array,
  correct: jax.Array,
  examples: int,
) -> EpochMetric:
  """Returns what is known once the validation part has been judged.

  Args:
    metric: before.
    source: one of `SOURCES`.
    loss: float32[], sum over the part.
    correct: int32[], right answers.
    examples: of the part.
  """
  total = loss if SOURCES[source] == "loss" else correct
  last = total.astype(jnp.float32) / jnp.float32(examples)
  return metric._replace(last=last)
