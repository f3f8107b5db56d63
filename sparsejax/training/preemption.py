"""Preemption: a signal requests a stop after a dispatch or an evaluated batch.

SIGTERM comes from a scheduler, and SIGHUP from a terminal that was closed. If
SIGHUP is ignored, as under `nohup`, it stays so.

Python calls a handler of signals only between two bytecode instructions, and
compiling or waiting for another process is one of minutes. A thread therefore
watches the signals as well. It ends the process at once where that loses
nothing, and at a second signal.
"""

import contextlib
import os
import signal
import socket
import threading
import time
import types
from collections.abc import Iterator

from sparsejax import command_line
from sparsejax.training import processes, watchdog

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_OUTPUTS = (1, 2)  # File descriptors of stdout and stderr.
# A scheduler may send one signal to a process and to its group.
_SAME_SIGNAL_SECONDS = 1.0


class Stopped(Exception):
  """A signal was received where nothing has to be saved."""


class StopRequest:
  """Whether the run should save and stop.

  Attributes:
    received: whether this process received a signal.
    nothing_to_save: whether it may end at once, because no step was taken since
      the newest checkpoint.
  """

  def __init__(self) -> None:
    self.received = False
    self.nothing_to_save = False
    self._terminals = [fd for fd in _OUTPUTS if os.isatty(fd)]

  def agreed(self) -> bool:
    """Returns whether any process received a signal; a collective call."""
    return processes.any_of(self.received)

  def check(self) -> None:
    """Raise if any process received a signal; a collective call.

    Raises:
      Stopped: in every process.
    """
    if self.agreed():
      raise Stopped(_nothing_lost())

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
    with _watched(request):
      yield request
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def _watched(request: StopRequest) -> Iterator[None]:
  """Watches the numbers of signals, which Python writes as they arrive."""
  ours, theirs = socket.socketpair()
  theirs.setblocking(False)
  before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
  watch = threading.Thread(target=_watch, args=(request, ours), daemon=True)
  watch.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    theirs.close()
    watch.join()
    ours.close()


def _watch(request: StopRequest, numbers: socket.socket) -> None:
  first = None
  while number := numbers.recv(1):
    if number[0] not in _SIGNALS:
      continue
    first = first or time.monotonic()
    if request.nothing_to_save:
      watchdog.leave(command_line.TERMINATED, _nothing_lost())
    if time.monotonic() - first > _SAME_SIGNAL_SECONDS:
      watchdog.leave(
        command_line.TERMINATED,
        f"Ended by a second signal, without saving. {command_line.RESUME}",
      )


def _nothing_lost() -> str:
  return (
    "Stopped by a signal where nothing had to be saved. Run the same command to"
    " resume."
  )
