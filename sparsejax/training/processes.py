"""Multi-process runs: joining, agreement, and the shared workdir."""

import os
import pathlib
import signal
from typing import Any

import jax
import numpy as np
from jax._src import clusters
from jax.experimental import multihost_utils

from sparsejax import command_line
from sparsejax.training import coordination, roll_call, watchdog

# What jax raises if it detects no cluster, or if its devices are already in
# use; then the process has joined the others before, or runs alone.
_NO_CLUSTER = ("coordinator_address should be defined", "must be called before")


def join(
  *,
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  heartbeat_timeout_seconds: int = 100,
  join_timeout_seconds: int = 300,
  hang_timeout_seconds: int = 3600,
) -> None:
  """Join the other processes, before any device is used.

  Without arguments, jax detects the cluster (Slurm, Open MPI, Kubernetes, a TPU
  pod); if there is none, the process runs alone.

  Args:
    coordinator_address: host:port of process 0.
    num_processes: number of processes.
    process_id: index of this process.
    heartbeat_timeout_seconds: after losing a process, the others end within
      this time; losing process 0 ends them at once.
    join_timeout_seconds: how long to wait for the other processes.
    hang_timeout_seconds: how long to wait at barriers afterwards.

  Raises:
    InputError: if only some arguments are given, one is out of range, or
      joining fails.
    PeerError: if a process does not come in time.
  """
  given = (coordinator_address, num_processes, process_id)
  if None in given and given != (None, None, None):
    raise command_line.InputError(
      "`--coordinator_address`, `--num_processes` and `--process_id` go"
      f" together, got {given}."
    )
  if coordinator_address is not None:
    _check_address(coordinator_address)
  if num_processes is not None and process_id is not None:
    _check_index(process_id, num_processes)
  try:
    member = _member(*given, join_timeout_seconds)
    if member is not None:
      roll_call.call(member, seconds=join_timeout_seconds)
      watchdog.watch_aborts()
    jax.distributed.initialize(
      coordinator_address=coordinator_address,
      num_processes=num_processes,
      process_id=process_id,
      initialization_timeout=join_timeout_seconds,
      heartbeat_timeout_seconds=heartbeat_timeout_seconds,
      shutdown_timeout_seconds=heartbeat_timeout_seconds,
    )
  except (command_line.PeerError, command_line.InputError):
    raise
  except (RuntimeError, ValueError) as error:
    detected = not any(text in str(error) for text in _NO_CLUSTER)
    if given == (None, None, None) and not detected:
      return
    raise command_line.InputError(
      f"Cannot join the other processes: {error}"
      " To train in this process alone, pass `--distributed=False`."
    ) from error
  # jax replaces the C-level handler, which disables Python's; install it again.
  signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
  coordination.be_patient(hang_timeout_seconds)
  watchdog.watch_peers()


def _member(
  address: str | None, count: int | None, index: int | None, seconds: int
) -> roll_call.Member | None:
  """Returns which process this is; `None` if jax detects no cluster."""
  if address is None:
    address, count, index, _ = (
      clusters.ClusterEnv.auto_detect_unset_distributed_params(
        os.environ.get("JAX_COORDINATOR_ADDRESS"),
        None,
        None,
        None,
        None,
        seconds,
      )
    )
  if address is None or count is None or index is None:
    return None
  return roll_call.Member(address, index, count)


def _check_address(address: str) -> None:
  host, _, port = address.rpartition(":")
  if not (host and port.isdecimal() and 0 < int(port) < 2**16):
    raise command_line.InputError(
      "`--coordinator_address` must be HOST:PORT of process 0, such as"
      f" 10.0.0.1:1234, got {address!r}."
    )


def _check_index(index: int, processes: int) -> None:
  if processes < 1:
    raise command_line.InputError(
      f"`--num_processes` must be at least 1, got {processes}."
    )
  if not 0 <= index < processes:
    raise command_line.InputError(
      f"`--process_id` must be in [0, {processes}), `--num_processes`, got"
      f" {index}."
    )


def is_first() -> bool:
  """Returns whether this is process 0, the one that writes files."""
  return jax.process_index() == 0


def any_of(flag: bool) -> bool:
  """Returns whether `flag` is set in any process; a collective call."""
  watchdog.progress()
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def broadcast_from_first(tree: Any) -> Any:
  """Returns the arrays of process 0 in every process; a collective call.

  Args:
    tree: arrays in this process, with the same shapes in every process.
  """
  if jax.process_count() == 1:
    return tree
  return multihost_utils.broadcast_one_to_all(tree)


def barrier(name: str) -> None:
  """Blocks until every process reaches the barrier called `name`.

  Raises:
    PeerError: if a process does not come within `--hang_timeout_seconds`.
  """
  watchdog.progress()
  coordination.barrier(name)
  watchdog.progress()


def check_shared(folder: pathlib.Path) -> None:
  """Raise if some process does not see a folder; saving there would hang.

  Args:
    folder: exists in process 0.

  Raises:
    InputError: in every process, if one of them does not see the folder.
  """
  if jax.process_count() == 1:
    return
  probe = folder / ".shared"
  if is_first():
    probe.touch()
  barrier("probe")
  missing = any_of(not probe.exists())
  if is_first():
    probe.unlink()
  if missing:
    raise command_line.InputError(
      f"`--workdir` {folder} is not shared by all processes. Use a folder on a"
      " file system that every process mounts."
    )
