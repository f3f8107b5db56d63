"""A thread that does something again and again inside a context."""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def repeated(
  act: Callable[[], None], *, every: float, name: str
) -> Iterator[None]:
  """Call a function on a thread, until the context exits.

  Args:
    act: must not raise; a call that runs when the context exits is waited for.
    every: seconds before the first call, and between two calls.
    name: of the thread.
  """
  done = threading.Event()

  def run() -> None:
    while not done.wait(every):
      act()

  thread = threading.Thread(target=run, name=name, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
