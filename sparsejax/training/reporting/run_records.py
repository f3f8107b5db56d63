"""The rows that a run writes, for each of its replicas."""

import contextlib
import pathlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from sparsejax.training.reporting import metrics, timing
from sparsejax.training.reporting.reporter import Reporter

Rows = list[dict[str, Any]]


class RunRecords:
  """Writes `metrics.jsonl` of every replica; closes the files on exit."""

  def __init__(
    self,
    folders: Sequence[pathlib.Path],
    *,
    start: int,
    log_every: int,
    clock: timing.Clock,
    reporter: Reporter,
  ):
    """Truncates and opens the files.

    Args:
      folders: of the replicas; none in a process that writes nothing.
      start: completed steps of the state that the run starts from.
      log_every: steps between rows that are always written.
      clock: continues the sums of the rows that are kept.
      reporter: where lost rows are reported.
    """
    self._clock, self._every = clock, log_every
    self._writers: list[metrics.Writer] = []
    with contextlib.ExitStack() as stack:
      for folder in folders:
        writer = metrics.Writer(folder, start=start, log_every=log_every)
        self._writers.append(stack.enter_context(writer))
      self._files = stack.pop_all()
    for writer in self._writers:
      if writer.warning is not None:
        reporter.message(f"warning: {writer.warning}")
    if self._writers and self._writers[0].times is not None:
      clock.resume(self._writers[0].times)

  def __enter__(self) -> "RunRecords":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self._files.__exit__(kind, error, trace)

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
