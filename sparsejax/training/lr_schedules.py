"""Learning-rate schedules, by the names that a config may use.

A factory takes `ScheduleArgs` and returns an optax schedule: step -> learning
rate, where the first step is step 0.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class ScheduleArgs(NamedTuple):
  """Arguments of a schedule.

  Attributes:
    peak: the highest learning rate, above 0.
    warmup_steps: steps of warmup, below `total_steps`.
    total_steps: steps in the run.
    steps_per_epoch: steps per epoch.
    drop_at: fractions of the run at which the rate drops, ascending in (0, 1).
    drop_factor: factor of each drop, in (0, 1].
  """

  peak: float
  warmup_steps: int
  total_steps: int
  steps_per_epoch: int
  drop_at: tuple[float, ...]
  drop_factor: float


def check(args: ScheduleArgs) -> None:
  """Raises ValueError if an argument is out of range."""
  if not 0 < args.peak < math.inf:
    raise ValueError(f"`learning_rate` must be in (0, inf), got {args.peak}.")
  if not 0 <= args.warmup_steps < args.total_steps:
    raise ValueError(
      f"`warmup_steps` must be in [0, {args.total_steps}), the steps of the"
      f" run, got {args.warmup_steps}."
    )
  if list(args.drop_at) != sorted({x for x in args.drop_at if 0 < x < 1}):
    raise ValueError(
      "`drop_at` must hold ascending fractions of the run in (0, 1), got"
      f" {args.drop_at}. Half of the run is 0.5."
    )
  if not 0 < args.drop_factor <= 1:
    raise ValueError(
      f"`drop_factor` must be in (0, 1], got {args.drop_factor}."
    )


def cosine(args: ScheduleArgs) -> optax.Schedule:
  """Linear warmup to the peak, then a half cosine to 0 at the last step.

  Args:
    args: `drop_at` and `drop_factor` are ignored.

  Returns:
    Step -> learning rate, changing at every step.
  """
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0 if args.warmup_steps else args.peak,
    peak_value=args.peak,
    warmup_steps=args.warmup_steps,
    decay_steps=args.total_steps,
  )


def epoch_cosine(args: ScheduleArgs) -> optax.Schedule:
  """A half cosine over the epochs k, with warmup in place of the first W.

  During warmup, peak (k + 1) / W, which reaches the peak in its last epoch;
  then peak (1 + cos(pi k / epochs)) / 2.

  Args:
    args: `drop_at` and `drop_factor` are ignored.

  Returns:
    Step -> learning rate, changing at every epoch.

  References:
    OptG's code.
  """
  warmup = _epochs(args, args.warmup_steps)
  epochs = _epochs(args, args.total_steps)

  def schedule(step: jax.typing.ArrayLike) -> jax.Array:
    epoch = jnp.floor_divide(step, args.steps_per_epoch)
    decayed = 0.5 * (1 + jnp.cos(jnp.pi * epoch / epochs))
    rising = (epoch + 1) / max(warmup, 1)
    return args.peak * jnp.where(epoch < warmup, rising, decayed)

  return schedule


def drops(args: ScheduleArgs) -> optax.Schedule:
  """Step decay: a constant that drops at some fractions of the run.

  In the epochs k of a warmup of W epochs, the rate is peak (k + 1) / (W + 1),
  so it reaches the peak in the first epoch after the warmup.

  Args:
    args: an empty `drop_at` gives a constant.

  Returns:
    Step -> learning rate.

  References:
    GraNet's code: 80 and 120 of 160 epochs on CIFAR; 30, 60 and 90 of 100 on
    ImageNet, after 5 epochs of warmup.
  """
  warmup = _epochs(args, args.warmup_steps)
  bounds = [round(fraction * args.total_steps) for fraction in args.drop_at]

  def schedule(step: jax.typing.ArrayLike) -> jax.Array:
    epoch = jnp.floor_divide(step, args.steps_per_epoch)
    passed = sum(jnp.greater_equal(step, bound) for bound in bounds)
    rising = jnp.minimum((epoch + 1) / (warmup + 1), 1)
    return args.peak * rising * args.drop_factor ** jnp.float32(passed)

  return schedule


SCHEDULES: dict[str, Callable[[ScheduleArgs], optax.Schedule]] = {
  "cosine": cosine,
  "epoch_cosine": epoch_cosine,
  "drops": drops,
}


def _epochs(args: ScheduleArgs, steps: int) -> int:
  return round(steps / args.steps_per_epoch)
