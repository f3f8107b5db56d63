"""The coordination service of jax: texts between processes, and barriers.

It runs in process 0 once the processes have joined, and needs no device. Every
wait ends: after a time, or as soon as process 0 is gone.

jax has no public access to it; Orbax uses the same attribute of `jax._src`,
which stands here alone.
"""

import itertools
import re
from typing import Any

import jax
from jax._src import distributed

from sparsejax import command_line

_TIMED_OUT = "DEADLINE_EXCEEDED"
_EXISTS = "ALREADY_EXISTS"
_NOT_FOUND = "NOT_FOUND"
# What the service says before one line for each process that did not come.
_MISSING = re.compile(r"timed out task names:\s*((?:\S*?\d+\s*?\n)+)")

_numbers = itertools.count()
_patience_seconds = 3600.0


def index() -> int:
  """Returns the index of this process, without using a device."""
  return distributed.global_state.process_id


def count() -> int:
  """Returns how many processes train together, without using a device."""
  return distributed.global_state.num_processes if _client() else 1


def put(key: str, text: str) -> bool:
  """Publish a text once.

  Returns:
    Whether it is this text that others see: False if the key had one before.

  Raises:
    PeerError: if process 0 is gone.
  """
  try:
    _client().key_value_set(key, text)
  except jax.errors.JaxRuntimeError as error:
    if _EXISTS in str(error):
      return False
    raise _gone(error) from error
  return True


def get(key: str, *, seconds: float) -> str | None:
  """Wait for a text that some process publishes.

  Args:
    key: as in `put`.
    seconds: how long to wait.

  Returns:
    The text; `None` if it did not come in time.

  Raises:
    PeerError: if process 0 is gone.
  """
  milliseconds = max(int(seconds * 1000), 1)
  try:
    return _client().blocking_key_value_get(key, milliseconds)
  except jax.errors.JaxRuntimeError as error:
    if _TIMED_OUT in str(error):
      return None
    raise _gone(error) from error


def look(key: str) -> str | None:
  """Returns a text that some process has published, `None` if there is none.

  Raises:
    PeerError: if process 0 is gone.
  """
  try:
    return _client().key_value_try_get(key)
  except jax.errors.JaxRuntimeError as error:
    if _NOT_FOUND in str(error):
      return None
    raise _gone(error) from error


def forget(folder: str) -> None:
  """Removes the texts whose keys begin with a folder.

  Raises:
    PeerError: if process 0 is gone.
  """
  try:
    _client().key_value_delete(folder)
  except jax.errors.JaxRuntimeError as error:
    raise _gone(error) from error


def be_patient(seconds: float) -> None:
  """Sets how long a process waits at a barrier; an hour by default."""
  global _patience_seconds
  _patience_seconds = seconds


def barrier(name: str) -> None:
  """Wait until every process is here.

  Args:
    name: says what the processes wait for. All processes pass the same barriers
      in the same order.

  Raises:
    PeerError: if a process does not come in time, or process 0 is gone.
  """
  if count() > 1:
    unique_barrier(f"sparsejax_{name}_{next(_numbers)}", _patience_seconds)


def unique_barrier(name: str, seconds: float) -> None:
  """Wait at a barrier whose name is used once.

  Args:
    name: the same in all processes.
    seconds: how long to wait at most; less, if `be_patient` says so.

  Raises:
    PeerError: as in `barrier`.
  """
  seconds = min(seconds, _patience_seconds)
  try:
    _client().wait_at_barrier(name, max(int(seconds * 1000), 1))
  except jax.errors.JaxRuntimeError as error:
    if _TIMED_OUT not in str(error):
      raise _gone(error) from error
    found = _MISSING.search(str(error) + "\n")
    missing = re.findall(r"\d+(?=\s)", found[1]) if found else []
    raise command_line.PeerError(
      f"{named(missing)} did not reach the barrier `{name}` within"
      f" {seconds:g} s."
    ) from error


def named(missing: list[str] | list[int]) -> str:
  """Writes indices of processes, at most ten of them.

  Examples:
    >>> named([3]), named([1, 2])
    ('Process 3', 'Processes 1, 2')
  """
  if not missing:
    return "A process"
  listed = ", ".join(str(each) for each in missing[:10])
  more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
  return f"Process{'es' if len(missing) > 1 else ''} {listed}{more}"


def _client() -> Any:
  return distributed.global_state.client


def _gone(error: Exception) -> command_line.PeerError:
  reason = str(error).splitlines()[0].rstrip(".")
  return command_line.PeerError(
    f"The coordination service in process 0 cannot be reached: {reason}."
  )
