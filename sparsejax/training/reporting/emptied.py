"""Layers that lose their last weight, named when it happens."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sparsejax.training.config.experiment import Experiment


def of_each(
  experiment: Experiment,
  names: Sequence[str],
  befores: Sequence[Any],
  histories: Sequence[Any],
  *,
  first: int,
) -> Iterator[str]:
  """Yields the warnings of all replicas, with their seeds if there are several.

  Args:
    experiment: what is trained.
    names: of the L sparse leaves.
    befores: for each replica, `run_flops.Counters` at step `first`, as numpy
      arrays.
    histories: for each replica, `train_step.Metrics` of the steps after it, as
      numpy arrays.
    first: the step before these.
  """
  found = zip(experiment.each, befores, histories, strict=True)
  for each, before, history in found:
    of_seed = f"seed {each.seed}: " if experiment.of_seeds else ""
    for warning in emptied(
      names, before.active, history.counters.active, first=first
    ):
      yield of_seed + warning


def emptied(
  names: Sequence[str], before: np.ndarray, active: np.ndarray, *, first: int
) -> Iterator[str]:
  """Yields a warning for each leaf that lost its last weight.

  Args:
    names: of the L sparse leaves.
    before: int[L], active weights at step `first`.
    active: int[steps, L], active weights after each step.
    first: the step before these.
  """
  earlier = np.concatenate([before[None], active[:-1]])
  steps, leaves = np.nonzero((active == 0) & (earlier > 0))
  for step, leaf in zip(steps.tolist(), leaves.tolist(), strict=True):
    yield (
      f"the mask update of step {first + 1 + step} left no active weight in"
      f" {names[leaf]}, which blocks all that must pass through it. Keep one in"
      " every layer: --config.method.scope=global_keep_alive, in a loop of your"
      " own scope=sparsejax.keep_alive(sparsejax.global_scope, 1)."
    )
