"""The config of digits, in a process that breaks when it gets a signal.

SIGUSR1 makes its main thread wait for ever, while the process stays alive;
SIGUSR2 raises an exception there.
"""

import signal
import time

from configs import digits


def get_config(arg=None):
  signal.signal(signal.SIGUSR1, _wait)
  signal.signal(signal.SIGUSR2, _fail)
  return digits.get_config(arg)


def _wait(number, frame):
  del number, frame
  while True:
    time.sleep(1)


def _fail(number, frame):
  del number, frame
  raise RuntimeError("This process is broken.")
