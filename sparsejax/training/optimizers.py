"""The inner optimizers that a config can name.

A factory's keyword arguments are the keys of `config.optimizer`. `rates` has
the learning rates over a run that `schedule` can name.
"""

import fnmatch
import math
from collections.abc import Callable
from typing import Any

import jax
import optax

from sparsejax.components import trees
from sparsejax.training import lr_schedules

Schedule = Callable[[lr_schedules.Course], optax.Schedule]


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

  The decay joins the gradient before the momentum; the learning rate scales
  what leaves it, so that a change of the rate acts at once.

  Args:
    learning_rate: its peak, above 0.
    momentum: in [0, 1).
    nesterov: whether the momentum looks ahead.
    weight_decay: coefficient of L2, at least 0.
    undecayed: globs of the names of parameters without weight decay, such as
      `*norm*`.
    schedule: how the rate moves over the run.
    warmup_steps: steps of its warm-up.
    drop_at: shares of the run at which the schedule "drops" does so.
    drop_factor: what a drop multiplies the rate by.
    total_steps: steps of the run.
    steps_per_epoch: steps of an epoch.

  Returns:
    The transformation.

  Raises:
    ValueError: if a number is out of its range.
  """
  _check("momentum", momentum, 0.0, 1.0)
  _check("weight_decay", weight_decay, 0.0, math.inf)
  over_run = rate(
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
    optax.scale_by_learning_rate(over_run),
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
    learning_rate: its peak, above 0.
    b1: decay of the mean of the gradient, in [0, 1).
    b2: decay of the mean of its square, in [0, 1).
    weight_decay: share of a weight that a unit of learning rate removes.
    undecayed: globs of the names of parameters without weight decay, such as
      `*norm*`.
    schedule: how the rate moves over the run.
    warmup_steps: steps of its warm-up.
    drop_at: shares of the run at which the schedule "drops" does so.
    drop_factor: what a drop multiplies the rate by.
    total_steps: steps of the run.
    steps_per_epoch: steps of an epoch.

  Returns:
    The transformation.

  Raises:
    ValueError: if a number is out of its range.
  """
  _check("b1", b1, 0.0, 1.0)
  _check("b2", b2, 0.0, 1.0)
  _check("weight_decay", weight_decay, 0.0, math.inf)
  over_run = rate(
    learning_rate=learning_rate,
    schedule=schedule,
    warmup_steps=warmup_steps,
    drop_at=drop_at,
    drop_factor=drop_factor,
    total_steps=total_steps,
    steps_per_epoch=steps_per_epoch,
  )
  return optax.adamw(
    over_run,
    b1=b1,
    b2=b2,
    weight_decay=weight_decay,
    mask=_all_but(undecayed),
  )


def rate(
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
  """The learning rate of an optimizer with these arguments, checked.

  Args:
    learning_rate: its peak, above 0.
    schedule: how the rate moves over the run.
    warmup_steps: steps of its warm-up.
    drop_at: shares of the run at which the schedule "drops" does so.
    drop_factor: what a drop multiplies the rate by.
    total_steps: steps of the run.
    steps_per_epoch: steps of an epoch.
    **others: what else an optimizer takes; it does not matter here.

  Returns:
    Completed steps -> rate.

  Raises:
    ValueError: if a number is out of its range.
  """
  del others
  course = lr_schedules.Course(
    learning_rate,
    warmup_steps,
    total_steps,
    steps_per_epoch,
    drop_at,
    drop_factor,
  )
  lr_schedules.check(course)
  return schedule(course)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  "sgd": sgd,
  "adamw": adamw,
}


def _all_but(globs: tuple[str, ...]) -> Callable[[Any], Any] | None:
  """Returns what tells the leaves that match no glob; `None` for all leaves."""
  if not globs:
    return None

  def decayed(params: Any) -> Any:
    names = [name for name, _ in trees.named_leaves(params)]
    for glob in globs:
      if names and not fnmatch.filter(names, glob):
        raise ValueError(
          f"`undecayed` has the glob {glob!r}, which matches no parameter."
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
