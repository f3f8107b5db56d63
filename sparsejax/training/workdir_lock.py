"""The lock of a workdir: one run at a time writes there.

`.lock` holds the host and the process of its owner, and the kernel's lock on
that file (`flock`) lasts until the owner ends, however it ends. So on one
machine, and on a network file system that shares such locks (NFS, Lustre with
`flock`, Ceph, GPFS), the next run knows at once whether the owner is gone.

Other file systems keep locks to each machine, and an owner on another machine
cannot be probed. It therefore touches the file every few seconds; a run that
finds another machine's name in a file that it could lock watches it for
`_WATCH_SECONDS`, and takes over if nothing was touched. An owner that was
suspended for so long finds the other name when it wakes, and ends.

Of several processes that train together, only process 0 holds the lock.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import secrets
import socket
import time
from collections.abc import Callable, Iterator

from sparsejax import command_line
from sparsejax.training import background

FILE = ".lock"

_HEARTBEAT_SECONDS = 5.0
_WATCH_SECONDS = 30.0
_POLL_SECONDS = 1.0
_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")
# What a file system without locks raises.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class Lock:
  """A lock that this process holds; made by `hold`."""

  def __init__(self, path: pathlib.Path, text: bytes):
    self._path = path
    self._text = text

  def check(self) -> None:
    """Raise if another run took over; then nothing more may be written.

    Raises:
      InputError: names the new owner.
    """
    try:
      text = self._path.read_bytes()
    except FileNotFoundError:
      text = b""
    if text != self._text:
      raise command_line.InputError(
        f"{self._path.parent} was taken over by {_owner(text)} while this run"
        " was suspended. Nothing was written since; that run continues from the"
        " newest checkpoint."
      )


@contextlib.contextmanager
def hold(
  workdir: pathlib.Path, *, message: Callable[[str], None]
) -> Iterator[Lock]:
  """Hold the lock of a workdir inside the context.

  Args:
    workdir: exists.
    message: prints a line if the owner has to be watched.

  Yields:
    The lock.

  Raises:
    InputError: if another run holds it.
    OSError: if the file cannot be written.
  """
  path = workdir / FILE
  owner = {"host": socket.gethostname(), "process": os.getpid()}
  unique = {"boot": _boot(), "id": secrets.token_hex(8)}
  text = json.dumps(owner | unique).encode()
  descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
  try:
    _acquire(descriptor, path, message)
    _replace(descriptor, text)
    with background.repeated(
      lambda: _beat(descriptor), every=_HEARTBEAT_SECONDS, name="workdir_lock"
    ):
      yield Lock(path, text)
    with contextlib.suppress(OSError):  # The folder may be gone.
      if path.read_bytes() == text:
        _replace(descriptor, b"")
  finally:
    os.close(descriptor)


def _acquire(
  descriptor: int, path: pathlib.Path, message: Callable[[str], None]
) -> None:
  """Locks the file, or raises if its owner is alive."""
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    exact = True
  except BlockingIOError:
    raise _taken(path) from None
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise
    exact = False
  text = path.read_bytes()
  if not text or (exact and _parse(text).get("boot") == _boot() != ""):
    return
  message(
    f"{path.parent} was left locked by {_owner(text)}, which cannot be reached"
    f" from here. Waiting {_WATCH_SECONDS:.0f} s for a sign of it."
  )
  before = _heartbeat(path)
  deadline = time.monotonic() + _WATCH_SECONDS
  while time.monotonic() < deadline:
    time.sleep(_POLL_SECONDS)
    if _heartbeat(path) != before:
      raise _taken(path)


def _taken(path: pathlib.Path) -> command_line.InputError:
  return command_line.InputError(
    f"`--workdir` {path.parent} is in use by {_owner(path.read_bytes())}. Wait"
    " for that run or stop it, or use another workdir."
  )


def _owner(text: bytes) -> str:
  found = _parse(text)
  if not found:
    return "another run"
  return f"process {found.get('process')} on {found.get('host')}"


def _parse(text: bytes) -> dict[str, object]:
  try:
    found = json.loads(text)
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def _boot() -> str:
  """Returns what identifies this kernel, "" where it is unknown.

  Containers share a kernel, which knows their locks, but not their host names
  and process numbers.
  """
  try:
    return _BOOT_ID.read_text().strip()
  except OSError:
    return ""


def _heartbeat(path: pathlib.Path) -> tuple[int, bytes]:
  """Returns what changes while the owner is alive."""
  # Network file systems ask the server when a file is opened.
  with open(path, "rb") as file:
    return os.fstat(file.fileno()).st_mtime_ns, file.read()


def _beat(descriptor: int) -> None:
  with contextlib.suppress(OSError):
    os.utime(descriptor)


def _replace(descriptor: int, text: bytes) -> None:
  """Writes the whole content; on disk when this returns."""
  os.pwrite(descriptor, text, 0)
  os.ftruncate(descriptor, len(text))
  os.fsync(descriptor)
