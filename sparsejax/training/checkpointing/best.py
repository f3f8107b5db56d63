"""Which checkpoint of a run is its best one.

Before the last pruning more weights are on, and such a checkpoint is not the
sparse network that was requested. So the best one is among those with the
fewest active weights: the one of highest accuracy, the newer one on ties.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

ACTIVE = "active"
"""The metric that counts the weights that are on."""

Metrics = Mapping[str, float]


def best_first(found: Mapping[int, Metrics | None], metric: str) -> list[int]:
  """Order checkpoints.

  Args:
    found: step -> what was recorded with its checkpoint, `None` where that
      cannot be read; all are alike where none has `ACTIVE`.
    metric: the accuracy.

  Returns:
    Steps of those that have a number, the best one first.
  """
  ranks = {
    step: (-metrics.get(ACTIVE, 0.0), metrics[metric], step)
    for step, metrics in found.items()
    if metrics is not None and not math.isnan(metrics.get(metric, math.nan))
  }
  return sorted(ranks, key=ranks.__getitem__, reverse=True)


class KeepBest:
  """Orbax's policy that keeps the best checkpoint.

  Its own `BestN` reads a metrics file that nothing protects at the start, where
  a damaged one would raise.
  """

  def __init__(self, metric: str | None, read: Callable[[int], Metrics | None]):
    """Makes the policy.

    Args:
      metric: the accuracy; None keeps nothing.
      read: what was recorded with a step's checkpoint, `None` where that cannot
        be read; requested steps that were not told to `remember`.
    """
    self._metric = metric
    self._read = read
    self._found: dict[int, Metrics | None] = {}

  def remember(self, step: int, metrics: Metrics) -> None:
    """Takes up what is recorded with a checkpoint."""
    self._found[step] = metrics

  def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
    """Says of each checkpoint whether it is kept."""
    del context  # Unused: what was recorded decides.
    steps = [checkpoint.step for checkpoint in checkpoints]
    if self._metric is None:
      return [False] * len(steps)
    for step in steps:
      if step not in self._found:
        self._found[step] = self._read(step)
    found = {step: self._found[step] for step in steps}
    best = best_first(found, self._metric)[:1]
    return [step in best for step in steps]
