"""The inner optimizers that a config can name.

A factory's keyword arguments are the keys of `config.optimizer`. All of them
warm up linearly and then follow a half cosine down to zero at the last step.
"""

import math
from collections.abc import Callable

import optax


def sgd(
  *,
  learning_rate: float,
  momentum: float = 0.9,
  nesterov: bool = True,
  weight_decay: float = 0.0,
  warmup_steps: int = 0,
  total_steps: int,
) -> optax.GradientTransformation:
  """SGD with momentum and coupled weight decay, as in PyTorch.

  The decay joins the gradient before the momentum; the learning rate scales
  what leaves it, so that a change of the rate acts at once.

  Args:
    learning_rate: its peak, above 0.
    momentum: in [0, 1).
    nesterov: whether the momentum looks ahead.
    weight_decay: coefficient of L2, at least 0.
    warmup_steps: steps until the peak.
    total_steps: steps of the run, where the rate reaches 0.

  Returns:
    The transformation.

  Raises:
    ValueError: if a number is out of its range.
  """
  _check("momentum", momentum, 0.0, 1.0)
  _check("weight_decay", weight_decay, 0.0, math.inf)
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.trace(momentum, nesterov),
    optax.scale_by_learning_rate(
      _warmup_cosine(learning_rate, warmup_steps, total_steps)
    ),
  )


def adamw(
  *,
  learning_rate: float,
  b1: float = 0.9,
  b2: float = 0.999,
  weight_decay: float = 1e-4,
  warmup_steps: int = 0,
  total_steps: int,
) -> optax.GradientTransformation:
  """Adam with decoupled weight decay.

  Args:
    learning_rate: its peak, above 0.
    b1: decay of the mean of the gradient, in [0, 1).
    b2: decay of the mean of its square, in [0, 1).
    weight_decay: share of a weight that a unit of learning rate removes.
    warmup_steps: steps until the peak.
    total_steps: steps of the run, where the rate reaches 0.

  Returns:
    The transformation.

  Raises:
    ValueError: if a number is out of its range.
  """
  _check("b1", b1, 0.0, 1.0)
  _check("b2", b2, 0.0, 1.0)
  _check("weight_decay", weight_decay, 0.0, math.inf)
  return optax.adamw(
    _warmup_cosine(learning_rate, warmup_steps, total_steps),
    b1=b1,
    b2=b2,
    weight_decay=weight_decay,
  )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  "sgd": sgd,
  "adamw": adamw,
}


def _warmup_cosine(
  peak: float, warmup_steps: int, total_steps: int
) -> optax.Schedule:
  _check("learning_rate", peak, 0.0, math.inf)
  if peak == 0:
    raise ValueError("`learning_rate` must be above 0, got 0.")
  if not 0 <= warmup_steps < total_steps:
    raise ValueError(
      f"`warmup_steps` must be in [0, {total_steps}), the steps of the run,"
      f" got {warmup_steps}."
    )
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0 if warmup_steps else peak,
    peak_value=peak,
    warmup_steps=warmup_steps,
    decay_steps=total_steps,
  )


def _check(name: str, value: float, low: float, high: float) -> None:
  if not low <= value < high:
    raise ValueError(f"`{name}` must be in [{low}, {high}), got {value}.")
