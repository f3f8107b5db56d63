"""Dense weights of single steps, saved for runs that rewind to them."""

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from sparsejax.training import processes
from sparsejax.training.checkpointing import checkpoints, reading
from sparsejax.training.train_state import Weights

FOLDER = "weights"
"""The folder of these checkpoints in a workdir."""


def save(
  workdir: pathlib.Path,
  step: int,
  weights: Weights,
  *,
  config: Mapping[str, Any],
) -> None:
  """Save the weights of a step, unless they are already there.

  Args:
    workdir: workdir of the run.
    step: completed optimizer steps.
    weights: parameters and model state.
    config: the resolved config.

  Raises:
    CheckpointError: if they cannot be saved.
  """
  if processes.any_of(step in saved_steps(workdir)):
    return  # Saved before a resume.
  opened = checkpoints.open(
    workdir,
    fingerprint=json.dumps(config, sort_keys=True),
    sparse_leaves=(),
    keep_all=True,
    folder=FOLDER,
  )
  with contextlib.closing(opened) as saved:
    saved.save(step, weights, metrics={})


def saved_steps(workdir: pathlib.Path) -> list[int]:
  """Returns the steps whose weights a run saved, ascending."""
  return reading.saved_steps(workdir, folder=FOLDER)


def read(workdir: pathlib.Path, step: int) -> Weights:
  """Returns the weights of a step as numpy arrays.

  Raises:
    CheckpointError: if they are missing or damaged.
  """
  found = reading.read(workdir, step, folder=FOLDER)
  return Weights(found["params"], found["model_state"])
