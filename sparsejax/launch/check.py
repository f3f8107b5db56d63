"""What the processes of a run see, as a table; they must agree.

The comparison is that of the trainer (`training.agreement`); the table, the
clock and the workdir come on top of it.
"""

import contextlib
import json
import pathlib
import platform
import secrets
import socket
import subprocess
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from sparsejax import command_line
from sparsejax.training import agreement, coordination, processes, run
from sparsejax.training.config import command

# Beyond this, times in logs and on files of several machines mislead.
_MAX_SKEW_SECONDS = 10.0
# A network file system may show a new file a little later.
_VISIBLE_SECONDS = 10.0
_POLL_SECONDS = 0.1


def check(argv: Sequence[str]) -> int:
  """Print what each process sees, and check that all see the same.

  Args:
    argv: arguments of `sparsejax.train`.

  Returns:
    The exit status.

  Raises:
    InputError: in every process, if they differ.
    PeerError: if a process does not come.
  """
  parsed = command.parse(argv)
  with run.exit_alone("sparsejax.launch"):
    if parsed.distributed and not jax.distributed.is_initialized():
      processes.join(**parsed.cluster)
    _check(parsed, seconds=float(parsed.cluster["join_timeout_seconds"]))
  return command_line.DONE


def _check(parsed: command.Command, *, seconds: float) -> None:
  config = parsed.config.to_dict()
  facts = agreement.facts(config, parsed.workdir) | agreement.device_facts()
  skew = _clock_skew(seconds)
  with _shared(parsed.workdir, seconds) as shared:
    rows = _gather(
      {
        "process": coordination.index(),
        "host": socket.gethostname(),
        "devices": f"{facts['devices']} {', '.join(facts['device kinds'])}",
        "jax": facts["jax"],
        "python": platform.python_version(),
        "commit": _commit(),
        "config": f"{zlib.crc32(json.dumps(config, default=str).encode()):08x}",
        "workdir": {None: "none", True: "shared", False: "not shared"}[shared],
        "clock": f"{skew:+.1f} s",
      },
      seconds,
    )
  if rows:
    print(table(rows), flush=True)
  facts["--workdir is shared"] = shared
  facts[f"clock within {_MAX_SKEW_SECONDS:g} s of process 0"] = (
    abs(skew) <= _MAX_SKEW_SECONDS
  )
  agreement.check("launch", facts, seconds=seconds)
  if rows:
    print(f"All agree: {len(rows)} processes, {jax.device_count()} devices.")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns rows with the same keys as aligned columns, below their names."""
  lines = [[*rows[0]], *([str(cell) for cell in row.values()] for row in rows)]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return "\n".join(
    "  ".join(
      cell.ljust(width) for cell, width in zip(line, widths, strict=True)
    ).rstrip()
    for line in lines
  )


def _gather(row: Mapping[str, Any], seconds: float) -> list[dict[str, Any]]:
  """Returns the rows of all processes in process 0, none in the others."""
  if coordination.count() == 1:
    return [dict(row)]
  coordination.put(f"launch/row/{row['process']}", json.dumps(row))
  if coordination.index() != 0:
    return []
  return [
    json.loads(_get(f"launch/row/{index}", index, seconds))
    for index in range(coordination.count())
  ]


def _clock_skew(seconds: float) -> float:
  """Returns by how many seconds this clock is ahead of that of process 0."""
  if coordination.count() == 1:
    return 0.0
  coordination.unique_barrier("launch_clock", seconds)
  now = time.time()
  if coordination.index() == 0:
    coordination.put("launch/clock", repr(now))
    return 0.0
  return now - float(_get("launch/clock", 0, seconds))


@contextlib.contextmanager
def _shared(
  workdir: pathlib.Path | None, seconds: float
) -> Iterator[bool | None]:
  """Yields whether this process sees what process 0 writes to the workdir.

  Raises:
    InputError: if process 0 cannot write there.
  """
  if workdir is None:
    yield None
    return
  if coordination.index() != 0:
    name = _get("launch/probe", 0, seconds)
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while not (workdir / name).exists() and time.monotonic() < deadline:
      time.sleep(_POLL_SECONDS)
    yield (workdir / name).exists()
    return
  probe = workdir / f".shared_{secrets.token_hex(8)}"
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe.touch()
  except OSError as error:
    raise command_line.InputError(
      f"`--workdir` {workdir} cannot be used: {error.strerror}."
    ) from error
  try:
    if coordination.count() > 1:
      coordination.put("launch/probe", probe.name)
    yield True  # The rows of all processes arrive before it is removed.
  finally:
    probe.unlink()


def _get(key: str, index: int, seconds: float) -> str:
  """Returns what a process published, or raises if it does not in time."""
  text = coordination.get(key, seconds=seconds)
  if text is None:
    raise command_line.PeerError(
      f"{coordination.named([index])} did not answer within {seconds:g} s."
    )
  return text


def _commit() -> str:
  """Returns the commit of the package, with a + if files differ from it.

  A package that is no checkout, as in an image, has none; the comparison of its
  source does not need one.
  """
  folder = pathlib.Path(__file__).parent
  try:
    commit, changes = (
      subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=True,
      ).stdout.strip()
      for arguments in (
        ["rev-parse", "--short", "HEAD"],
        ["status", "--porcelain", "--untracked-files=no"],
      )
    )
  except (OSError, subprocess.CalledProcessError):
    return "none"
  return f"{commit}+" if changes else commit
