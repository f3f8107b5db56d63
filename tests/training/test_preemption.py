"""Signals request a stop; a closed terminal does not end the run first."""

import os
import pty
import signal
import subprocess
import sys

import pytest

from sparsejax.training import preemption

RUN = """
import pathlib, sys, time
from sparsejax.training import preemption
with preemption.stop_on_signals() as stop:
  print("started", flush=True)
  while not stop.received:
    time.sleep(0.01)
  for file in (sys.stdout, sys.stderr):
    print("This raises if the terminal is gone.", file=file, flush=True)
  pathlib.Path(sys.argv[1]).write_text("saved")
"""


@pytest.fixture(autouse=True)
def hangup_is_not_ignored():
  """Under `nohup` the tests, and what they start, would ignore SIGHUP."""
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
  yield
  signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_is_a_request_inside_the_context_only(number):
  before = signal.getsignal(number)
  with preemption.stop_on_signals() as stop:
    assert not stop.received
    os.kill(os.getpid(), number)
    assert stop.received and stop.agreed()
  assert signal.getsignal(number) == before


def test_ignored_hangup_stays_ignored():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with preemption.stop_on_signals() as stop:
      os.kill(os.getpid(), signal.SIGHUP)
      assert not stop.received
  finally:
    signal.signal(signal.SIGHUP, before)


def test_run_whose_terminal_is_closed_can_still_save(tmp_path):
  terminal, end = pty.openpty()
  process = subprocess.Popen(
    ["setsid", "--ctty", sys.executable, "-c", RUN, str(tmp_path / "file")],
    stdin=end,
    stdout=end,
    stderr=end,
  )
  os.close(end)
  with open(terminal, "rb", buffering=0) as screen:
    assert screen.read(7) == b"started"
  assert process.wait(timeout=60) == 0
  assert (tmp_path / "file").read_text() == "saved"
