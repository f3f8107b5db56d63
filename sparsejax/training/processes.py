"""Several processes of one run: joining, agreeing, and a shared folder."""

import contextlib
import pathlib
import signal
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sparsejax import command_line

# What jax says where there is no cluster to detect, and where its devices are
# in use: then whoever uses them has joined the processes, or stays alone.
_ALONE = ("coordinator_address should be defined", "must be called before")


def join(
  *,
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  heartbeat_timeout_seconds: int = 100,
) -> None:
  """Join the other processes, before any device is used.

  Without arguments jax looks for a cluster that it knows (Slurm, Open MPI,
  Kubernetes, a TPU pod) and the process stays alone where there is none.

  Args:
    coordinator_address: host:port of process 0.
    num_processes: how many there are.
    process_id: which one this is.
    heartbeat_timeout_seconds: how long after a process was lost jax ends the
      others; they end at once when it was process 0.

  Raises:
    InputError: if only some arguments are given, or joining failed.
  """
  given = (coordinator_address, num_processes, process_id)
  if None in given and given != (None, None, None):
    raise command_line.InputError(
      "`--coordinator_address`, `--num_processes` and `--process_id` go"
      f" together, got {given}."
    )
  try:
    jax.distributed.initialize(
      coordinator_address=coordinator_address,
      num_processes=num_processes,
      process_id=process_id,
      heartbeat_timeout_seconds=heartbeat_timeout_seconds,
    )
  except (RuntimeError, ValueError) as error:
    if given == (None, None, None) and any(x in str(error) for x in _ALONE):
      return
    raise command_line.InputError(
      f"Joining the other processes failed: {error}"
      " `--distributed=False` trains in this process alone."
    ) from error
  # jax has put a handler of its own under Python's, which hides this one.
  signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def is_first() -> bool:
  """Says whether this is the process that writes."""
  return jax.process_index() == 0


def any_of(flag: bool) -> bool:
  """Says whether `flag` holds in any process; all must call it together."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def of_the_first(tree: Any) -> Any:
  """Returns the first process's arrays in all; all must call it together.

  Args:
    tree: arrays in this process, of the same shapes in every one.
  """
  if jax.process_count() == 1:
    return tree
  return multihost_utils.broadcast_one_to_all(tree)


def wait(name: str) -> None:
  """Waits until every process has come to the point called `name`."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f"sparsejax_{name}")


def check_shared(folder: pathlib.Path) -> None:
  """Refuses a folder that not every process sees.

  A save into such a folder would wait forever.

  Args:
    folder: exists in the first process.

  Raises:
    InputError: in every process, if one of them does not see it.
  """
  if jax.process_count() == 1:
    return
  probe = folder / ".shared"
  if is_first():
    probe.touch()
  wait("probe")
  missing = any_of(not probe.exists())
  if is_first():
    probe.unlink()
  if missing:
    raise command_line.InputError(
      f"`--workdir` {folder} is not shared by all processes. Give a folder on"
      " a file system that every one of them mounts."
    )


class StopRequest:
  """Whether SIGTERM has come: a fact of the outside, requested at dispatches.

  Attributes:
    seen: whether this process got the signal.
  """

  def __init__(self) -> None:
    self.seen = False

  def agreed(self) -> bool:
    """Says whether any process got it; all must call this together."""
    return any_of(self.seen)

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    del number, frame  # One signal, and nothing is interrupted.
    self.seen = True


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
  """Turns SIGTERM into a request for as long as the context lasts."""
  request = StopRequest()
  before = signal.signal(signal.SIGTERM, request._handle)
  try:
    yield request
  finally:
    signal.signal(signal.SIGTERM, before)
