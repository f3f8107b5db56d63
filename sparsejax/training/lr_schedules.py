"""Learning rates over a run, by the names that a config may give.

A factory takes the `Course` of a run and returns step -> rate, where the first
step has number 0.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class Course(NamedTuple):
  """What a learning rate may follow.

  Attributes:
    peak: the highest rate, above 0.
    warmup_steps: steps of the warm-up, fewer than the run has.
    total_steps: steps of the run.
    steps_per_epoch: steps of an epoch.
    drop_at: shares of the run at which the rate drops, ascending in (0, 1).
    drop_factor: what a drop multiplies the rate by, in (0, 1].
  """

  peak: float
  warmup_steps: int
  total_steps: int
  steps_per_epoch: int
  drop_at: tuple[float, ...]
  drop_factor: float


def check(course: Course) -> None:
  """Raises ValueError for a course that no run can take."""
  if not 0 < course.peak < math.inf:
    raise ValueError(f"`learning_rate` must be in (0, inf), got {course.peak}.")
  if not 0 <= course.warmup_steps < course.total_steps:
    raise ValueError(
      f"`warmup_steps` must be in [0, {course.total_steps}), the steps of the"
      f" run, got {course.warmup_steps}."
    )
  if list(course.drop_at) != sorted({s for s in course.drop_at if 0 < s < 1}):
    raise ValueError(
      "`drop_at` must hold shares of the run in (0, 1), ascending, got"
      f" {course.drop_at}. The half of a run is 0.5."
    )
  if not 0 < course.drop_factor <= 1:
    raise ValueError(
      f"`drop_factor` must be in (0, 1], got {course.drop_factor}."
    )


def cosine(course: Course) -> optax.Schedule:
  """A line from 0 to the peak, then a half cosine to 0 at the last step.

  Args:
    course: `drop_at` and `drop_factor` are not used.

  Returns:
    Step -> rate, new at every step.
  """
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0 if course.warmup_steps else course.peak,
    peak_value=course.peak,
    warmup_steps=course.warmup_steps,
    decay_steps=course.total_steps,
  )


def epoch_cosine(course: Course) -> optax.Schedule:
  """A half cosine over all epochs k, its first ones replaced by a warm-up.

  peak (k + 1) / W in the W epochs of the warm-up, which reach the peak in the
  last of them, then peak (1 + cos(pi k / epochs)) / 2.

  Args:
    course: `drop_at` and `drop_factor` are not used.

  Returns:
    Step -> rate, new at every epoch.

  References:
    OptG's code.
  """
  warmup = _in_epochs(course, course.warmup_steps)
  epochs = _in_epochs(course, course.total_steps)

  def rate(step: jax.typing.ArrayLike) -> jax.Array:
    epoch = jnp.floor_divide(step, course.steps_per_epoch)
    decayed = 0.5 * (1 + jnp.cos(jnp.pi * epoch / epochs))
    rising = (epoch + 1) / max(warmup, 1)
    return course.peak * jnp.where(epoch < warmup, rising, decayed)

  return rate


def drops(course: Course) -> optax.Schedule:
  """A constant that drops at some shares of the run.

  A warm-up of W epochs k before has the rates peak (k + 1) / (W + 1), so that
  the peak is reached in the epoch after it.

  Args:
    course: no `drop_at` makes the rate constant.

  Returns:
    Step -> rate.

  References:
    GraNet's code: 80 and 120 of 160 epochs on CIFAR; 30, 60 and 90 of 100 on
    ImageNet, after 5 epochs of warm-up.
  """
  warmup = _in_epochs(course, course.warmup_steps)
  bounds = [round(share * course.total_steps) for share in course.drop_at]

  def rate(step: jax.typing.ArrayLike) -> jax.Array:
    epoch = jnp.floor_divide(step, course.steps_per_epoch)
    passed = sum(jnp.greater_equal(step, bound) for bound in bounds)
    rising = jnp.minimum((epoch + 1) / (warmup + 1), 1)
    return course.peak * rising * course.drop_factor ** jnp.float32(passed)

  return rate


SCHEDULES: dict[str, Callable[[Course], optax.Schedule]] = {
  "cosine": cosine,
  "epoch_cosine": epoch_cosine,
  "drops": drops,
}


def _in_epochs(course: Course, steps: int) -> int:
  return round(steps / course.steps_per_epoch)
