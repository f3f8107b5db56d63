"""Roll call: before processes join, process 0 waits until all of them are here.

If a process never comes, jax aborts the others without a word about which one.
So process 0 first listens at the coordinator's address, where every process
says its index and gets the answer that all are here, or who is missing.
"""

import contextlib
import json
import socket
import time
from typing import Any, NamedTuple

from sparsejax import command_line
from sparsejax.training import coordination

_RETRY_SECONDS = 0.2
_HELLO = {"process", "processes", "host"}
_SPEAK_SECONDS = 5.0  # Whoever connects says who it is within this time.


class Member(NamedTuple):
  """One of the processes.

  Attributes:
    address: host:port of process 0.
    process: index of this one.
    processes: how many there are.
  """

  address: str
  process: int
  processes: int


def call(member: Member, *, seconds: float) -> None:
  """Wait until all processes are here; nothing stays open.

  Args:
    member: this process.
    seconds: how long to wait.

  Raises:
    PeerError: if a process does not come in time; names it, in every process.
    InputError: if two processes have one index, or another number of processes;
      in every process that is here.
  """
  if member.processes == 1:
    return
  deadline = time.monotonic() + seconds
  if member.process == 0:
    answer = _listen(member, deadline)
  else:
    answer = _report(member, deadline)
  if answer.get("wrong"):
    raise command_line.InputError(answer["wrong"])
  missing = answer.get("missing")
  if missing:
    raise command_line.PeerError(
      f"{coordination.named(missing)} of {member.processes} did not come within"
      f" {seconds:g} s (`--join_timeout_seconds`) to {member.address}."
    )


def _listen(member: Member, deadline: float) -> dict[str, Any]:
  """Waits for the others as process 0, and answers them."""
  here: dict[int, str] = {0: socket.gethostname()}
  answer: dict[str, Any] = {}
  with contextlib.ExitStack() as stack:
    server = stack.enter_context(_server(member.address))
    connections = []
    while len(here) < member.processes and not answer:
      connection = _accept(server, deadline)
      if connection is None:
        answer["missing"] = sorted(set(range(member.processes)) - set(here))
        break
      stack.enter_context(connection)
      other = _read(connection, _SPEAK_SECONDS)
      if other is not None and other.keys() == _HELLO:
        connections.append(connection)
        answer = _register(here, other, member.processes)
    for connection in connections:
      with contextlib.suppress(OSError):
        connection.sendall(json.dumps(answer).encode() + b"\n")
  return answer


def _register(
  here: dict[int, str], other: dict[str, Any], count: int
) -> dict[str, Any]:
  """Notes that a process is here; returns what is wrong with it."""
  index, host = other["process"], other["host"]
  if other["processes"] != count:
    return {
      "wrong": f"`--num_processes` is {count} in process 0 on {here[0]} and"
      f" {other['processes']} in process {index} on {host}."
    }
  if index in here:
    return {
      "wrong": f"`--process_id` is {index} for two processes, on {here[index]}"
      f" and on {host}."
    }
  here[index] = host
  return {}


def _report(member: Member, deadline: float) -> dict[str, Any]:
  """Says to process 0 that this one is here; returns its answer."""
  text = {
    "process": member.process,
    "processes": member.processes,
    "host": socket.gethostname(),
  }
  host, _, port = member.address.rpartition(":")
  while time.monotonic() < deadline:
    with contextlib.suppress(OSError):
      left = max(deadline - time.monotonic(), _RETRY_SECONDS)
      with socket.create_connection((host.strip("[]"), int(port)), left) as to:
        to.sendall(json.dumps(text).encode() + b"\n")
        # Process 0 may have begun to wait later, and answers when it ends.
        answer = _read(to, 2 * left)
      if answer is not None:
        return answer
    time.sleep(_RETRY_SECONDS)
  return {"missing": [0]}


def _server(address: str) -> socket.socket:
  port = int(address.rpartition(":")[2])
  try:
    if socket.has_dualstack_ipv6():
      family = socket.AF_INET6
      return socket.create_server(
        ("", port), family=family, dualstack_ipv6=True
      )
    return socket.create_server(("", port))
  except OSError as error:
    raise command_line.InputError(
      f"Process 0 cannot listen at port {port} of {address}: {error.strerror}."
      " Use another port."
    ) from error


def _accept(server: socket.socket, deadline: float) -> socket.socket | None:
  """Returns the next connection; `None` if none comes in time."""
  server.settimeout(max(deadline - time.monotonic(), 0.001))
  try:
    return server.accept()[0]
  except TimeoutError:
    return None


def _read(connection: socket.socket, seconds: float) -> dict[str, Any] | None:
  """Returns what the other side says; `None` if it says nothing of ours."""
  connection.settimeout(seconds)
  try:
    with connection.makefile() as lines:
      found = json.loads(lines.readline())
  except (OSError, ValueError):
    return None
  return found if isinstance(found, dict) else None
