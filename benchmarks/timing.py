"""Times functions in turn, so that a noisy machine is noisy for all of them."""

import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

RESULTS = pathlib.Path(__file__).parent / "results"


def alternate(
  calls: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 2
) -> dict[str, float]:
  """Calls all functions in turn and returns the median seconds of each.

  Args:
    calls: functions that return arrays; they are waited for.
    rounds: timed rounds.
    warm_up: rounds before those.
  """
  seconds: dict[str, list[float]] = {name: [] for name in calls}
  for turn in range(warm_up + rounds):
    for name, call in calls.items():
      start = time.perf_counter()
      jax.block_until_ready(call())
      if turn >= warm_up:
        seconds[name].append(time.perf_counter() - start)
  return {name: statistics.median(took) for name, took in seconds.items()}


def machine() -> dict[str, Any]:
  """Says where and with what it was measured."""
  device = jax.devices()[0]
  return {
    "device": device.device_kind if device.platform != "cpu" else "cpu",
    "cores": os.cpu_count(),
    "load_before": round(os.getloadavg()[0], 2),
    "python": platform.python_version(),
    "jax": jax.__version__,
    "malloc": os.environ.get("GLIBC_TUNABLES", ""),
  }


def save(name: str, rows: list[dict[str, Any]], where: dict[str, Any]) -> None:
  """Prints rows as a Markdown table and writes them as JSON."""
  platform_name = "cpu" if where["device"] == "cpu" else "gpu"
  RESULTS.mkdir(exist_ok=True)
  path = RESULTS / f"{name}_{platform_name}.json"
  path.write_text(json.dumps({"machine": where, "rows": rows}, indent=1) + "\n")
  columns = list(rows[0])
  print(f"\n{name}: {where}\n")
  print("| " + " | ".join(columns) + " |")
  print("| --- |" + " ---: |" * (len(columns) - 1))
  for row in rows:
    cells = [
      f"{row[c]:.3g}" if isinstance(row[c], float) else str(row[c])
      for c in columns
    ]
    print("| " + " | ".join(cells) + " |")
