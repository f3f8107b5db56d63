"""The rows of a dispatch, for each of its replicas."""

from collections.abc import Sequence
from typing import Any

import jax

import sparsejax
from sparsejax.training import replicas, run_flops, sharding
from sparsejax.training.config.experiment import Experiment
from sparsejax.training.reporting import metrics
from sparsejax.training.reporting.run_records import Rows
from sparsejax.training.train_state import TrainState


def of_each(
  experiment: Experiment, histories: Sequence[Any], *, first: int
) -> list[Rows]:
  """Returns the rows of each replica.

  Args:
    experiment: what is trained.
    histories: for each replica, `train_step.Metrics` of the steps as numpy
      arrays.
    first: completed steps before the dispatch.
  """
  return [
    metrics.rows(
      history._asdict(),
      first=first,
      costs=experiment.costs,
      derive=experiment.dataset.task.derived,
    )
    for history in histories
  ]


def recount(
  rows: Sequence[Rows], experiment: Experiment, state: TrainState, step: int
) -> None:
  """Change what the last rows say of masks that changed after their step.

  Args:
    rows: of each replica; changed in place.
    experiment: what is trained.
    state: after the mask update.
    step: completed steps.
  """
  count_stats = jax.jit(sparsejax.stats)
  states = replicas.split_state(state, experiment.setup.replicas)
  for each, own in zip(rows, states, strict=True):
    stats = sharding.fetch(count_stats(own.opt_state))
    counters = run_flops.Counters(*sharding.fetch(own.counters))
    each[-1] |= metrics.sparsity_row({key: int(x) for key, x in stats.items()})
    each[-1] |= run_flops.record(counters, step, experiment.costs)


def not_finite(
  rows: Sequence[Rows], experiment: Experiment
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
    for each, found in zip(experiment.of_seeds, rows, strict=False)
    if any(row["step"] == bad and not row["finite"] for row in found)
  ]
  return bad, seeds


def mean_of_last(rows: Sequence[Rows]) -> dict[str, Any]:
  """Returns the means of the last rows over the replicas."""
  return replicas.mean_row([each[-1] for each in rows])
