"""The loop of a run: dispatches, and the events after each."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from sparsejax.training import (
  dispatched,
  outcomes,
  preemption,
  programs,
  starts,
  workdir_lock,
)
from sparsejax.training.checkpointing import checkpoints, run_checkpoints
from sparsejax.training.config.experiment import Experiment
from sparsejax.training.dispatched import Dispatched
from sparsejax.training.reporting import (
  dispatch_rows,
  run_records,
  timing,
)
from sparsejax.training.reporting.reporter import Reporter
from sparsejax.training.train_state import TrainState


class Run(NamedTuple):
  """What is constant during a run."""

  experiment: Experiment
  workdir: pathlib.Path
  programs: programs.Programs
  checkpoints: checkpoints.Checkpoints
  records: run_records.RunRecords
  stop: preemption.StopRequest
  lock: workdir_lock.Lock | None
  reporter: Reporter
  sparse_leaves: tuple[str, ...]
  resumed_from_step: int | None
  compile_seconds: float
  clock: timing.Clock


def train(run: Run, start: starts.Start) -> outcomes.Outcome:
  """Runs the loop.

  A dispatch begins with a mask update if the method updates masks between two
  steps: an evaluation sees the masks that its epoch trained with, and the first
  gradient of an epoch is taken at its new masks. After a dispatch, events have
  a fixed order, which an exact resume relies on:

  1. End if another run took the workdir over.
  2. Stop if the loss or the gradient is not finite.
  3. At the end of an epoch, update the metric that the method follows; after
     the last step, the masks as well, if the method does so.
  4. Evaluate, if due.
  5. Write metrics.
  6. Save weights for later runs, if configured.
  7. Save a checkpoint, if due or if the run has to stop.
  8. Report progress, at multiples of `dispatch_steps` and at the end.
  9. Stop if a signal requested it.

  A signal interrupts an evaluation, of 3, 4 or 7, between two batches. The
  checkpoint then holds the last row, and a resume begins with that evaluation.
  """
  steps = run.experiment.steps
  state, step = start.state, start.resumed_from_step or 0
  last_saved, unfinished = start.resumed_from_step, start.unfinished
  timings: list[timing.Dispatch] = []
  while step < steps.total or unfinished is not None:
    if unfinished is None:
      with run.clock.phase("step"):
        done = dispatched.run(
          run.experiment,
          run.programs,
          state,
          first=step,
          sparse_leaves=run.sparse_leaves,
        )
    else:
      done, unfinished = unfinished, None
    state, step, rows, timed, warnings, updated = done
    first = step - timed.steps
    timings.append(timed)
    for warning in warnings:
      run.reporter.message(f"warning: {warning}")
    if run.lock is not None:
      run.lock.check()
    bad, seeds = dispatch_rows.not_finite(rows, run.experiment)
    if bad is not None:
      run.records.write(rows, end=bad)
      message = outcomes.not_finite_message(bad, first, step, last_saved, seeds)
      return _outcome(run, outcomes.NOT_FINITE, state, step, timings, message)
    last = step == steps.total
    evaluations: list[dict[str, float]] = []
    recorded: dict[str, float] = {}
    checkpoint_due = last or _due(steps.checkpoint_every, first, step)
    interrupted = False
    try:
      if not updated:
        state = _update(run, state, step, rows)
        updated = True
      if last or _due(steps.eval_every, first, step):
        evaluations = evaluate(run, state)
        speed = {"steps_per_second": timed.steps / timed.seconds}
        for each, found in zip(rows, evaluations, strict=True):
          each[-1] |= found | speed
      if checkpoint_due:
        found = evaluations or evaluate(run, state)
        recorded = run_checkpoints.recorded(found, rows)
    except preemption.Stopped:
      interrupted = True  # Orbax must not save while an exception is handled.
    if interrupted:
      done = Dispatched(state, step, rows, timed, (), updated)
      return _interrupted(run, done, timings)
    run.records.write(rows, end=step if evaluations else steps.total)
    run_checkpoints.save_weights_of_each(
      run.experiment, run.workdir, step, state
    )
    stopping = run.stop.agreed()
    if checkpoint_due or stopping:
      # Without metrics if it is not due: a checkpoint that exists only because
      # the run was stopped must not become the best one, or the result would
      # differ.
      _save(run, state, step, recorded)
      last_saved = step
    if last or stopping or step % steps.dispatch == 0:
      run.reporter.progress(step, dispatch_rows.mean_of_last(rows))
    if stopping:
      return _stopped(run, state, step, timings)
  return _outcome(run, outcomes.DONE, state, step, timings)


def _interrupted(
  run: Run, done: Dispatched, timings: list[timing.Dispatch]
) -> outcomes.Outcome:
  """Ends a run in an evaluation, which a resume repeats."""
  before = [rows[:-1] for rows in done.rows]
  run.records.write(before, end=run.experiment.steps.total)
  _save(run, done.state, done.step, {}, dispatched.unfinished(done))
  return _stopped(run, done.state, done.step, timings)


def _stopped(
  run: Run, state: TrainState, step: int, timings: list[timing.Dispatch]
) -> outcomes.Outcome:
  message = (
    f"Stopped by a signal after saving step {step}. Run the same command to"
    " resume."
  )
  return _outcome(run, outcomes.TERMINATED, state, step, timings, message)


def _update(
  run: Run, state: TrainState, step: int, rows: list[run_records.Rows]
) -> TrainState:
  """Updates what the method updates after an epoch, and after the last step."""
  with run.clock.phase("evaluate"):
    state = _update_metric(run, state, step)
  updates = run.programs.update_masks is not None
  if updates and step == run.experiment.steps.total:
    state = dispatched.update_masks(run.programs, state)
    dispatch_rows.recount(rows, run.experiment, state, step)
  return state


def _update_metric(run: Run, state: TrainState, step: int) -> TrainState:
  """Updates the epoch metric after the last step of an epoch."""
  update = run.programs.update_metric
  if update is None or step % run.experiment.steps.per_epoch:
    return state
  with jax.transfer_guard("disallow"):
    return jax.block_until_ready(update(state, run.stop.check))


def evaluate(run: Run, state: TrainState) -> list[dict[str, float]]:
  """Returns means of each replica on the splits not trained on."""
  names = [name for name in run.programs.evaluate if name != "train"]
  with run.clock.phase("evaluate"), jax.transfer_guard("disallow"):
    return programs.mean_metrics(
      run.programs, names, state, between=run.stop.check
    )


def _save(
  run: Run,
  state: TrainState,
  step: int,
  recorded: Mapping[str, float],
  unfinished: Any = None,
) -> None:
  """Saves a checkpoint; the metrics up to its step reach the disk first."""
  with run.clock.phase("save"):
    run.records.sync()
    run.checkpoints.save(step, state, metrics=recorded, unfinished=unfinished)


def _outcome(
  run: Run,
  status: int,
  state: TrainState,
  step: int,
  timings: list[timing.Dispatch],
  message: str = "",
) -> outcomes.Outcome:
  return outcomes.Outcome(
    status=status,
    message=message,
    state=state,
    step=step,
    selected=None,
    resumed_from_step=run.resumed_from_step,
    compile_seconds=run.compile_seconds,
    train_seconds=math.fsum(each.seconds for each in timings),
    mask_update_seconds=timing.mask_update_seconds(timings),
    seconds=run.clock.row(),
  )


def _due(every: int, first: int, step: int) -> bool:
  """Returns whether the steps in (first, step] reach a multiple of `every`."""
  return step // every > first // every
