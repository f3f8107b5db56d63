"""The network of a finished run, read from its workdir."""

import pathlib
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from sparsejax import command_line
from sparsejax.components import trees
from sparsejax.plots import records
from sparsejax.training import weight_layouts
from sparsejax.training.checkpointing import errors, reading
from sparsejax.training.config import build
from sparsejax.training.config.experiment import Experiment


class FinishedRun(NamedTuple):
  """A finished run.

  Attributes:
    experiment: what its config describes.
    summary: its result.
    variables: the collections of its network at the step of its result, as it
      was evaluated: numpy arrays, exact zeros at inactive weights.
    masks: masks of `variables["params"]`, `MaskedNode` at dense leaves.
  """

  experiment: Experiment
  summary: dict[str, Any]
  variables: dict[str, Any]
  masks: Any


def read(workdir: pathlib.Path, *, what: str = "RUN") -> FinishedRun:
  """Reads a finished run.

  Args:
    workdir: its workdir.
    what: how the user gave it, for messages.

  Raises:
    InputError: if it is no run, not finished, or damaged.
  """
  if not (workdir / records.CONFIG).is_file():
    raise command_line.InputError(
      f"`{what}` {workdir} is not the workdir of a run: there is no"
      f" {records.CONFIG}."
    )
  summary = records.read_summary(workdir)
  if summary is None:
    raise command_line.InputError(
      f"`{what}` {workdir} is a run that is not finished. Run its command again"
      " to finish it."
    )
  config = records.read_config(workdir)
  try:
    found = reading.read(
      workdir, summary.get("selected_step", summary["steps"])
    )
  except errors.CheckpointError as error:
    raise command_line.InputError(str(error)) from error
  experiment = build.build(ConfigDict(config).lock())
  params, masks = weight_layouts.dense_network(
    found["params"], found["opt_state"]["masks"]
  )
  if experiment.setup.ema_decay:  # It still holds values of pruned weights.
    params = jax.device_get(trees.where(masks, found["average"]))
  variables = {"params": params, **(found["model_state"] or {})}
  return FinishedRun(experiment, summary, variables, masks)
