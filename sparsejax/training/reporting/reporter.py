"""The interface between the loop and the console."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Reporter(NamedTuple):
  """Where a run reports to while it trains.

  Attributes:
    message: prints a line of text.
    progress: takes the step and its metrics after each dispatch.
  """

  message: Callable[[str], None]
  progress: Callable[[int, Mapping[str, Any]], None]
