"""The time that mask updates take, estimated from dispatches."""

import collections
import statistics
from collections.abc import Sequence
from typing import NamedTuple


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
    update. The result is the median of these times, at least 0. `None` if no
    two dispatches can be compared.
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
  return max(statistics.median(added), 0.0) if added else None
