"""Schedules: sparsity by update index, fractions by step, and due steps.

Sparsities are known before the run, so they are computed on the host in
float64, one for each update. Fractions are functions of the step on the device,
called in float64.
"""

import dataclasses
import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from sparsejax.components import arguments, counts
from sparsejax.method import Curve, Fraction, SparsitySchedule, described

# Sparsities and counts are computed before the run: these take half a minute.
_MOST_UPDATES = 100_000

FOREVER = counts.INT32_MAX
"""A step that no run reaches."""


@dataclasses.dataclass(frozen=True)
class Every:
  """Due at the multiples of `every_steps` in (begin_step, until].

  Attributes:
    every_steps: the interval, at least 1 optimizer step.
    until: the last step at which something may be due.
    begin_step: nothing is due at or before it, except step 0 with `at_zero`.
    at_zero: whether step 0 is due as well (RigL's own order).
  """

  every_steps: int
  until: int
  begin_step: int = 0
  at_zero: bool = False

  def __post_init__(self) -> None:
    """Raises ValueError for numbers out of range."""
    arguments.check_steps("every_steps", self.every_steps)
    arguments.check_steps("begin_step", self.begin_step, least=0)

  def __call__(self, step: Int[Array, ""]) -> Int[Array, ""]:
    """Returns the latest due step up to `step`, -1 where there was none."""
    latest = _intervals(jnp.minimum(step, int(self.until)), self.every_steps)
    latest *= int(self.every_steps)
    first = 0 if self.at_zero else int(self.begin_step) + 1
    return jnp.where(latest >= first, latest, -1)


def constant_sparsity(
  sparsity: float | None, *, every_steps: int
) -> SparsitySchedule:
  """A constant sparsity whose weights compete again to the end of the run.

  It is in [0, 1), or None where a distribution or a pattern sets it. The
  interval is at least 1 optimizer step.
  """
  if sparsity is not None:
    arguments.check_sparsity(sparsity)
    sparsity = float(sparsity)
  when = Every(every_steps, until=FOREVER)
  return SparsitySchedule((sparsity,), jnp.zeros_like, when)


def ramp(
  initial_sparsity: float,
  sparsity: float,
  *,
  curve: Curve | None = None,
  begin_step: int = 0,
  end_step: int,
  every_steps: int,
  until: int | None = None,
  reach_target: bool = True,
) -> SparsitySchedule:
  """A sparsity that rises along a curve.

  The update index is `t // every - begin // every`, and n the last one within
  `end_step`; where no multiple of the interval lies in between, there is one
  update at `end_step`.

  Args:
    initial_sparsity: sparsity before the first update, in [0, 1).
    sparsity: where the curve leads, in [0, 1).
    curve: (i, n) -> fraction of the way; `cubic_curve` where it is None.
    begin_step: no update at or before this step.
    end_step: the sparsity rises until this step.
    every_steps: interval of the updates.
    until: the last step at which the weights compete again, also at the final
      sparsity; `end_step` where it is None.
    reach_target: whether the last update reaches `sparsity` itself where the
      curve ends below it.

  Raises:
    ValueError: if a number is out of its range, or the sparsity would fall.
  """
  arguments.check_sparsity(initial_sparsity, "initial_sparsity")
  arguments.check_sparsity(sparsity)
  arguments.check_steps("end_step", end_step)
  arguments.check_steps("every_steps", every_steps)
  arguments.check_steps("begin_step", begin_step, least=0)
  if initial_sparsity > sparsity:
    raise ValueError(
      "`initial_sparsity` must not exceed `sparsity`, got"
      f" {initial_sparsity} > {sparsity}. A schedule only prunes."
    )
  if begin_step >= end_step:
    raise ValueError(
      f"`begin_step` must be below `end_step`, got {begin_step} >= {end_step}."
    )
  initial, final = float(initial_sparsity), float(sparsity)
  curve = cubic_curve if curve is None else curve
  if not callable(curve):
    raise ValueError(
      "`curve` must be a function such as sparsejax.cubic_curve, got"
      f" {described(curve)}."
    )
  first = begin_step // every_steps
  last_index = end_step // every_steps - first
  n = max(1, last_index)
  if n > _MOST_UPDATES:
    raise ValueError(
      f"`every_steps` of {every_steps} makes {n} updates until `end_step`, more"
      f" than {_MOST_UPDATES}. Raise `every_steps`, or lower `end_step`."
    )
  rising = [initial + (final - initial) * curve(i, n) for i in range(1, n + 1)]
  if reach_target:
    rising[-1] = final

  def index(step: Int[Array, ""]) -> Int[Array, ""]:
    if last_index < 1:
      return (step >= end_step).astype(jnp.int32)
    return jnp.clip(_intervals(step, every_steps) - first, 0, last_index)

  when = Every(every_steps, until or end_step, begin_step)
  if last_index < 1 and until is None:
    when = Every(end_step, until=end_step)
  return SparsitySchedule((initial, *rising), index, when)


def cubic_curve(i: int, n: int) -> float:
  """Rises fast, then slowly: `1 - (1 - i/n)^3`.

  References:
    Zhu & Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_,
    2017, equation 1.
  """
  return 1 - (1 - i / n) ** 3


def linear_curve(i: int, n: int) -> float:
  """Rises by the same amount at every update: `i / n`."""
  return i / n


@functools.cache
def sigmoid_curve(alpha: float = 0.5, centre: float | None = None) -> Curve:
  """Rises in the middle: `1 / (1 + exp(-alpha (i - n/2)))`.

  Args:
    alpha: steepness per update, above 0.
    centre: the update at half of the way, n/2 where None.

  References:
    Zhang et al., OptG, 2022, equation 16.
  """
  if alpha <= 0:
    raise ValueError(f"`alpha` must be above 0, got {alpha}.")

  def curve(i: int, n: int) -> float:
    middle = n / 2 if centre is None else centre
    return 1 / (1 + math.exp(-alpha * (i - middle)))

  return curve


def constant(value: float) -> Fraction:
  """The same fraction at every step."""
  arguments.check_fraction(value, "regrow_fraction")
  return lambda step: jnp.full_like(step, value)


def cosine(initial: float, total_steps: int, final: float = 0.0) -> Fraction:
  """Falls along half a cosine: `f + (r - f) (1 + cos(pi t / T)) / 2`.

  Args:
    initial: fraction at step 0, in [0, 1].
    total_steps: T, the step from which the fraction is `final`.
    final: fraction from T on, in [0, 1].
  """
  arguments.check_fraction(initial, "regrow_fraction")
  arguments.check_fraction(final, "final_regrow_fraction")
  arguments.check_steps("total_steps", total_steps)

  def fraction(step):
    done = jnp.minimum(step / total_steps, 1.0)
    return final + (initial - final) * ((1 + jnp.cos(jnp.pi * done)) / 2)

  return fraction


def _intervals(step: Int[Array, ""], every_steps: int) -> Int[Array, ""]:
  """Returns how many whole intervals have passed; for steps from 0 on."""
  return lax.div(jnp.asarray(step, jnp.int32), np.int32(every_steps))
