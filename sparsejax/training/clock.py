"""What the clock tells of a run's dispatches."""

import collections
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Dispatch(NamedTuple):
  """How long a dispatch took.

  Attributes:
    steps: that it took.
    updates: mask updates in them.
    seconds: on the clock.
  """

  steps: int
  updates: int
  seconds: float


def mask_update_seconds(dispatches: Sequence[Dispatch]) -> float | None:
  """Tell how much longer a mask update makes a dispatch.

  Args:
    dispatches: of one process, in their order; the first one is left out, since
      it also warms up.

  Returns:
    Of each dispatch with mask updates, what it took longer than the median one
    of as many steps without any, over their number: the median of these, 0
    where the clock is too coarse. `None` where there is no such pair.
  """
  plain = collections.defaultdict(list)
  for each in dispatches[1:]:
    if not each.updates:
      plain[each.steps].append(each.seconds)
  added = [
    (each.seconds - statistics.median(plain[each.steps])) / each.updates
    for each in dispatches[1:]
    if each.updates and each.steps in plain
  ]
  return max(statistics.median(added), 0.0) if added else None
