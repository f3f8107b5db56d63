"""Layers that lose their last weight, named when it happens."""

from collections.abc import Iterator, Sequence

import numpy as np


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
