"""Preemption: SIGTERM requests a stop at the end of the current dispatch."""

import contextlib
import signal
import types
from collections.abc import Iterator

from sparsejax.training import processes


class StopRequest:
  """Whether the run should save and stop.

  Attributes:
    received: whether this process received SIGTERM.
  """

  def __init__(self) -> None:
    self.received = False

  def agreed(self) -> bool:
    """Returns whether any process received SIGTERM; a collective call."""
    return processes.any_of(self.received)

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    del number, frame  # There is only one signal, and nothing to interrupt.
    self.received = True


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
  """Turns SIGTERM into a request inside the context."""
  request = StopRequest()
  previous = signal.signal(signal.SIGTERM, request._handle)
  try:
    yield request
  finally:
    signal.signal(signal.SIGTERM, previous)
