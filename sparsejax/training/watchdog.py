"""Leaving: a process that cannot continue ends at once, and the others with it.

Where several processes train together, an ordinary exit waits for minutes, and
a collective waits for ever for a process that is gone. So:

- `leave` ends this process, even if its threads wait. It publishes why, so
  that the others leave too (`watch_peers`), with the same exit status if this
  one was meant to end, otherwise with 75: start again.
- If a process vanishes without a word, jax notices within its heartbeat timeout
  and aborts, with a status that says nothing. jax has no public way to choose
  another, and its internal callback cannot be called with a Python function. A
  handler of SIGABRT makes the status 75.
- A process can be stuck although it is alive: `watch_progress` ends it.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from sparsejax import command_line
from sparsejax.training import background, coordination

# Exit statuses of processes that were meant to end; 75 would start them again.
_FINAL = (
  command_line.BAD_INPUT,
  command_line.INTERRUPTED,
  command_line.TERMINATED,
)
_LEFT = "sparsejax_left"
_WAIT_SECONDS = 5.0  # One request to process 0.
_REQUESTS_PER_SECOND = 1000  # Of all processes, to process 0.
_GRACE_SECONDS = 2.0  # This process may leave by itself, and says why better.
_PRINT_SECONDS = 2.0  # Nobody may read the pipe.
_LINGER_SECONDS = 6.0  # Process 0 leaves last: it has the coordination service.
_POLL_SECONDS = 0.5
_SUSPENDED_SECONDS = 30.0
# What XLA, Gloo, NCCL and the coordination service say about a lost process.
_LOST = re.compile(
  r"gloo|nccl|connection (reset|closed|refused)|socket closed|broken pipe"
  r"|heartbeat|coordination service|unhealthy|remote process|UNAVAILABLE",
  re.IGNORECASE,
)

_leaving = threading.Lock()
_ending = threading.Event()
_status: int | None = None  # With which this process leaves.
_last_progress = time.monotonic()


def progress() -> None:
  """Notes that this process is not stuck."""
  global _last_progress
  _last_progress = time.monotonic()


def is_lost_peer(error: BaseException) -> bool:
  """Returns whether an error follows from the loss of another process."""
  link: BaseException | None = error
  while link is not None:
    if isinstance(link, command_line.PeerError):
      return True
    # jax raises ValueError, too.
    from_jax = isinstance(link, RuntimeError | ValueError)
    ours = isinstance(link, command_line.InputError)
    if from_jax and not ours and _LOST.search(str(link)):
      return True
    link = link.__cause__ or link.__context__
  return False


def leave(status: int, text: str) -> NoReturn:
  """End this process at once.

  Neither a full disk, a pipe that nobody reads nor a lost process stops it.

  Args:
    status: exit status.
    text: what to print, without a newline at the end.
  """
  global _status
  _leaving.acquire()  # Only the first one leaves.
  _status = status
  # Needs no interpreter: ends this process if nothing below can.
  seconds = _PRINT_SECONDS + 2 * _LINGER_SECONDS
  with open(os.devnull, "w") as nowhere:
    faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
    _within(_PRINT_SECONDS, lambda: _write(text))
    _within(_LINGER_SECONDS, lambda: _publish(status, text))
    os._exit(status)


def leave_because_of(error: BaseException, *, name: str, hint: str) -> NoReturn:
  """End this process because of what its main thread raised.

  Args:
    error: any exception.
    name: the command's module.
    hint: what to do next.
  """
  if is_lost_peer(error):
    time.sleep(_GRACE_SECONDS)  # Should it have said why, this is printed.
    reason = " ".join(str(error).split())
    leave(
      command_line.LOST_PEER,
      f"error: Another process was lost: {reason} {hint}",
    )
  explained = command_line.explain(error, name=name, hint=hint)
  if explained is None:
    leave(1, "".join(traceback.format_exception(error)))
  leave(*explained)


def watch_aborts() -> None:
  """Makes the exit status of an abort 75, unless this process leaves."""
  message = (
    "error: jax ended this process, most likely because it lost another one"
    f" (see above). {command_line.RESUME}"
  )

  def handle(number: int) -> None:
    del number
    if _status is None:
      _within(_PRINT_SECONDS, lambda: _write(message))
    os._exit(command_line.LOST_PEER if _status is None else _status)

  # Handlers of Python's `signal` run later, when `abort` has ended the process.
  library = ctypes.CDLL(None)
  handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
  _kept.append(handler)
  library.signal(signal.SIGABRT, handler)


def watch_peers() -> None:
  """Leave with other processes, from now until the interpreter exits."""
  thread = threading.Thread(target=_follow, name="watch_peers", daemon=True)
  thread.start()

  def end() -> None:
    _ending.set()
    thread.join(_WAIT_SECONDS)

  atexit.register(end)


@contextlib.contextmanager
def watch_progress(seconds: float) -> Iterator[None]:
  """Leave if `progress` is not called for a time, inside the context.

  Args:
    seconds: longer than any dispatch, evaluation, save and compilation takes.
  """
  awake = time.monotonic()

  def watch() -> None:
    nonlocal awake
    now = time.monotonic()
    if now - awake > _SUSPENDED_SECONDS:
      progress()  # The whole process was stopped, and now continues.
    awake = now
    if now - _last_progress > seconds:
      _leave_stuck(seconds)

  progress()
  every = min(_POLL_SECONDS, seconds / 4)
  with background.repeated(watch, every=every, name="watch_progress"):
    yield


def _leave_stuck(seconds: float) -> NoReturn:
  _within(_PRINT_SECONDS, lambda: faulthandler.dump_traceback(2))
  leave(
    command_line.LOST_PEER,
    f"error: Process {coordination.index()} made no progress for {seconds:g} s"
    " (`--hang_timeout_seconds`); its stacks are above. Another process may be"
    f" stuck. {command_line.RESUME}",
  )


def _follow() -> None:
  """Looks whether another process leaves, or process 0 is gone."""
  every = _POLL_SECONDS + coordination.count() / _REQUESTS_PER_SECOND
  while not _ending.wait(every):
    try:
      text = coordination.look(_LEFT)
    except command_line.PeerError as error:
      hint = command_line.RESUME
      leave(command_line.LOST_PEER, f"error: {error} {hint}")
    if text is not None:
      time.sleep(_GRACE_SECONDS)
      left = json.loads(text)
      final = left["status"] in _FINAL
      leave(
        left["status"] if final else command_line.LOST_PEER,
        f"error: Process {left['process']} on {left['host']} left with status"
        f" {left['status']}: {left['text']}",
      )


def _publish(status: int, text: str) -> None:
  """Tells the others; process 0 then waits until they have left as well.

  If a process is lost, they know, and need not be waited for.
  """
  if coordination.count() == 1:
    return
  note = {
    "process": coordination.index(),
    "host": socket.gethostname(),
    "status": status,
    "text": text.removeprefix("error: ")[-2000:],
  }
  with contextlib.suppress(command_line.PeerError):
    coordination.put(_LEFT, json.dumps(note))
    coordination.put(f"{_LEFT}/{coordination.index()}", "")
    if coordination.index() == 0 and status in _FINAL:
      deadline = time.monotonic() + _LINGER_SECONDS
      for other in range(1, coordination.count()):
        left = deadline - time.monotonic()
        coordination.get(f"{_LEFT}/{other}", seconds=left)


_kept: list[object] = []  # C functions must outlive their use.


def _write(text: str) -> None:
  with contextlib.suppress(Exception):
    sys.stdout.flush()
  with contextlib.suppress(Exception):
    sys.stderr.flush()
  with contextlib.suppress(OSError):
    os.write(2, f"{text}\n".encode())


def _within(seconds: float, act: Callable[[], None]) -> None:
  """Calls a function that may block, for a limited time."""
  thread = threading.Thread(target=act, daemon=True)
  thread.start()
  thread.join(seconds)
