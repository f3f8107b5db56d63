"""The rows that a run writes, for each of its replicas."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from sparsejax.training.reporting import metrics, timing
from sparsejax.training.reporting.reporter import Reporter

Rows = list[dict[str, Any]]


@contextlib.contextmanager
def open(
  folders: Sequence[pathlib.Path],
  *,
  start: int,
  log_every: int,
  clock: timing.Clock,
  reporter: Reporter,
) -> Iterator["RunRecords"]:
  """Truncate and open the files; they are closed on exit.

  Args:
    folders: of the replicas; none in a process that writes nothing.
    start: completed steps of the state that the run starts from.
    log_every: steps between rows that are always written.
    clock: continues the sums of the rows that are kept.
    reporter: where lost rows are reported.
  """
  with contextlib.ExitStack() as stack:
    writers = [
      stack.enter_context(
        metrics.Writer(folder, start=start, log_every=log_every)
      )
      for folder in folders
    ]
    for writer in writers:
      if writer.warning is not None:
        reporter.message(f"warning: {writer.warning}")
    if writers and writers[0].times is not None:
      clock.resume(writers[0].times)
    yield RunRecords(writers, log_every=log_every, clock=clock)


class RunRecords:
  """Writes `metrics.jsonl` of every replica; made by `open`."""

  def __init__(
    self,
    writers: Sequence[metrics.Writer],
    *,
    log_every: int,
    clock: timing.Clock,
  ):
    self._writers, self._every, self._clock = writers, log_every, clock

  def write(self, of_each: Sequence[Rows], *, end: int) -> None:
    """Write the rows at multiples of `log_every`, and those of step `end`.

    The last row of each replica says where the time went.

    Args:
      of_each: for each replica, the rows of a dispatch.
      end: no later rows are written.
    """
    if not self._writers:
      return
    for writer, rows in zip(self._writers, of_each, strict=True):
      due = [
        row
        for row in rows
        if row["step"] == end
        or (row["step"] < end and row["step"] % self._every == 0)
      ]
      if due:
        due[-1] |= self._clock.row()
      writer.write(due)

  def sync(self) -> None:
    """Waits until all rows are on disk, which checkpoints rely on."""
    for writer in self._writers:
      writer.sync()
