"""Silences what Orbax writes to stderr about errors that it also raises.

A failed read or write of one array is logged with a traceback by each thread
that it passes, and the reads and writes of the other arrays end after the event
loop that waited for them. The one error that is raised tells all of it.
"""

import contextlib
import functools
import gc
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

_LATE = "Event loop is closed"
_NEVER_RUN = "coroutine .* was never awaited"


@contextlib.contextmanager
def silenced() -> Iterator[None]:
  """Drops the echoes for as long as the context lasts."""
  before = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    code = getattr(unraisable.object, "cr_code", None)
    of_orbax = code is not None and "orbax" in code.co_filename
    if not of_orbax and _LATE not in str(unraisable.exc_value):
      before(unraisable)

  sys.unraisablehook = hook
  loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
  # Of its own: a logger has the same one once, however contexts nest.
  news = functools.partial(_is_news)
  for logger in loggers:
    logger.addFilter(news)
  try:
    yield
  finally:
    for logger in loggers:
      logger.removeFilter(news)
    sys.unraisablehook = before


def wait() -> None:
  """Lets the echoes of an error come while they are silenced."""
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", _NEVER_RUN, RuntimeWarning)
    time.sleep(0.05)  # For reads and writes that are still under way.
    gc.collect()


def _is_news(record: logging.LogRecord) -> bool:
  from_orbax = record.name == "asyncio" or "orbax" in record.pathname
  return record.levelno < logging.ERROR or not from_orbax
