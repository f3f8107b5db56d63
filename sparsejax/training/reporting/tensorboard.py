"""TensorBoard events, written synchronously.

tensorboardX's `SummaryWriter` writes on a background thread. When that thread
dies, for example on a full disk, later writes block forever; here the error is
raised where it happens.
"""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

# These classes are created on import, where type checkers do not see them.
_events: Any = event_pb2
_summaries: Any = summary_pb2


class Writer:
  """Writes scalars to a new events file."""

  def __init__(self, folder: pathlib.Path, *, start: int):
    """Opens the file.

    Args:
      folder: exists.
      start: completed steps; TensorBoard discards later steps in older files.

    Raises:
      OSError: if the file cannot be written.
    """
    self._file = EventsWriter(str(folder / "events"))
    restart = _events.SessionLog(status=_events.SessionLog.START)
    self._file.write_event(
      _events.Event(wall_time=time.time(), step=start + 1, session_log=restart)
    )

  def write(self, row: Mapping[str, Any]) -> None:
    """Write one point for each value of a row except `step`.

    Args:
      row: `step` and numbers; None and lists are skipped.

    Raises:
      OSError: if they cannot be written.
    """
    points = [
      _summaries.Summary.Value(tag=name, simple_value=float(value))
      for name, value in row.items()
      if name != "step" and isinstance(value, int | float)
    ]
    self._file.write_event(
      _events.Event(
        wall_time=time.time(),
        step=row["step"],
        summary=_summaries.Summary(value=points),
      )
    )

  def flush(self) -> None:
    """Flushes the file."""
    self._file.flush()

  def close(self) -> None:
    """Flushes and closes the file; closes it also if the disk is full."""
    try:
      self._file.close()
    finally:
      # It flushes first, and stays open if that fails.
      self._file._py_recordio_writer.close()
