"""Times functions in turn, so that a noisy machine is noisy for all of them."""

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

RESULTS = pathlib.Path(__file__).parent / "results"


class Took(NamedTuple):
  """The medians of one function.

  Attributes:
    wall: seconds on the clock.
    cpu: seconds of all cores, the system's included. It hardly depends on who
      else uses the machine.
    faults: pages of memory that were touched for the first time.
  """

  wall: float
  cpu: float
  faults: float


def measure(
  calls: Mapping[str, Callable[[], Any]],
  rounds: int,
  warm_up: int = 2,
  warm: int = 3,
) -> dict[str, Took]:
  """Calls all functions in turn and returns the medians of each.

  Args:
    calls: functions that return arrays; they are waited for.
    rounds: timed rounds.
    warm_up: rounds before those.
    warm: calls before each timed one, so that it finds in memory what its last
      call left behind, not what the others did.
  """
  seen: dict[str, list[Took]] = {name: [] for name in calls}
  for turn in range(warm_up + rounds):
    for name, call in calls.items():
      for _ in range(warm):
        jax.block_until_ready(call())
      before = _now()
      jax.block_until_ready(call())
      took = Took(*(b - a for a, b in zip(before, _now(), strict=True)))
      if turn >= warm_up:
        seen[name].append(took)
  return {
    name: Took(*map(statistics.median, zip(*took, strict=True)))
    for name, took in seen.items()
  }


def alternate(
  calls: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 2
) -> dict[str, float]:
  """Calls all functions in turn and returns the median seconds of each."""
  took = measure(calls, rounds, warm_up, warm=0)
  return {name: each.wall for name, each in took.items()}


def compiling(function: Callable[..., Any], *args: Any, **options: Any):
  """Compiles a function and says what that took, on the clock and in cores.

  Args:
    function: is traced anew.
    *args: of the function.
    **options: of `jax.jit`.
  """
  before = _now()
  compiled = jax.jit(function, **options).lower(*args).compile()
  return compiled, Took(*(b - a for a, b in zip(before, _now(), strict=True)))


def machine() -> dict[str, Any]:
  """Says where and with what it is measured."""
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
  name: str, rows: Sequence[Mapping[str, Any]], where: Mapping[str, Any]
) -> None:
  """Prints rows as a Markdown table and writes them as JSON."""
  platform_name = "cpu" if where["device"] == "cpu" else "gpu"
  RESULTS.mkdir(exist_ok=True)
  path = RESULTS / f"{name}_{platform_name}.json"
  kept = {"machine": {**where, "load_after": machine()["load"]}, "rows": rows}
  path.write_text(json.dumps(kept, indent=1) + "\n")
  print(f"\n{name}: {kept['machine']}\n\n{table(rows)}", flush=True)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns a Markdown table with a line for each row."""
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
