"""The inner optimizers that a config can name.

A factory's keyword arguments are the keys of `config.optimizer`; `schedule` is
one of `lr_schedules`.
"""

import fnmatch
import math
from collections.abc import Callable
from typing import Any

import jax
import optax

from sparsejax.components import trees
from sparsejax.training import lr_schedules

Schedule = Callable[[lr_schedules.ScheduleArgs], optax.Schedule]


def sgd(
  *,
  learning_rate: float,
  momentum: float = 0.9,
  nesterov: bool = True,
  weight_decay: float = 0.0,
  undecayed: tuple[str, ...] = (),
  schedule: Schedule = lr_schedules.cosine,
  warmup_steps: int = 0,
  drop_at: tuple[float, ...] = (0.5, 0.75),
  drop_factor: float = 0.1,
  total_steps: int,
  steps_per_epoch: int,
) -> optax.GradientTransformation:
  """SGD with momentum and coupled weight decay, as in PyTorch.

  Weight decay is added to the gradient before momentum, and the learning rate
  scales the result, so that a change of the learning rate acts immediately.

  Args:
    learning_rate: peak of the learning rate, above 0.
    momentum: in [0, 1).
    nesterov: whether to use Nesterov momentum.
    weight_decay: L2 coefficient, at least 0.
    undecayed: globs for the names of parameters without weight decay, such as
      `*norm*`.
    schedule: learning-rate schedule.
    warmup_steps: steps of warmup.
    drop_at: fractions of the run at which the schedule "drops" drops.
    drop_factor: factor of each drop.
    total_steps: steps in the run.
    steps_per_epoch: steps per epoch.

  Returns:
    The transformation.

  Raises:
    ValueError: if an argument is out of range.
  """
  _check("momentum", momentum, 0.0, 1.0)
  _check("weight_decay", weight_decay, 0.0, math.inf)
  learning_rates = learning_rate_schedule(
    learning_rate=learning_rate,
    schedule=schedule,
    warmup_steps=warmup_steps,
    drop_at=drop_at,
    drop_factor=drop_factor,
    total_steps=total_steps,
    steps_per_epoch=steps_per_epoch,
  )
  return optax.chain(
    optax.add_decayed_weights(weight_decay, _all_but(undecayed)),
    optax.trace(momentum, nesterov),
    optax.scale_by_learning_rate(learning_rates),
  )


def adamw(
  *,
  learning_rate: float,
  b1: float = 0.9,
  b2: float = 0.999,
  weight_decay: float = 1e-4,
  undecayed: tuple[str, ...] = (),
  schedule: Schedule = lr_schedules.cosine,
  warmup_steps: int = 0,
  drop_at: tuple[float, ...] = (0.5, 0.75),
  drop_factor: float = 0.1,
  total_steps: int,
  steps_per_epoch: int,
) -> optax.GradientTransformation:
  """Adam with decoupled weight decay.

  Args:
    learning_rate: peak of the learning rate, above 0.
    b1: decay rate of the first moment, in [0, 1).
    b2: decay rate of the second moment, in [0, 1).
    weight_decay: coefficient, multiplied by the learning rate; at least 0.
    undecayed: globs for the names of parameters without weight decay, such as
      `*norm*`.
    schedule: learning-rate schedule.
    warmup_steps: steps of warmup.
    drop_at: fractions of the run at which the schedule "drops" drops.
    drop_factor: factor of each drop.
    total_steps: steps in the run.
    steps_per_epoch: steps per epoch.

  Returns:
    The transformation.

  Raises:
    ValueError: if an argument is out of range.
  """
  _check("b1", b1, 0.0, 1.0)
  _check("b2", b2, 0.0, 1.0)
  _check("weight_decay", weight_decay, 0.0, math.inf)
  learning_rates = learning_rate_schedule(
    learning_rate=learning_rate,
    schedule=schedule,
    warmup_steps=warmup_steps,
    drop_at=drop_at,
    drop_factor=drop_factor,
    total_steps=total_steps,
    steps_per_epoch=steps_per_epoch,
  )
  return optax.adamw(
    learning_rates,
    b1=b1,
    b2=b2,
    weight_decay=weight_decay,
    mask=_all_but(undecayed),
  )


def learning_rate_schedule(
  *,
  learning_rate: float,
  schedule: Schedule = lr_schedules.cosine,
  warmup_steps: int = 0,
  drop_at: tuple[float, ...] = (0.5, 0.75),
  drop_factor: float = 0.1,
  total_steps: int,
  steps_per_epoch: int,
  **others: Any,
) -> optax.Schedule:
  """Check the arguments of an optimizer and build its learning-rate schedule.

  Args:
    learning_rate: peak of the learning rate, above 0.
    schedule: learning-rate schedule.
    warmup_steps: steps of warmup.
    drop_at: fractions of the run at which the schedule "drops" drops.
    drop_factor: factor of each drop.
    total_steps: steps in the run.
    steps_per_epoch: steps per epoch.
    **others: other arguments of the optimizer, ignored.

  Returns:
    Completed steps -> learning rate.

  Raises:
    ValueError: if an argument is out of range.
  """
  del others
  args = lr_schedules.ScheduleArgs(
    learning_rate,
    warmup_steps,
    total_steps,
    steps_per_epoch,
    drop_at,
    drop_factor,
  )
  lr_schedules.check(args)
  return schedule(args)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  "sgd": sgd,
  "adamw": adamw,
}


def _all_but(globs: tuple[str, ...]) -> Callable[[Any], Any] | None:
  """Returns a weight-decay mask for optax; `None` decays all leaves."""
  if not globs:
    return None

  def decayed(params: Any) -> Any:
    names = [name for name, _ in trees.named_leaves(params)]
    for glob in globs:
      if names and not fnmatch.filter(names, glob):
        raise ValueError(
          f"The glob {glob!r} in `undecayed` matches no parameter."
          " Parameters: " + ", ".join(names) + "."
        )
    chosen = [
      not any(fnmatch.fnmatchcase(name, glob) for glob in globs)
      for name in names
    ]
    return jax.tree.unflatten(jax.tree.structure(params), chosen)

  return decayed


def _check(name: str, value: float, low: float, high: float) -> None:
  if not low <= value < high:
    raise ValueError(f"`{name}` must be in [{low}, {high}), got {value}.")
