"""A dispatch that has finished, as the loop sees it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from sparsejax.training import (
  dispatches,
  programs,
  replicas,
  sharding,
  watchdog,
)
from sparsejax.training.config.experiment import Experiment
from sparsejax.training.reporting import (
  dispatch_rows,
  emptied,
  run_records,
  timing,
)
from sparsejax.training.train_state import TrainState


class Dispatched(NamedTuple):
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
  compiled: programs.Programs,
  state: TrainState,
  *,
  first: int,
  sparse_leaves: Sequence[str],
) -> Dispatched:
  """Run one dispatch of training steps.

  Args:
    experiment: what is trained.
    compiled: its programs.
    state: donated.
    first: completed steps of `state`.
    sparse_leaves: names of the parameters that have a mask.

  Returns:
    The dispatch.
  """
  before = sharding.fetch(state.counters)
  started = time.perf_counter()
  setup = experiment.setup
  with jax.transfer_guard("disallow"):
    state = update_masks(compiled, state)
    state, stacked = jax.block_until_ready(compiled.train(state))
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
  warnings = emptied.of_each(
    experiment, sparse_leaves, befores, histories, first=first
  )
  return Dispatched(
    state,
    step,
    dispatch_rows.of_each(experiment, histories, first=first),
    timing.Dispatch(count, updates, seconds),
    tuple(warnings),
  )


def update_masks(compiled: programs.Programs, state: TrainState) -> TrainState:
  """Updates the masks if the method does so between steps."""
  if compiled.update_masks is None:
    return state
  with jax.transfer_guard("disallow"):
    return compiled.update_masks(state)


def unfinished(done: Dispatched) -> dict[str, Any]:
  """Returns what a checkpoint holds of a dispatch to be evaluated again.

  JSON of its last row; the rows before are written.
  """
  return {
    "rows": [rows[-1] for rows in done.rows],
    "timing": done.timing,
    "updated": done.updated,
  }


def resumed(
  state: TrainState, step: int, unfinished: Mapping[str, Any]
) -> Dispatched:
  """Returns the dispatch of which a checkpoint holds `unfinished`."""
  return Dispatched(
    state=state,
    step=step,
    rows=[[row] for row in unfinished["rows"]],
    timing=timing.Dispatch(*unfinished["timing"]),
    warnings=(),
    updated=unfinished["updated"],
  )
