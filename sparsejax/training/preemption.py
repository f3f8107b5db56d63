"""Preemption: a signal requests a stop at the end of the current dispatch.

SIGTERM comes from a scheduler, and SIGHUP from a terminal that was closed. If
SIGHUP is ignored, as under `nohup`, it stays so.
"""

import contextlib
import os
import signal
import types
from collections.abc import Iterator

from sparsejax.training import processes

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_OUTPUTS = (1, 2)  # File descriptors of stdout and stderr.


class StopRequest:
  """Whether the run should save and stop.

  Attributes:
    received: whether this process received a signal.
  """

  def __init__(self) -> None:
    self.received = False
    self._terminals = [fd for fd in _OUTPUTS if os.isatty(fd)]

  def agreed(self) -> bool:
    """Returns whether any process received a signal; a collective call."""
    return processes.any_of(self.received)

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    del frame  # There is nothing to interrupt.
    self.received = True
    if number == signal.SIGHUP:
      # Writing to a closed terminal raises, and nothing would be saved.
      with open(os.devnull, "w") as nowhere:
        for terminal in self._terminals:
          os.dup2(nowhere.fileno(), terminal)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """Turns SIGTERM and SIGHUP into a request inside the context."""
  request = StopRequest()
  previous = {number: signal.getsignal(number) for number in _SIGNALS}
  for number, handler in previous.items():
    if handler != signal.SIG_IGN:
      signal.signal(number, request._handle)
  try:
    yield request
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
