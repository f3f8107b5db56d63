"""Where the time of a run goes, and how long mask updates take."""

import collections
import contextlib
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sparsejax.plots import records


class Clock:
  """Where the time of a run goes, over all its starts.

  A resumed run continues the sums of the last row that it keeps. So what a kill
  lost counts for no phase: steps that are repeated, and time in a queue, are
  what the sum of all phases lacks of the time since the first start.
  """

  def __init__(self) -> None:
    """Begins the phase `start`."""
    self._began = time.time()
    self._start: float | None = time.perf_counter()
    self._seconds: dict[str, float] = {name: 0.0 for name in records.PHASES}

  def started(self) -> None:
    """Ends the phase `start`; later calls do nothing."""
    if self._start is not None:
      self._seconds["start"] += time.perf_counter() - self._start
      self._start = None

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Adds the time inside the context to a phase of `records.PHASES`."""
    before = time.perf_counter()
    try:
      yield
    finally:
      self._seconds[name] += time.perf_counter() - before

  def resume(self, row: Mapping[str, Any]) -> None:
    """Continues the sums in a row that an earlier start wrote."""
    self._began = row["run_began_seconds"]
    for name in self._seconds:
      self._seconds[name] += row[f"run_{name}_seconds"]

  def row(self) -> dict[str, float]:
    """Returns the sums, the first start (Unix time), and the time since it."""
    # Another machine's clock may be behind.
    least = math.fsum(self._seconds.values())
    return {
      **{f"run_{name}_seconds": x for name, x in self._seconds.items()},
      "run_elapsed_seconds": max(time.time() - self._began, least),
      "run_began_seconds": self._began,
    }


class Dispatch(NamedTuple):
  """The duration of a dispatch.

  Attributes:
    steps: number of training steps.
    updates: number of mask updates in these steps.
    seconds: wall time.
  """

  steps: int
  updates: int
  seconds: float


def mask_update_seconds(dispatches: Sequence[Dispatch]) -> float | None:
  """Estimate how much a mask update adds to a dispatch.

  Args:
    dispatches: of one process, in order; the first is ignored as warm-up.

  Returns:
    Among dispatches of equally many steps, those with the fewest mask updates
    set a median baseline; each other one exceeds it by some time per additional
    update. The result is the median of these times. `None` if no two dispatches
    can be compared, or other things took more time than the updates: a quarter
    of these times are not above 0.
  """
  by_steps = collections.defaultdict(list)
  for each in dispatches[1:]:
    by_steps[each.steps].append(each)
  added = []
  for group in by_steps.values():
    fewest = min(each.updates for each in group)
    baseline = statistics.median(
      each.seconds for each in group if each.updates == fewest
    )
    added += [
      (each.seconds - baseline) / (each.updates - fewest)
      for each in group
      if each.updates > fewest
    ]
  added.sort()
  if not added or added[len(added) // 4] <= 0:
    return None
  return statistics.median(added)
