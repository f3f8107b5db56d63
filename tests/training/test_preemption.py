"""Signals request a stop; a closed terminal does not end the run first."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from sparsejax import command_line
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


# Python's handlers are not called before the C function returns, in minutes.
BUSY = """
import hashlib, sys
from sparsejax.training import preemption
with preemption.stop_on_signals() as stop:
  stop.nothing_to_save = sys.argv[1] == "nothing"
  print("started", flush=True)
  hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
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


@pytest.fixture
def busy():
  """Starts a process whose main thread does not see signals."""
  started = []

  def start(what):
    process = subprocess.Popen(
      [sys.executable, "-c", BUSY, what],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    started.append(process)
    assert process.stdout.readline() == "started\n"
    return process

  yield start
  for process in started:
    process.kill()
    process.communicate()


def test_signal_ends_the_process_at_once_where_nothing_has_to_be_saved(busy):
  process = busy("nothing")
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=60)
  assert process.returncode == command_line.TERMINATED
  assert "nothing had to be saved" in error


def test_second_signal_ends_the_process_at_once(busy):
  process = busy("something")
  process.send_signal(signal.SIGTERM)
  process.send_signal(signal.SIGTERM)  # The group's, which does not count.
  time.sleep(2 * preemption._SAME_SIGNAL_SECONDS)
  assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=60)
  assert process.returncode == command_line.TERMINATED
  assert "Ended by a second signal" in error


def test_no_dispatch_begins_after_a_signal():
  with preemption.stop_on_signals() as stop:
    stop.check()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(preemption.Stopped, match="nothing had to be saved"):
      stop.check()
