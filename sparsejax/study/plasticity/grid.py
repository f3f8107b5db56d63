"""Train the runs and the branches of a grid that have no record yet."""

import contextlib
import itertools
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from sparsejax.data import Dataset
from sparsejax.plots import records
from sparsejax.study.plasticity import lab as labs, protocol as protocols
from sparsejax.study.plasticity.protocol import Branch, Protocol
from sparsejax.training import (
  initial_state,
  outcomes,
  preemption,
  session,
  workdir_lock,
)
from sparsejax.training.checkpointing import checkpoints, run_checkpoints
from sparsejax.training.config import build
from sparsejax.training.config.experiment import Experiment
from sparsejax.training.reporting import results, workdirs
from sparsejax.training.reporting.reporter import Reporter
from sparsejax.training.train_state import TrainState

_UNFINISHED = "unfinished"
# A branch that trains for longer is saved after each such interval.
_SAVE_SECONDS = 120.0
_STOPPED = "Stopped by a signal after saving. Run the same command to resume."


class Grid(NamedTuple):
  """What is constant while a grid is trained.

  Attributes:
    folder: the grid's folder, absolute.
    experiments: sparsity -> the run that is pruned.
    lab: compiled programs.
    lock: of the folder.
    stop: checked after each dispatch.
    reporter: where progress is reported, in steps of the grid.
  """

  folder: pathlib.Path
  experiments: dict[float, Experiment]
  lab: labs.Lab
  lock: workdir_lock.Lock
  stop: preemption.StopRequest
  reporter: Reporter

  @property
  def protocol(self) -> Protocol:
    """The protocol."""
    return self.lab.protocol


class Stopped(Exception):
  """The grid ended before its last branch.

  Attributes:
    status: the exit status.
  """

  def __init__(self, status: int, message: str):
    super().__init__(message)
    self.status = status


def experiment(
  config: ConfigDict,
  sparsity: float,
  data: Dataset | None = None,
  *,
  wrap: Callable[[Any], Any] = lambda inner: inner,
) -> Experiment:
  """Build the run of one sparsity, whose random masks never change.

  Args:
    config: of the grid, without its section `plasticity`; the method is static.
    sparsity: in [0, 1).
    data: the data set; the config's by default.
    wrap: changes the optimizer.
  """
  changed: Any = config.copy_and_resolve_references().unlock()
  changed.method.sparsity = sparsity
  return build.build(changed, data, wrap=wrap)


def run_folder(folder: pathlib.Path, sparsity: float) -> pathlib.Path:
  """Returns the workdir of the run of one sparsity."""
  return folder / f"run_{sparsity:g}"


def branches(protocol: Protocol) -> list[Branch]:
  """Returns all branches of a grid, in the order in which they are trained."""
  return [
    branch
    for sparsity in protocol.sparsities
    for branch in protocols.branches(protocol, sparsity)
  ]


def steps(protocol: Protocol, of: list[Branch]) -> int:
  """Returns the number of steps that some branches train."""
  return sum(protocols.last_step(protocol, b) - b.step for b in of)


def finished(folder: pathlib.Path) -> set[Branch]:
  """Returns the branches with a record."""
  return {branch_of(row) for row in records.read_branches(folder)}


def train(grid: Grid) -> None:
  """Train what is missing, and record every branch as it ends.

  Raises:
    Stopped: after a signal, or if a run is not finite.
    CheckpointError: if a state could not be saved or restored.
  """
  _rewrite(grid.folder)
  done, counted = finished(grid.folder), 0
  for sparsity in grid.protocol.sparsities:
    reference = _train_run(grid, sparsity, counted)
    counted += grid.protocol.total_steps
    of_run = list(protocols.branches(grid.protocol, sparsity))
    missing = [branch for branch in of_run if branch not in done]
    counted += steps(grid.protocol, [b for b in of_run if b in done])
    if missing:
      _train_branches(grid, sparsity, missing, reference, counted)
      counted += steps(grid.protocol, missing)


def _train_run(grid: Grid, sparsity: float, counted: int) -> float:
  """Trains the run of one sparsity; returns its final test accuracy."""
  of_run = grid.experiments[sparsity]
  workdir = run_folder(grid.folder, sparsity)
  workdir.mkdir(exist_ok=True)
  workdirs.claim(workdir, of_run.config)
  summary = records.read_summary(workdir)
  if summary is None:
    values = {"branch": f"run at sparsity {sparsity:g}"}
    outcome = session.run(
      of_run,
      workdir,
      stop=grid.stop,
      reporter=Reporter(
        message=lambda text: None,
        progress=lambda step, row: grid.reporter.progress(
          counted + step, {**values, **row}
        ),
      ),
      lock=grid.lock,
      keep_checkpoints=True,
      compile=lambda setup, dataset, state, mesh, **options: grid.lab.compiled(
        protocols.FINAL_GAP, state
      ),
    )
    if outcome.status != outcomes.DONE:
      raise Stopped(outcome.status, outcome.message)
    summary = results.summarize(of_run, outcome)
    workdirs.write_json(workdir / workdirs.SUMMARY, summary)
  return summary["test_accuracy"]


def _train_branches(
  grid: Grid,
  sparsity: float,
  missing: list[Branch],
  reference: float,
  counted: int,
) -> None:
  """Trains branches of one run, whose checkpoints are read once per step."""
  opened = run_checkpoints.open(
    grid.experiments[sparsity],
    run_folder(grid.folder, sparsity),
    grid.lab.abstract,
    keep_all=True,
  )
  with contextlib.closing(opened) as saved:
    for step, group in itertools.groupby(missing, lambda b: b.step):
      origin = grid.lab.origin(saved.restore(step, grid.lab.abstract))
      for branch in group:
        row = _follow(grid, branch, origin, reference, counted)
        _append(grid.folder, row)
        shutil.rmtree(grid.folder / _UNFINISHED, ignore_errors=True)
        counted += steps(grid.protocol, [branch])


def _follow(
  grid: Grid,
  branch: Branch,
  origin: labs.Origin,
  reference: float,
  counted: int,
) -> dict[str, Any]:
  """Prunes, trains on, and returns the record of a branch."""
  lab, protocol = grid.lab, grid.protocol
  first = lab.begin(branch, origin)
  pruned, active = lab.test(first)["test_accuracy"], labs.active(first)
  state = _train_on(grid, branch, first, counted)
  found = lab.test(state)
  if branch.measure == protocols.PLASTICITY:
    reference = origin.accuracy
  accuracy = found["test_accuracy"]
  per_epoch = lab.experiment.steps.per_epoch
  return {
    **branch._asdict(),
    "epoch": branch.step / per_epoch,
    "trained_epochs": steps(protocol, [branch]) / per_epoch,
    "accuracy": accuracy,
    "reference_accuracy": reference,
    "difference": accuracy - reference,
    "pruned_accuracy": pruned,
    "loss": found["test_loss"],
    "active": active,
    "active_before": labs.active(origin.state),
    "total": sum(lab.experiment.costs.kernel_sizes),
  }


def _train_on(
  grid: Grid, branch: Branch, state: TrainState, counted: int
) -> TrainState:
  """Trains a branch to its last step, from where it was stopped if it was."""
  lab, last = grid.lab, protocols.last_step(grid.protocol, branch)
  folder = grid.folder / _UNFINISHED / _name(branch)
  if folder.exists():
    with contextlib.closing(_open(grid, branch, folder)) as saved:
      restored = saved.restore_newest(lab.abstract)
    state = state if restored is None else restored.state
  compiled = lab.compiled(branch.measure, state)
  step, saved_at = int(state.step), time.monotonic()
  while step < last:
    with jax.transfer_guard("disallow"):
      state, _ = jax.block_until_ready(compiled.train(state))
    step = int(state.step)
    grid.lock.check()
    stopping = grid.stop.agreed()
    late = time.monotonic() - saved_at > _SAVE_SECONDS
    if step < last and (stopping or late):
      with contextlib.closing(_open(grid, branch, folder)) as saved:
        saved.save(step, state, metrics={})
      saved_at = time.monotonic()
    grid.reporter.progress(
      counted + step - branch.step, {"branch": _title(grid, branch)}
    )
    if stopping and step < last:
      raise Stopped(outcomes.TERMINATED, _STOPPED)
  return state


def _open(
  grid: Grid, branch: Branch, folder: pathlib.Path
) -> checkpoints.Checkpoints:
  """Opens the checkpoints of an unfinished branch."""
  of_run = grid.experiments[branch.sparsity]
  identity = {"config": of_run.config, "branch": branch._asdict()}
  return checkpoints.open(
    folder,
    fingerprint=json.dumps(identity, sort_keys=True),
    sparse_leaves=initial_state.sparse_leaves(grid.lab.abstract),
    best_metric=None,
  )


def _title(grid: Grid, branch: Branch) -> str:
  epoch = branch.step / grid.lab.experiment.steps.per_epoch
  regrown = " regrown" if branch.regrow else ""
  return f"{branch.sparsity:g} at {epoch:g} by {branch.rate:g}{regrown}"


def _name(branch: Branch) -> str:
  return "-".join(map(str, branch))


def branch_of(row: Mapping[str, Any]) -> Branch:
  """Returns the branch of a record."""
  return Branch(*(row[name] for name in Branch._fields))


def _rewrite(folder: pathlib.Path) -> None:
  """Removes what a killed process left at the end of the records."""
  rows = records.read_branches(folder)
  workdirs.write_text(folder / records.BRANCHES, "".join(map(_line, rows)))


def _append(folder: pathlib.Path, row: Mapping[str, Any]) -> None:
  """Adds a record; on disk when this returns."""
  with open(folder / records.BRANCHES, "a", encoding="utf-8") as file:
    file.write(_line(row))
    file.flush()
    os.fsync(file.fileno())


def _line(row: Mapping[str, Any]) -> str:
  return json.dumps(workdirs.strict(row)) + "\n"
