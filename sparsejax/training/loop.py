"""The order of events of a run: start, dispatches, and what follows each."""

import contextlib
import functools
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
  flops,
  initial_state,
  input_pipeline,
  mesh,
  processes,
  step,
)
from sparsejax.training.checkpointing import best, checkpoints, init_from
from sparsejax.training.config import build
from sparsejax.training.reporting import records, timing

DONE, NOT_FINITE, TERMINATED = 0, 3, 143


class Outcome(NamedTuple):
  """How a run ended.

  Attributes:
    status: `DONE`, `NOT_FINITE` or `TERMINATED`, the exit status.
    message: why it stopped before its last step, "" where it did not.
    state: the newest state.
    selected: the state that the result is of, the newest one or the best.
    step: completed steps of `state`.
    selected_step: completed steps of `selected`.
    evaluation: losses and accuracies of `selected`; empty unless it is done.
    resumed_from_step: where it went on, `None` for a run from the start.
    compile_seconds: time spent tracing and compiling.
    train_seconds: time spent in dispatches, evaluations left out.
    mask_update_seconds: what a mask update adds to them, as in `clock`.
  """

  status: int
  message: str
  state: step.TrainState
  selected: step.TrainState
  step: int
  selected_step: int
  evaluation: dict[str, float]
  resumed_from_step: int | None
  compile_seconds: float
  train_seconds: float
  mask_update_seconds: float | None


class Show(NamedTuple):
  """How a run is seen while it goes on.

  Attributes:
    say: shows a line of text.
    progress: is told the step and the newest numbers after each dispatch.
  """

  say: Callable[[str], None]
  progress: Callable[[int, Mapping[str, float]], None]


def run(
  experiment: build.Experiment,
  workdir: pathlib.Path,
  *,
  stop: processes.StopRequest,
  show: Show,
) -> Outcome:
  """Train until the last step, a request to stop, or a number not finite.

  Args:
    experiment: what to train.
    workdir: holds the run's config; all processes see it.
    stop: requested at the end of each dispatch.
    show: how progress is shown.

  Returns:
    How it ended. The workdir holds metrics and checkpoints up to there.

  Raises:
    CheckpointError: if the state could not be saved or restored.
  """
  devices = mesh.data_mesh()
  sharder = mesh.batch_sharder(devices)
  setup = experiment.setup._replace(shard=sharder)
  abstract = _abstract_state(experiment, devices)
  saved = checkpoints.open(
    workdir,
    fingerprint=json.dumps(experiment.config, sort_keys=True),
    sparse_leaves=_sparse_leaves(abstract),
    keep_best_by=_accuracy(experiment),
  )
  with contextlib.closing(saved), contextlib.ExitStack() as stack:
    restored = saved.restore_newest(abstract)
    if restored is None:
      started = time.perf_counter()
      state = initial_state.begin(
        experiment,
        devices,
        keep=functools.partial(_keep, experiment, workdir, 0),
      )
      init_seconds = time.perf_counter() - started
    else:
      state, init_seconds = restored.state, 0.0
      for line in restored.skipped:
        show.say(line)
      show.say(f"Going on from step {restored.step}.")
    resumed = None if restored is None else restored.step
    writer = None
    if processes.is_first():
      writer = stack.enter_context(records.Writer(workdir, start=resumed or 0))
    feed = input_pipeline.open(
      setup,
      experiment.dataset,
      state,
      devices,
      trains=resumed != experiment.steps.total,
    )
    seconds = feed.seconds + init_seconds
    show.say(f"Compiled in {seconds:.1f} s.")
    outcome = _train(
      feed,
      experiment.steps,
      experiment.prices,
      state,
      resumed,
      writer,
      saved,
      functools.partial(_keep, experiment, workdir),
      stop,
      show,
    )
    if outcome.status == DONE:
      outcome = _conclude(experiment, outcome, feed, saved, abstract, show)
    return outcome._replace(compile_seconds=seconds)


def _train(
  feed: input_pipeline.Feed,
  steps: build.Steps,
  prices: flops.Prices,
  state: step.TrainState,
  resumed: int | None,
  writer: records.Writer | None,
  saved: checkpoints.Checkpoints,
  keep: Callable[[int, step.Weights], None],
  stop: processes.StopRequest,
  show: Show,
) -> Outcome:
  """Runs the loop.

  What follows a dispatch has a fixed order, and a resume relies on it:
  check that all is finite, hear how the epoch went, evaluate, write metrics,
  keep weights, save, show, stop.
  """
  at = resumed or 0
  dispatches: list[timing.Dispatch] = []
  updates = int(mesh.fetch(state.meter.mask_updates))
  last_good = resumed

  def outcome(status: int, message: str = "") -> Outcome:
    return Outcome(
      status=status,
      message=message,
      state=state,
      step=at,
      selected=state,
      selected_step=at,
      evaluation={},
      resumed_from_step=resumed,
      compile_seconds=0.0,
      train_seconds=math.fsum(each.seconds for each in dispatches),
      mask_update_seconds=timing.mask_update_seconds(dispatches),
    )

  while at < steps.total:
    first = at
    at = min((first // steps.dispatch + 1) * steps.dispatch, steps.total)
    started = time.perf_counter()
    with jax.transfer_guard("disallow"):
      state, stacked = jax.block_until_ready(feed.train(state))
    seconds = time.perf_counter() - started
    metrics = jax.tree.map(lambda x, n=at - first: x[:n], mesh.fetch(stacked))
    before, updates = updates, int(metrics.meter.mask_updates[-1])
    dispatches.append(timing.Dispatch(at - first, updates - before, seconds))
    rows = records.rows(metrics._asdict(), first=first, prices=prices)
    bad = next((row["step"] for row in rows if not row["finite"]), None)
    if bad is not None:
      _write(writer, [row for row in rows if _is_logged(row, steps, bad)])
      return outcome(NOT_FINITE, _not_finite(bad, first, at, last_good))
    if feed.hear is not None and at % steps.per_epoch == 0:
      with jax.transfer_guard("disallow"):
        state = jax.block_until_ready(feed.hear(state))
    last = at == steps.total
    evaluation: dict[str, float] = {}
    if last or _due(steps.eval_every, first, at):
      evaluation = _evaluate(feed, state)
      rows[-1] |= evaluation | {"steps_per_second": (at - first) / seconds}
    ends = at if evaluation else steps.total
    _write(writer, [row for row in rows if _is_logged(row, steps, ends)])
    keep(at, step.Weights(state.params, state.model_state))
    stopping = stop.agreed()
    regular = last or _due(steps.checkpoint_every, first, at)
    if regular or stopping:
      if writer is not None:
        writer.sync()
      # A checkpoint that a run has only because it was stopped can not be its
      # best one, and an evaluation for a checkpoint alone is not recorded: a
      # run that was not stopped would end in another way.
      judged: dict[str, float] = {}
      if regular:
        judged = dict(evaluation or _evaluate(feed, state))
        judged[best.ACTIVE] = rows[-1]["active"]
      saved.save(at, state, metrics=judged)
      last_good = at
    show.progress(at, rows[-1])
    if stopping:
      return outcome(
        TERMINATED,
        f"Stopped by SIGTERM; saved at step {at}. The same command goes on.",
      )
  return outcome(DONE)


def _conclude(
  experiment: build.Experiment,
  outcome: Outcome,
  feed: input_pipeline.Feed,
  saved: checkpoints.Checkpoints,
  abstract: step.TrainState,
  show: Show,
) -> Outcome:
  """Selects and judges the state that the result of a run is of."""
  found = checkpoints.Restored(outcome.state, outcome.step, ())
  if experiment.config["select_checkpoint"] == "best":
    found = saved.restore_best(abstract, found)
    for line in found.skipped:
      show.say(line)
  evaluation = _evaluate(feed, found.state) | _evaluate_train(feed, found.state)
  return outcome._replace(
    selected=found.state, selected_step=found.step, evaluation=evaluation
  )


def _accuracy(experiment: build.Experiment) -> str:
  """Returns what the best checkpoint is chosen by."""
  held_out = experiment.dataset.validation is not None
  return "validation_accuracy" if held_out else "test_accuracy"


def _is_logged(row: Mapping[str, Any], steps: build.Steps, ends: int) -> bool:
  """Says whether a step's line is written; the step `ends` always is."""
  at = row["step"]
  return at == ends or (at < ends and at % steps.log_every == 0)


def _due(every: int, first: int, at: int) -> bool:
  """Says whether the steps in (first, at] reach a multiple of `every`."""
  return at // every > first // every


def _write(writer: records.Writer | None, rows: list[dict[str, Any]]) -> None:
  if writer is not None:
    writer.write(rows)


def _evaluate(
  feed: input_pipeline.Feed, state: step.TrainState
) -> dict[str, float]:
  """Returns mean losses and accuracies on what is not trained on."""
  names = [name for name in feed.judge if name != "train"]
  with jax.transfer_guard("disallow"):
    totals = {name: feed.judge[name](state) for name in names}
    return _means(feed, jax.block_until_ready(totals))


def _evaluate_train(
  feed: input_pipeline.Feed, state: step.TrainState
) -> dict[str, float]:
  """Returns the same on the train split, where the feed judges it."""
  names = [name for name in feed.judge if name == "train"]
  return _means(feed, {name: feed.judge[name](state) for name in names})


def _means(
  feed: input_pipeline.Feed, totals: Mapping[str, step.Totals]
) -> dict[str, float]:
  means: dict[str, float] = {}
  for name, sums in totals.items():
    sums, count = mesh.fetch(sums), feed.examples[name]
    means[f"{name}_loss"] = float(sums.loss) / count
    means[f"{name}_accuracy"] = int(sums.correct) / count
  return means


def _not_finite(bad: int, first: int, at: int, last_good: int | None) -> str:
  kept = "none" if last_good is None else f"step {last_good}"
  return (
    f"The loss or gradient of step {bad} is not finite; stopped after steps"
    f" {first + 1} to {at}. Last good checkpoint: {kept}. A lower"
    " `config.optimizer.learning_rate` may help."
  )


def _abstract_state(
  experiment: build.Experiment, devices: Mesh
) -> step.TrainState:
  """Returns the state's shapes, replicated over the devices."""
  shapes = jax.eval_shape(_initializer(experiment))
  sharding = mesh.replicated(devices)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    shapes,
  )


def _initializer(
  experiment: build.Experiment,
) -> Callable[[], step.TrainState]:
  return functools.partial(
    step.initial_state,
    experiment.setup,
    experiment.init_key,
    experiment.data_key,
    experiment.dataset.example,
  )


def _sparse_leaves(abstract: step.TrainState) -> tuple[str, ...]:
  """Returns the names of the parameters that have a mask."""
  masks = jax.eval_shape(sparsejax.get_masks, abstract.opt_state)
  return tuple(
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, _ in jax.tree.leaves_with_path(masks)
  )


def _keep(
  experiment: build.Experiment,
  workdir: pathlib.Path,
  at: int,
  weights: step.Weights,
) -> None:
  """Keeps the weights of a step for later runs, where that is requested."""
  folder = init_from.WEIGHTS
  if at not in experiment.steps.kept:
    return
  if processes.any_of(at in checkpoints.steps(workdir, folder=folder)):
    return  # Of a start before this one.
  with contextlib.closing(
    checkpoints.open(
      workdir,
      fingerprint=json.dumps(experiment.config, sort_keys=True),
      sparse_leaves=(),
      keep_all=True,
      folder=folder,
    )
  ) as kept:
    kept.save(at, weights, metrics={})
