"""When things happen in a run: durations of a config, in steps."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sparsejax import command_line
from sparsejax.training import sharding
from sparsejax.training.config import durations


class Steps(NamedTuple):
  """When things happen, in steps of the trainer.

  Attributes:
    total: steps of the run.
    per_epoch: steps of an epoch; the last partial batch is dropped.
    dispatch: steps per dispatch, after which the host looks at the device.
    log_every: interval of metrics lines.
    eval_every: interval of evaluations, at the end of a dispatch.
    checkpoint_every: interval of checkpoints, at the end of a dispatch.
    kept: steps whose weights are kept for later runs.
  """

  total: int
  per_epoch: int
  dispatch: int
  log_every: int
  eval_every: int
  checkpoint_every: int
  kept: tuple[int, ...]


def steps(config: Mapping[str, Any], examples: int) -> Steps:
  """Convert the durations of a config to steps.

  Args:
    config: resolved and extended.
    examples: number of training examples.

  Returns:
    The steps; `kept` is empty until `with_kept` sets it.

  Raises:
    InputError: if the batch size does not fit the examples or the devices.
  """
  _check_batch_size(config, examples)
  per_epoch = examples // config["batch_size"]

  def in_steps(key: str) -> int:
    return durations.to_steps(f"config.{key}", config[key], per_epoch)

  total = in_steps("epochs")
  return Steps(
    total=total,
    per_epoch=per_epoch,
    dispatch=min(config["dispatch_steps"], total),
    log_every=config["log_every_steps"],
    eval_every=in_steps("eval_every_epochs"),
    checkpoint_every=in_steps("checkpoint_every_epochs"),
    kept=(),
  )


def extended(config: Mapping[str, Any]) -> dict[str, Any]:
  """Apply `epochs_multiplier`: extended training.

  The run is longer, and so is every part of the method and the optimizer that
  happens at a certain time. Intervals (`every_steps`) stay.

  Args:
    config: resolved and checked.

  Returns:
    The config of the extended run.
  """
  multiplier = config["epochs_multiplier"]

  def later(key: str, value: Any) -> Any:
    if isinstance(value, list):
      return [later(key, item) for item in value]
    *words, unit = key.split("_")
    if "every" in words or not isinstance(value, int | float):
      return value
    if unit == "epochs":
      return value * multiplier
    return round(value * multiplier) if unit in ("step", "steps") else value

  def section(name: str) -> dict[str, Any]:
    return {key: later(key, value) for key, value in config[name].items()}

  return {
    **config,
    "epochs": config["epochs"] * multiplier,
    "method": section("method"),
    "optimizer": section("optimizer"),
  }


def with_kept(steps: Steps, keep_steps: list[int]) -> Steps:
  """Set the steps whose weights are kept.

  Args:
    steps: as `steps` returns them.
    keep_steps: `config.keep_steps`.

  Returns:
    The final steps.

  Raises:
    InputError: if no dispatch ends at a kept step.
  """
  for step in keep_steps:
    ends = step % steps.dispatch == 0 or step == steps.total
    if not (ends and 0 <= step <= steps.total):
      raise command_line.InputError(
        f"`config.keep_steps` must hold multiples of {steps.dispatch},"
        f" `config.dispatch_steps`, up to {steps.total}, the last step, got"
        f" {step}."
      )
  return steps._replace(kept=tuple(keep_steps))


def _check_batch_size(config: Mapping[str, Any], examples: int) -> None:
  batch_size = config["batch_size"]
  devices = sharding.batch_shards(config["mesh"])
  microbatches = config["microbatches"]
  if batch_size > examples:
    raise command_line.InputError(
      f"`config.batch_size` must be at most {examples}, the number of training"
      f" examples, got {batch_size}."
    )
  if batch_size % devices:
    raise command_line.InputError(
      f"`config.batch_size` must be a multiple of {devices}, the number of"
      f" devices that share a batch, got {batch_size}."
    )
  if batch_size // devices % microbatches:
    raise command_line.InputError(
      f"`config.microbatches` must divide {batch_size // devices}, the batch"
      f" size per device, got {microbatches}."
    )
