"""Durations of a config: in steps, `end_step`, or in epochs, `end_epochs`."""

from sparsejax import command_line
from sparsejax.components.counts import INT32_MAX

_UNITS = ("step", "steps", "epochs")


def is_duration(key: str) -> bool:
  """Says whether a parameter is a duration in steps."""
  return key.endswith(("_step", "_steps"))


def in_epochs(key: str) -> str:
  """Returns the key of a duration in epochs: `end_step` -> `end_epochs`."""
  return key.rpartition("_")[0] + "_epochs"


def spellings(key: str) -> tuple[str, ...]:
  """Returns the keys of the same duration; any other key alone."""
  event, _, unit = key.rpartition("_")
  if unit not in _UNITS:
    return (key,)
  return tuple(f"{event}_{unit}" for unit in _UNITS)


def to_steps(where: str, epochs: float, steps_per_epoch: int) -> int:
  """Convert a duration in epochs to steps, at least one unless it is 0.

  Args:
    where: the duration's path in the config, for messages.
    epochs: the duration, at least 0; may be a fraction.
    steps_per_epoch: steps in one epoch.

  Returns:
    The nearest number of steps.

  Raises:
    InputError: if the duration is negative, or too long to count its steps.
  """
  if not epochs >= 0:
    raise command_line.InputError(
      f"`{where}` must not be negative, got {epochs}."
    )
  if epochs * steps_per_epoch > INT32_MAX:
    raise command_line.InputError(
      f"`{where}` must be at most {INT32_MAX // steps_per_epoch}, because"
      f" steps are int32 and an epoch has {steps_per_epoch}, got {epochs}."
    )
  return max(round(epochs * steps_per_epoch), int(epochs > 0))
