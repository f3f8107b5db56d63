"""A run: restore or initialize, then dispatches and the events after each."""

import contextlib
import functools
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
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
  replicas,
  run_flops,
  sharding,
  train_step,
  watchdog,
  weight_sharding,
  workdir_lock,
)
from sparsejax.training.checkpointing import best, checkpoints, weights
from sparsejax.training.config.experiment import Experiment
from sparsejax.training.reporting import (
  emptied,
  metrics,
  run_records,
  timing,
  workdirs,
)
from sparsejax.training.reporting.reporter import Reporter
from sparsejax.training.train_state import TrainState, Weights


class _Run(NamedTuple):
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
  """A dispatch that has finished; it has rows for each replica.

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
  rows: list[run_records.Rows]
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
  of_one = initial_state.abstract(experiment, mesh)
  abstract = replicas.stacked_shapes(of_one, len(experiment.each))
  setup = experiment.setup._replace(
    shard=sharding.batch_sharder(mesh),
    gather=weight_sharding.gatherer(
      sharding.of(of_one.params),
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
    folders = workdirs.of_seeds(experiment, workdir)
    written = stack.enter_context(
      run_records.RunRecords(
        folders if processes.is_first() else (),
        start=start.written,
        log_every=experiment.steps.log_every,
        clock=clock,
        reporter=reporter,
      )
    )
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
      records=written,
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
      _save_each(this, outcome, of_one)
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
      rows=[[row] for row in restored.unfinished["rows"]],
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
    state = replicas.stack(
      [
        initial_state.create(
          each,
          mesh,
          save_weights=functools.partial(_save_weights, each, folder, 0),
        )
        for each, folder in _each(experiment, workdir)
      ]
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
    bad, seeds = _not_finite(run, rows)
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
        with run.clock.phase("evaluate"):
          state = _update_metric(run, state, step)
        if last:
          state = _update_masks(run, state)
          changes = _recounted(run, state, step)
          for each, changed in zip(rows, changes, strict=True):
            each[-1] |= changed
        updated = True
      if last or _due(steps.eval_every, first, step):
        evaluations = _evaluate(run, state)
        speed = {"steps_per_second": timed.steps / timed.seconds}
        for each, found in zip(rows, evaluations, strict=True):
          each[-1] |= found | speed
      if checkpoint_due:
        found = evaluations or _evaluate(run, state)
        recorded = _recorded(found, rows)
    except preemption.Stopped:
      interrupted = True  # Orbax must not save while an exception is handled.
    if interrupted:
      done = _Dispatched(state, step, rows, timed, (), updated)
      return _interrupted(run, done, timings)
    run.records.write(rows, end=step if evaluations else steps.total)
    _save_weights_of_each(run, step, state)
    stopping = run.stop.agreed()
    if checkpoint_due or stopping:
      # Without metrics if it is not due: a checkpoint that exists only because
      # the run was stopped must not become the best one, or the result would
      # differ.
      _save(run, state, step, recorded)
      last_saved = step
    if last or stopping or step % steps.dispatch == 0:
      newest = replicas.mean_row([each[-1] for each in rows])
      run.reporter.progress(step, newest)
    if stopping:
      return _stopped(run, state, step, timings)
  return _outcome(run, outcomes.DONE, state, step, timings)


def _recorded(
  evaluations: list[dict[str, float]], rows: list[run_records.Rows]
) -> dict[str, float]:
  """Returns what is recorded with a checkpoint: means over the replicas."""
  return replicas.mean_row(
    [
      found | {best.ACTIVE: each[-1]["active"]}
      for found, each in zip(evaluations, rows, strict=True)
    ]
  )


def _interrupted(
  run: _Run, done: _Dispatched, timings: list[timing.Dispatch]
) -> outcomes.Outcome:
  """Ends a run in an evaluation, which a resume repeats."""
  before = [rows[:-1] for rows in done.rows]
  run.records.write(before, end=run.experiment.steps.total)
  unfinished = {
    "rows": [rows[-1] for rows in done.rows],
    "timing": done.timing,
    "updated": done.updated,
  }
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
  histories = [
    jax.tree.map(lambda x: x[start : start + count], history)
    for history in replicas.split(sharding.fetch(stacked), setup.replicas)
  ]
  befores = replicas.split(before, setup.replicas)
  updates = max(
    int(history.counters.mask_updates[-1] - before.mask_updates)
    for before, history in zip(befores, histories, strict=True)
  )
  return _Dispatched(
    state,
    step,
    [_rows(run, history, first) for history in histories],
    timing.Dispatch(count, updates, seconds),
    tuple(_emptied(run, befores, histories, first)),
  )


def _rows(
  run: _Run, history: train_step.Metrics, first: int
) -> run_records.Rows:
  """Returns the rows of one replica."""
  return metrics.rows(
    history._asdict(),
    first=first,
    costs=run.experiment.costs,
    derive=run.experiment.dataset.task.derived,
  )


def _emptied(
  run: _Run,
  befores: list[Any],
  histories: list[Any],
  first: int,
) -> Iterator[str]:
  """Yields a warning for each layer that lost its last weight."""
  found = zip(run.experiment.each, befores, histories, strict=True)
  for each, before, history in found:
    of_seed = f"seed {each.seed}: " if run.experiment.of_seeds else ""
    for warning in emptied.emptied(
      run.sparse_leaves, before.active, history.counters.active, first=first
    ):
      yield of_seed + warning


def _not_finite(
  run: _Run, rows: list[run_records.Rows]
) -> tuple[int | None, list[int]]:
  """Returns the first step with a value that is not finite.

  And for which seeds, if there are several.
  """
  bad = min(
    (row["step"] for each in rows for row in each if not row["finite"]),
    default=None,
  )
  seeds = [
    each.seed
    for each, found in zip(run.experiment.of_seeds, rows, strict=False)
    if any(row["step"] == bad and not row["finite"] for row in found)
  ]
  return bad, seeds


def _update_masks(run: _Run, state: TrainState) -> TrainState:
  """Updates the masks if the method does so between steps."""
  if run.programs.update_masks is None:
    return state
  with jax.transfer_guard("disallow"):
    return run.programs.update_masks(state)


def _recounted(
  run: _Run, state: TrainState, step: int
) -> Iterator[dict[str, Any]]:
  """Yields what each row says of masks that changed after its step."""
  count_stats = jax.jit(sparsejax.stats)
  for each in replicas.split_state(state, run.programs.replicas):
    if run.programs.update_masks is None:
      yield {}
      continue
    stats = sharding.fetch(count_stats(each.opt_state))
    counters = run_flops.Counters(*sharding.fetch(each.counters))
    found = metrics.sparsity_row({key: int(x) for key, x in stats.items()})
    yield found | run_flops.record(counters, step, run.experiment.costs)


def _update_metric(run: _Run, state: TrainState, step: int) -> TrainState:
  """Updates the epoch metric after the last step of an epoch."""
  update = run.programs.update_metric
  if update is None or step % run.experiment.steps.per_epoch:
    return state
  with jax.transfer_guard("disallow"):
    return jax.block_until_ready(update(state, run.stop.check))


def _evaluate(run: _Run, state: TrainState) -> list[dict[str, float]]:
  """Returns means of each replica on the splits not trained on."""
  names = [name for name in run.programs.evaluate if name != "train"]
  with run.clock.phase("evaluate"), jax.transfer_guard("disallow"):
    return programs.mean_metrics(
      run.programs, names, state, between=run.stop.check
    )


def _save(
  run: _Run,
  state: TrainState,
  step: int,
  recorded: Mapping[str, float],
  unfinished: Any = None,
) -> None:
  """Saves a checkpoint; the metrics up to its step reach the disk first."""
  with run.clock.phase("save"):
    run.records.sync()
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


def _save_weights_of_each(run: _Run, step: int, state: TrainState) -> None:
  """Saves the weights of each replica, if the step is one of those kept."""
  if step not in run.experiment.steps.kept:
    return
  states = replicas.split_state(state, run.programs.replicas)
  found = _each(run.experiment, run.workdir)
  for (each, folder), own in zip(found, states, strict=True):
    network = Weights(own.params, own.model_state)
    _save_weights(each, folder, step, network)


def _save_each(
  run: _Run, outcome: outcomes.Outcome, of_one: TrainState
) -> None:
  """Saves the last state of each of several replicas as that of a run.

  So later runs and exports read a replica as they read any run.
  """
  if not run.experiment.of_seeds:
    return
  found = _each(run.experiment, run.workdir)
  for (each, folder), own in zip(found, outcomes.of_each(outcome), strict=True):
    assert own.selected is not None
    with contextlib.closing(open_checkpoints(each, folder, of_one)) as saved:
      saved.save(own.step, own.state, metrics=own.selected.evaluation)


def _each(
  experiment: Experiment, workdir: pathlib.Path
) -> Iterator[tuple[Experiment, pathlib.Path]]:
  """Yields the experiment and the folder of each replica."""
  folders = workdirs.of_seeds(experiment, workdir)
  yield from zip(experiment.each, folders, strict=True)


def _select(
  run: _Run, outcome: outcomes.Outcome, abstract: TrainState
) -> outcomes.Selected:
  """Selects and evaluates the state of the result."""
  found = checkpoints.Restored(outcome.state, outcome.step, ())
  if run.experiment.config["select_checkpoint"] == "best":
    found = run.checkpoints.restore_best(abstract, found)
    for line in found.skipped:
      run.reporter.message(f"warning: {line}")
  evaluations = _evaluate(run, found.state)
  if "train" in run.programs.evaluate:  # Compiled here, so without a guard.
    trained = programs.mean_metrics(
      run.programs, ["train"], found.state, between=run.stop.check
    )
    evaluations = [
      one | other for one, other in zip(evaluations, trained, strict=True)
    ]
  return outcomes.Selected(found.state, found.step, tuple(evaluations))


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
