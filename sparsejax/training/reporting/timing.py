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
    Of each dispatch with more mask updates than others of as many steps, what
    it took longer than the median of those with the fewest, for each update
    more: the median of these, 0 where the clock is too coarse. `None` where no
    two dispatches can be compared.
  """
  alike = collections.defaultdict(list)
  for each in dispatches[1:]:
    alike[each.steps].append(each)
  added = []
  for some in alike.values():
    fewest = min(each.updates for each in some)
    base = statistics.median(e.seconds for e in some if e.updates == fewest)
    added += [
      (each.seconds - base) / (each.updates - fewest)
      for each in some
      if each.updates > fewest
    ]
  return max(statistics.median(added), 0.0) if added else None
