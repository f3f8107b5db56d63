"""Numbers for TensorBoard, written by the thread that has them.

tensorboardX's `SummaryWriter` writes from a thread of its own. When that one
ends, because a disk is full, the next numbers wait for it forever; here the
error is raised where it happens.
"""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

# Their classes are made when they are imported; no checker sees them.
_events: Any = event_pb2
_summaries: Any = summary_pb2


class Writer:
  """Writes scalars into a new events file of a folder."""

  def __init__(self, folder: pathlib.Path, *, start: int):
    """Opens the file.

    Args:
      folder: exists.
      start: completed steps; TensorBoard forgets what earlier files have of
        later ones.

    Raises:
      OSError: if it cannot be written.
    """
    self._file = EventsWriter(str(folder / "events"))
    restart = _events.SessionLog(status=_events.SessionLog.START)
    self._file.write_event(
      _events.Event(wall_time=time.time(), step=start + 1, session_log=restart)
    )

  def write(self, row: Mapping[str, Any]) -> None:
    """Write one point for each number of a row but its `step`.

    Args:
      row: `step` and numbers; None is left out.

    Raises:
      OSError: if they cannot be written.
    """
    points = [
      _summaries.Summary.Value(tag=name, simple_value=float(value))
      for name, value in row.items()
      if name != "step" and value is not None
    ]
    self._file.write_event(
      _events.Event(
        wall_time=time.time(),
        step=row["step"],
        summary=_summaries.Summary(value=points),
      )
    )

  def flush(self) -> None:
    """Gives what was written to the system."""
    self._file.flush()

  def close(self) -> None:
    """Flushes and closes the file."""
    self._file.close()
