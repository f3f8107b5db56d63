"""Silences duplicate errors that Orbax writes to stderr.

Each thread that a failed read or write passes through logs it with a traceback,
and the other arrays finish after the event loop that waited for them is closed.
The exception that Orbax raises says the same once.
"""

import contextlib
import functools
import gc
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

_CLOSED_LOOP = "Event loop is closed"
_NEVER_AWAITED = "coroutine .* was never awaited"


@contextlib.contextmanager
def silenced() -> Iterator[None]:
  """Drops duplicates inside the context."""
  previous = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    code = getattr(unraisable.object, "cr_code", None)
    from_orbax = code is not None and "orbax" in code.co_filename
    if not from_orbax and _CLOSED_LOOP not in str(unraisable.exc_value):
      previous(unraisable)

  sys.unraisablehook = hook
  loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
  # A new object per context: a logger adds equal filters only once, so nested
  # contexts would remove each other's.
  log_filter = functools.partial(_is_no_duplicate)
  for logger in loggers:
    logger.addFilter(log_filter)
  try:
    yield
  finally:
    for logger in loggers:
      logger.removeFilter(log_filter)
    sys.unraisablehook = previous


def wait(error: BaseException | None = None) -> None:
  """Gives duplicates of an error time to arrive while they are silenced.

  Args:
    error: what was raised. The variables in its traceback are deleted: some are
      futures that log an error when they are deleted, otherwise at the end.
  """
  while error is not None:
    traceback.clear_frames(error.__traceback__)
    error = error.__cause__ or error.__context__
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", _NEVER_AWAITED, RuntimeWarning)
    time.sleep(0.05)  # For reads and writes in progress.
    gc.collect()


def _is_no_duplicate(record: logging.LogRecord) -> bool:
  from_orbax = record.name == "asyncio" or "orbax" in record.pathname
  return record.levelno < logging.ERROR or not from_orbax
