"""Interleaved timing: noise of the machine affects all functions alike."""

import json
import os
import pathlib
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax


class Timing(NamedTuple):
  """Times of one call, or medians over several.

  Attributes:
    wall: wall-clock seconds.
    cpu: CPU seconds over all cores, user and system. Hardly affected by other
      load on the machine.
    faults: minor page faults (first touches of memory pages).
  """

  wall: float
  cpu: float
  faults: float


def measure(
  calls: Mapping[str, Callable[[], Any]],
  rounds: int,
  warm_up: int = 2,
  warm: int = 3,
) -> dict[str, Timing]:
  """Call all functions round-robin and return the medians of each.

  Args:
    calls: functions that return arrays; timing blocks until they are ready.
    rounds: number of timed rounds.
    warm_up: number of untimed rounds before.
    warm: untimed calls before each timed one, so that it finds caches and
      memory as its own last call left them.
  """
  samples: dict[str, list[Timing]] = {name: [] for name in calls}
  for i in range(warm_up + rounds):
    for name, call in calls.items():
      for _ in range(warm):
        jax.block_until_ready(call())
      before = _now()
      jax.block_until_ready(call())
      timing = Timing(*(b - a for a, b in zip(before, _now(), strict=True)))
      if i >= warm_up:
        samples[name].append(timing)
  return {
    name: Timing(*map(statistics.median, zip(*timings, strict=True)))
    for name, timings in samples.items()
  }


def alternate(
  calls: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 2
) -> dict[str, float]:
  """Calls all functions round-robin and returns the median seconds of each."""
  medians = measure(calls, rounds, warm_up, warm=0)
  return {name: each.wall for name, each in medians.items()}


def compile_timed(function: Callable[..., Any], *args: Any, **options: Any):
  """Compile a function; return it and the time that it took.

  Args:
    function: the function, not traced before.
    *args: its arguments.
    **options: options of `jax.jit`.
  """
  before = _now()
  compiled = jax.jit(function, **options).lower(*args).compile()
  return compiled, Timing(*(b - a for a, b in zip(before, _now(), strict=True)))


def machine() -> dict[str, Any]:
  """Returns a description of the machine and the software."""
  device = jax.devices()[0]
  return {
    "device": device.device_kind if device.platform != "cpu" else "cpu",
    "cores": os.cpu_count(),
    "load": round(os.getloadavg()[0], 1),
    "python": platform.python_version(),
    "jax": jax.__version__,
    "malloc": os.environ.get("GLIBC_TUNABLES", ""),
  }


def save(
  name: str,
  rows: Sequence[Mapping[str, Any]],
  where: Mapping[str, Any],
  folder: pathlib.Path,
) -> None:
  """Print rows as a Markdown table and write them as JSON.

  Args:
    name: of the file, without the platform.
    rows: column -> value.
    where: the machine, from `machine`.
    folder: exists.
  """
  platform_name = "cpu" if where["device"] == "cpu" else "gpu"
  path = folder / f"{name}_{platform_name}.json"
  record = {"machine": {**where, "load_after": machine()["load"]}, "rows": rows}
  path.write_text(json.dumps(record, indent=1) + "\n")
  print(f"\n{name}: {record['machine']}\n\n{table(rows)}\n\n{path}", flush=True)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns a Markdown table."""
  columns = list(rows[0])
  lines = [
    "| " + " | ".join(columns) + " |",
    "| --- |" + " ---: |" * (len(columns) - 1),
  ]
  for row in rows:
    cells = [_cell(row[column]) for column in columns]
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)


def _cell(value: Any) -> str:
  if not isinstance(value, float):
    return str(value)
  return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _now() -> tuple[float, float, float]:
  used = resource.getrusage(resource.RUSAGE_SELF)
  cpu = used.ru_utime + used.ru_stime
  return time.perf_counter(), cpu, float(used.ru_minflt)
