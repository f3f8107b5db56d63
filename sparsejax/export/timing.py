"""How long networks take, measured in turns on this machine."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class Time(NamedTuple):
  """Milliseconds of one call.

  Attributes:
    median: median of all calls.
    low: the first quartile.
    high: the third quartile.
    calls: how many there were.
  """

  median: float
  low: float
  high: float
  calls: int


def measure(
  calls: Mapping[str, Callable[[], object]],
  *,
  seconds: float = 1.0,
  rounds: int = 10,
) -> dict[str, Time]:
  """Times some functions in turns, so that all see the same machine.

  Args:
    calls: name -> function that returns when its result is there.
    seconds: how long each function runs in all, at least one call per round.
    rounds: how many turns each of them gets.

  Returns:
    The times by name, by the clock on the wall.
  """
  repeats = {}
  for name, call in calls.items():
    call()  # Compiles.
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    repeats[name] = max(1, int(seconds / rounds / max(once, 1e-7)))
  found: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      for _ in range(repeats[name]):
        start = time.perf_counter()
        call()
        found[name].append(1e3 * (time.perf_counter() - start))
  return {name: _time(values) for name, values in found.items()}


def _time(values: list[float]) -> Time:
  low, median, high = np.percentile(values, (25, 50, 75))
  return Time(float(median), float(low), float(high), len(values))
