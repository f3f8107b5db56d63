"""What a run saves: its states, weights for later runs, and those of seeds."""

import contextlib
import json
import pathlib
from collections.abc import Mapping, Sequence

from sparsejax.training import initial_state, outcomes, replicas
from sparsejax.training.checkpointing import best, checkpoints, weights
from sparsejax.training.config.experiment import Experiment
from sparsejax.training.reporting import workdirs
from sparsejax.training.reporting.run_records import Rows
from sparsejax.training.train_state import TrainState, Weights


def open(
  experiment: Experiment,
  workdir: pathlib.Path,
  abstract: TrainState,
  *,
  keep_all: bool = False,
) -> checkpoints.Checkpoints:
  """Opens the checkpoints of a run; of a state like `abstract`."""
  split = "test" if experiment.dataset.validation is None else "validation"
  measure = experiment.dataset.task.measures[0]
  return checkpoints.open(
    workdir,
    fingerprint=json.dumps(experiment.config, sort_keys=True),
    sparse_leaves=initial_state.sparse_leaves(abstract),
    best_metric=f"{split}_{measure.name}",
    lowest=not measure.higher_is_better,
    keep_all=keep_all,
  )


def recorded(
  evaluations: Sequence[Mapping[str, float]], rows: Sequence[Rows]
) -> dict[str, float]:
  """Returns what is recorded with a checkpoint: means over the replicas."""
  return replicas.mean_row(
    [
      {**found, best.ACTIVE: each[-1]["active"]}
      for found, each in zip(evaluations, rows, strict=True)
    ]
  )


def save_weights(
  experiment: Experiment, workdir: pathlib.Path, step: int, network: Weights
) -> None:
  """Saves the weights of a step for later runs, if configured."""
  if step in experiment.steps.kept:
    weights.save(workdir, step, network, config=experiment.config)


def save_weights_of_each(
  experiment: Experiment, workdir: pathlib.Path, step: int, state: TrainState
) -> None:
  """Saves the weights of each replica, if the step is one of those kept."""
  if step not in experiment.steps.kept:
    return
  states = replicas.split_state(state, experiment.setup.replicas)
  found = workdirs.of_each(experiment, workdir)
  for (each, folder), own in zip(found, states, strict=True):
    network = Weights(own.params, own.model_state)
    save_weights(each, folder, step, network)


def save_seeds(
  experiment: Experiment,
  workdir: pathlib.Path,
  outcome: outcomes.Outcome,
  of_one: TrainState,
) -> None:
  """Save the last state of each of several replicas as that of a run.

  So later runs and exports read a replica as they read any run.

  Args:
    experiment: what was trained.
    workdir: of the run.
    outcome: of a run that is done.
    of_one: shapes of the state of one replica.
  """
  if not experiment.of_seeds:
    return
  found = workdirs.of_each(experiment, workdir)
  for (each, folder), own in zip(found, outcomes.of_each(outcome), strict=True):
    assert own.selected is not None
    with contextlib.closing(open(each, folder, of_one)) as saved:
      saved.save(own.step, own.state, metrics=own.selected.evaluation)
