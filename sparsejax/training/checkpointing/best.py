"""The best checkpoint of a run.

Before the last pruning a checkpoint has more active weights, and is not the
sparse network that was requested. The best checkpoint is therefore one of those
with the fewest active weights: the one with the best result, and on ties
the newest.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

ACTIVE = "active"
"""The recorded number of active weights."""

Metrics = Mapping[str, float]


def best_first(
  found: Mapping[int, Metrics | None], metric: str, *, lowest: bool = False
) -> list[int]:
  """Rank checkpoints.

  Args:
    found: step -> metrics recorded with its checkpoint, `None` if they cannot
      be read. Without `ACTIVE`, all have equally many active weights.
    metric: name of what ranks them.
    lowest: whether lower values are better.

  Returns:
    The steps that have the metric, best first.
  """
  sign = -1 if lowest else 1
  ranks = {
    step: (-metrics.get(ACTIVE, 0.0), sign * metrics[metric], step)
    for step, metrics in found.items()
    if metrics is not None and not math.isnan(metrics.get(metric, math.nan))
  }
  return sorted(ranks, key=ranks.__getitem__, reverse=True)


class BestPolicy:
  """An Orbax preservation policy that keeps the best checkpoint.

  Orbax's `BestN` reads a metrics file when it starts, and raises if that file
  is damaged.
  """

  def __init__(
    self,
    metric: str | None,
    read: Callable[[int], Metrics | None],
    *,
    lowest: bool = False,
  ):
    """Makes the policy.

    Args:
      metric: name of what ranks them; None keeps no checkpoint.
      read: step -> metrics recorded with its checkpoint, `None` if they cannot
        be read; called for steps that were not passed to `record`.
      lowest: whether lower values of the metric are better.
    """
    self._metric = metric
    self._read = read
    self._lowest = lowest
    self._found: dict[int, Metrics | None] = {}

  def record(self, step: int, metrics: Metrics) -> None:
    """Takes the metrics of a new checkpoint."""
    self._found[step] = metrics

  def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
    """Returns for each checkpoint whether to keep it."""
    del context  # Recorded metrics decide.
    steps = [checkpoint.step for checkpoint in checkpoints]
    if self._metric is None:
      return [False] * len(steps)
    for step in steps:
      if step not in self._found:
        self._found[step] = self._read(step)
    found = {step: self._found[step] for step in steps}
    best = best_first(found, self._metric, lowest=self._lowest)[:1]
    return [step in best for step in steps]
