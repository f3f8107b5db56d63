"""A run: restore or initialize, then dispatches and the events after each."""

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

import sparsejax
from sparsejax.training import (
  dispatches,
  initial_state,
  outcomes,
  preemption,
  processes,
  programs,
  run_flops,
  sharding,
  watchdog,
  weight_sharding,
  workdir_lock,
)
from sparsejax.training.checkpointing import best, checkpoints, weights
from sparsejax.training.config.experiment import Experiment
from sparsejax.training.reporting import emptied, metrics, timing
from sparsejax.training.reporting.reporter import Reporter
from sparsejax.training.train_state import TrainState, Weights


class _Run(NamedTuple):
  """What is constant during a run."""

  experiment: Experiment
  workdir: pathlib.Path
  programs: programs.Programs
  checkpoints: checkpoints.Checkpoints
  writer: metrics.Writer | None
  stop: preemption.StopRequest
  lock: workdir_lock.Lock | None
  reporter: Reporter
  sparse_leaves: tuple[str, ...]
  resumed_from_step: int | None
  compile_seconds: float
  clock: timing.Clock


class _Start(NamedTuple):
  """The first state of this process, restored or new.

  If a signal interrupted an evaluation, the steps before it are to be finished.
  """

  state: TrainState
  resumed_from_step: int | None
  seconds: float
  unfinished: "_Dispatched | None" = None

  @property
  def written(self) -> int:
    """The last step whose row was written."""
    step = self.resumed_from_step or 0
    return step if self.unfinished is None else step - 1


class _Dispatched(NamedTuple):
  """A dispatch that has finished.

  Attributes:
    state: after its last step.
    step: completed steps.
    rows: of its steps.
    timing: of its steps.
    warnings: about them.
    updated: whether metric and masks were updated after its last step.
  """

  state: TrainState
  step: int
  rows: list[dict[str, Any]]
  timing: timing.Dispatch
  warnings: tuple[str, ...]
  updated: bool = False


def run(
  experiment: Experiment,
  workdir: pathlib.Path,
  *,
  stop: preemption.StopRequest,
  reporter: Reporter,
  lock: workdir_lock.Lock | None = None,
  clock: timing.Clock | None = None,
  keep_checkpoints: bool = False,
  compile: Callable[..., programs.Programs] = programs.compile,
  started: Callable[[], None] = lambda: None,
) -> outcomes.Outcome:
  """Train until the last step, a request to stop, or a non-finite loss.

  Args:
    experiment: what to train.
    workdir: holds the run's config; shared by all processes.
    stop: checked before the first dispatch, after each one, and before each
      batch that is evaluated.
    reporter: where progress is reported.
    lock: of the workdir, if this process holds it; checked after each dispatch.
    clock: measures since this start began.
    keep_checkpoints: whether to keep all checkpoints, for runs that branch off;
      by default the newest two and the best.
    compile: `programs.compile`, or a function that returns what it compiled for
      a run with the same programs.
    started: called as soon as the state is there, restored or new; a start that
      is refused has changed nothing in the workdir before.

  Returns:
    How the run ended. Metrics and checkpoints are in the workdir.

  Raises:
    CheckpointError: if the state could not be saved or restored.
    InputError: if another run took the workdir over.
    Stopped: if a signal was received where everything is saved: before the
      first dispatch, or after the last one.
  """
  clock = clock or timing.Clock()
  clock.started()
  mesh = sharding.make_mesh(experiment.config["mesh"])
  abstract = initial_state.abstract(experiment, mesh)
  setup = experiment.setup._replace(
    shard=sharding.batch_sharder(mesh),
    gather=weight_sharding.gatherer(
      sharding.of(abstract.params),
      stacked=getattr(experiment.model, "layer_axes", ()),
    ),
  )
  with contextlib.ExitStack() as stack:
    saved = stack.enter_context(
      contextlib.closing(
        open_checkpoints(experiment, workdir, abstract, keep_checkpoints)
      )
    )
    start = _restore(abstract, saved, reporter, clock)
    if start is None:
      start = _create(experiment, workdir, mesh, clock)
    started()
    stop.check()
    writer = None
    if processes.is_first():
      writer = stack.enter_context(
        metrics.Writer(
          workdir,
          start=start.written,
          log_every=experiment.steps.log_every,
        )
      )
      if writer.warning is not None:
        reporter.message(f"warning: {writer.warning}")
      if writer.times is not None:
        clock.resume(writer.times)
    with clock.phase("compile"):
      compiled = compile(
        setup,
        experiment.dataset,
        start.state,
        mesh,
        trains=start.resumed_from_step != experiment.steps.total,
      )
    seconds = compiled.compile_seconds + start.seconds
    watchdog.progress()
    stop.nothing_to_save = False
    stop.check()
    reporter.message(f"Compiled in {seconds:.1f} s.")
    this = _Run(
      experiment=experiment,
      workdir=workdir,
      programs=compiled,
      checkpoints=saved,
      writer=writer,
      stop=stop,
      lock=lock,
      reporter=reporter,
      sparse_leaves=initial_state.sparse_leaves(abstract),
      resumed_from_step=start.resumed_from_step,
      compile_seconds=seconds,
      clock=clock,
    )
    outcome = _train(this, start)
    if outcome.status == outcomes.DONE:
      outcome = outcome._replace(selected=_select(this, outcome, abstract))
    return outcome._replace(seconds=clock.row())


def open_checkpoints(
  experiment: Experiment,
  workdir: pathlib.Path,
  abstract: TrainState,
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


def _restore(
  abstract: TrainState,
  saved: checkpoints.Checkpoints,
  reporter: Reporter,
  clock: timing.Clock,
) -> _Start | None:
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
    unfinished = _Dispatched(
      state=restored.state,
      step=restored.step,
      rows=[restored.unfinished["row"]],
      timing=timing.Dispatch(*restored.unfinished["timing"]),
      warnings=(),
      updated=restored.unfinished["updated"],
    )
  return _Start(restored.state, restored.step, 0.0, unfinished)


def _create(
  experiment: Experiment, workdir: pathlib.Path, mesh: Mesh, clock: timing.Clock
) -> _Start:
  """Creates the state at step 0; most of that time is compiling."""
  started = time.perf_counter()
  with clock.phase("compile"):
    state = initial_state.create(
      experiment,
      mesh,
      save_weights=lambda dense: _save_weights(experiment, workdir, 0, dense),
    )
  return _Start(state, None, time.perf_counter() - started)


def _train(run: _Run, start: _Start) -> outcomes.Outcome:
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
        done = _dispatch(run, state, step)
    else:
      done, unfinished = unfinished, None
    state, step, rows, timed, warnings, updated = done
    first = step - timed.steps
    timings.append(timed)
    for warning in warnings:
      run.reporter.message(f"warning: {warning}")
    if run.lock is not None:
      run.lock.check()
    bad = next((row["step"] for row in rows if not row["finite"]), None)
    if bad is not None:
      _write(run, rows, end=bad)
      message = outcomes.not_finite_message(bad, first, step, last_saved)
      return _outcome(run, outcomes.NOT_FINITE, state, step, timings, message)
    last = step == steps.total
    evaluation: dict[str, float] = {}
    recorded: dict[str, float] = {}
    checkpoint_due = last or _due(steps.checkpoint_every, first, step)
    interrupted = False
    try:
      if not updated:
        with run.clock.phase("evaluate"):
          state = _update_metric(run, state, step)
        if last:
          state = _update_masks(run, state)
          rows[-1] |= _recounted(run, state, step)
        updated = True
      if last or _due(steps.eval_every, first, step):
        evaluation = _evaluate(run, state)
        speed = {"steps_per_second": timed.steps / timed.seconds}
        rows[-1] |= evaluation | speed
      if checkpoint_due:
        recorded = evaluation or _evaluate(run, state)
        recorded = recorded | {best.ACTIVE: rows[-1]["active"]}
    except preemption.Stopped:
      interrupted = True  # Orbax must not save while an exception is handled.
    if interrupted:
      done = _Dispatched(state, step, rows, timed, (), updated)
      return _interrupted(run, done, timings)
    _write(run, rows, end=step if evaluation else steps.total)
    network = Weights(state.params, state.model_state)
    _save_weights(run.experiment, run.workdir, step, network)
    stopping = run.stop.agreed()
    if checkpoint_due or stopping:
      # Without metrics if it is not due: a checkpoint that exists only because
      # the run was stopped must not become the best one, or the result would
      # differ.
      _save(run, state, step, recorded)
      last_saved = step
    if last or stopping or step % steps.dispatch == 0:
      run.reporter.progress(step, rows[-1])
    if stopping:
      return _stopped(run, state, step, timings)
  return _outcome(run, outcomes.DONE, state, step, timings)


def _interrupted(
  run: _Run, done: _Dispatched, timings: list[timing.Dispatch]
) -> outcomes.Outcome:
  """Ends a run in an evaluation, which a resume repeats."""
  *rows, row = done.rows
  _write(run, rows, end=run.experiment.steps.total)
  unfinished = {"row": row, "timing": done.timing, "updated": done.updated}
  _save(run, done.state, done.step, {}, unfinished)
  return _stopped(run, done.state, done.step, timings)


def _stopped(
  run: _Run, state: TrainState, step: int, timings: list[timing.Dispatch]
) -> outcomes.Outcome:
  message = (
    f"Stopped by a signal after saving step {step}. Run the same command to"
    " resume."
  )
  return _outcome(run, outcomes.TERMINATED, state, step, timings, message)


def _dispatch(run: _Run, state: TrainState, first: int) -> _Dispatched:
  """Runs one dispatch of training steps."""
  before = sharding.fetch(state.counters)
  started = time.perf_counter()
  setup = run.experiment.setup
  with jax.transfer_guard("disallow"):
    state = _update_masks(run, state)
    state, stacked = jax.block_until_ready(run.programs.train(state))
  watchdog.progress()
  seconds = time.perf_counter() - started
  step = dispatches.dispatch_end(setup, first)
  count, start = step - first, first % setup.dispatch_steps
  history = jax.tree.map(
    lambda x: x[start : start + count], sharding.fetch(stacked)
  )
  updates = int(history.counters.mask_updates[-1] - before.mask_updates)
  warnings = emptied.emptied(
    run.sparse_leaves, before.active, history.counters.active, first=first
  )
  rows = metrics.rows(
    history._asdict(),
    first=first,
    costs=run.experiment.costs,
    derive=run.experiment.dataset.task.derived,
  )
  return _Dispatched(
    state, step, rows, timing.Dispatch(count, updates, seconds), tuple(warnings)
  )


def _update_masks(run: _Run, state: TrainState) -> TrainState:
  """Updates the masks if the method does so between steps."""
  if run.programs.update_masks is None:
    return state
  with jax.transfer_guard("disallow"):
    return run.programs.update_masks(state)


def _recounted(run: _Run, state: TrainState, step: int) -> dict[str, Any]:
  """Returns what a row says of masks that changed after its step."""
  if run.programs.update_masks is None:
    return {}
  stats = sharding.fetch(jax.jit(sparsejax.stats)(state.opt_state))
  counters = run_flops.Counters(*sharding.fetch(state.counters))
  found = metrics.sparsity_row({key: int(x) for key, x in stats.items()})
  return found | run_flops.record(counters, step, run.experiment.costs)


def _update_metric(run: _Run, state: TrainState, step: int) -> TrainState:
  """Updates the epoch metric after the last step of an epoch."""
  update = run.programs.update_metric
  if update is None or step % run.experiment.steps.per_epoch:
    return state
  with jax.transfer_guard("disallow"):
    return jax.block_until_ready(update(state, run.stop.check))


def _evaluate(run: _Run, state: TrainState) -> dict[str, float]:
  """Returns mean losses and metrics on the splits not trained on."""
  names = [name for name in run.programs.evaluate if name != "train"]
  with run.clock.phase("evaluate"), jax.transfer_guard("disallow"):
    return programs.mean_metrics(
      run.programs, names, state, between=run.stop.check
    )


def _write(run: _Run, rows: list[dict[str, Any]], *, end: int) -> None:
  """Writes the rows at multiples of `log_every`, and that of step `end`.

  The last of them says where the time went.
  """
  if run.writer is None:
    return
  every = run.experiment.steps.log_every
  due = [
    row
    for row in rows
    if row["step"] == end or (row["step"] < end and row["step"] % every == 0)
  ]
  if due:
    due[-1] |= run.clock.row()
  run.writer.write(due)


def _save(
  run: _Run,
  state: TrainState,
  step: int,
  recorded: Mapping[str, float],
  unfinished: Any = None,
) -> None:
  """Saves a checkpoint; the metrics up to its step reach the disk first."""
  with run.clock.phase("save"):
    if run.writer is not None:
      run.writer.sync()
    run.checkpoints.save(step, state, metrics=recorded, unfinished=unfinished)


def _save_weights(
  experiment: Experiment,
  workdir: pathlib.Path,
  step: int,
  network: Weights,
) -> None:
  """Saves the weights of a step for later runs, if configured."""
  if step in experiment.steps.kept:
    weights.save(workdir, step, network, config=experiment.config)


def _select(
  run: _Run, outcome: outcomes.Outcome, abstract: TrainState
) -> outcomes.Selected:
  """Selects and evaluates the state of the result."""
  found = checkpoints.Restored(outcome.state, outcome.step, ())
  if run.experiment.config["select_checkpoint"] == "best":
    found = run.checkpoints.restore_best(abstract, found)
    for line in found.skipped:
      run.reporter.message(f"warning: {line}")
  evaluation = _evaluate(run, found.state)
  if "train" in run.programs.evaluate:  # Compiled here, so without a guard.
    evaluation |= programs.mean_metrics(
      run.programs, ["train"], found.state, between=run.stop.check
    )
  return outcomes.Selected(found.state, found.step, evaluation)


def _outcome(
  run: _Run,
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
