"""A session of a run: what a process does from its start to the outcome."""

import contextlib
import pathlib
from collections.abc import Callable

from sparsejax.training import (
  initial_state,
  loop,
  outcomes,
  preemption,
  processes,
  programs,
  replicas,
  sharding,
  starts,
  watchdog,
  weight_sharding,
  workdir_lock,
)
from sparsejax.training.checkpointing import checkpoints, run_checkpoints
from sparsejax.training.config.experiment import Experiment
from sparsejax.training.reporting import run_records, timing, workdirs
from sparsejax.training.reporting.reporter import Reporter
from sparsejax.training.train_state import TrainState


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
        run_checkpoints.open(
          experiment, workdir, abstract, keep_all=keep_checkpoints
        )
      )
    )
    start = starts.restore(abstract, saved, reporter=reporter, clock=clock)
    if start is None:
      start = starts.create(experiment, workdir, mesh, clock=clock)
    started()
    stop.check()
    folders = workdirs.of_seeds(experiment, workdir)
    written = stack.enter_context(
      run_records.open(
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
    this = loop.Run(
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
    outcome = loop.train(this, start)
    if outcome.status == outcomes.DONE:
      outcome = outcome._replace(selected=_select(this, outcome, abstract))
      run_checkpoints.save_seeds(experiment, workdir, outcome, of_one)
    return outcome._replace(seconds=clock.row())


def _select(
  run: loop.Run, outcome: outcomes.Outcome, abstract: TrainState
) -> outcomes.Selected:
  """Selects and evaluates the state of the result."""
  found = checkpoints.Restored(outcome.state, outcome.step, ())
  if run.experiment.config["select_checkpoint"] == "best":
    found = run.checkpoints.restore_best(abstract, found)
    for line in found.skipped:
      run.reporter.message(f"warning: {line}")
  evaluations = loop.evaluate(run, found.state)
  if "train" in run.programs.evaluate:  # Compiled here, so without a guard.
    trained = programs.mean_metrics(
      run.programs, ["train"], found.state, between=run.stop.check
    )
    evaluations = [
      one | other for one, other in zip(evaluations, trained, strict=True)
    ]
  return outcomes.Selected(found.state, found.step, tuple(evaluations))
