"""Where a process starts: the state of a checkpoint, or a new one."""

import functools
import pathlib
import time
from typing import NamedTuple

from jax.sharding import Mesh

from sparsejax.training import dispatched, initial_state, replicas
from sparsejax.training.checkpointing import checkpoints, run_checkpoints
from sparsejax.training.config.experiment import Experiment
from sparsejax.training.dispatched import Dispatched
from sparsejax.training.reporting import timing, workdirs
from sparsejax.training.reporting.reporter import Reporter
from sparsejax.training.train_state import TrainState


class Start(NamedTuple):
  """The first state of this process.

  Attributes:
    state: restored or new.
    resumed_from_step: its completed steps; `None` if it is new.
    seconds: time spent compiling what creates it.
    unfinished: if a signal interrupted an evaluation, the dispatch before it,
      which is to be finished.
  """

  state: TrainState
  resumed_from_step: int | None
  seconds: float
  unfinished: Dispatched | None = None

  @property
  def written(self) -> int:
    """The last step whose row was written."""
    step = self.resumed_from_step or 0
    return step if self.unfinished is None else step - 1


def restore(
  abstract: TrainState,
  saved: checkpoints.Checkpoints,
  *,
  reporter: Reporter,
  clock: timing.Clock,
) -> Start | None:
  """Restores the newest checkpoint, if there is one."""
  with clock.phase("restore"):
    restored = saved.restore_newest(abstract)
  if restored is None:
    return None
  for line in restored.skipped:
    reporter.message(f"warning: {line}")
  reporter.message(f"Resuming from step {restored.step}.")
  unfinished = None
  if restored.unfinished is not None:
    unfinished = dispatched.resumed(
      restored.state, restored.step, restored.unfinished
    )
  return Start(restored.state, restored.step, 0.0, unfinished)


def create(
  experiment: Experiment,
  workdir: pathlib.Path,
  mesh: Mesh,
  *,
  clock: timing.Clock,
) -> Start:
  """Creates the state at step 0; most of that time is compiling."""
  started = time.perf_counter()
  with clock.phase("compile"):
    state = replicas.stack(
      [
        initial_state.create(
          each,
          mesh,
          save_weights=functools.partial(
            run_checkpoints.save_weights, each, folder, 0
          ),
        )
        for each, folder in workdirs.of_each(experiment, workdir)
      ]
    )
  return Start(state, None, time.perf_counter() - started)
