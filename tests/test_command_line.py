"""What all commands do with errors and Ctrl-C."""

import signal
import subprocess
import sys

import pytest

from sparsejax import command_line

LEAVES_SLOWLY = """
import sys, time
from sparsejax import command_line

def command(argv):
  try:
    print("running", flush=True)
    time.sleep(600)
  finally:
    print("leaving", flush=True)
    {leave}

sys.exit(command_line.run(command, name="x", doc="", hint="Run it again."))
"""


@pytest.mark.parametrize(
  "leave",
  [
    "time.sleep(600)",
    # The interpreter waits for this thread.
    "import threading; threading.Thread(target=time.sleep, args=[600]).start()",
  ],
)
def test_second_interrupt_ends_the_process_without_a_traceback(leave):
  process = subprocess.Popen(
    [sys.executable, "-c", LEAVES_SLOWLY.format(leave=leave)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout is not None and process.stderr is not None
  with process:
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "leaving\n"
    if "thread" in leave:
      assert process.stderr.readline() == "Interrupted. Run it again.\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
  assert process.returncode == command_line.INTERRUPTED
  assert err == "Interrupted. Run it again.\n"


def test_interrupts_are_as_before_afterwards(monkeypatch):
  monkeypatch.setattr(sys, "argv", ["x"])
  before = signal.getsignal(signal.SIGINT)
  for argv in (None, []):
    assert command_line.run(lambda argv: 7, argv, name="x", doc="") == 7
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
  "error",
  [
    MemoryError("std::bad_alloc"),
    RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes."),
  ],
)
def test_missing_memory_is_one_line(capsys, error):
  def command(argv):
    raise error

  status = command_line.run(command, [], name="x", doc="", hint="Again.")
  assert status == command_line.BAD_INPUT
  err = capsys.readouterr().err
  assert err.startswith("error: There is not enough memory. ")
  assert err.endswith(" Again.\n") and err.count("\n") == 1


def test_bugs_keep_their_traceback():
  def command(argv):
    raise RuntimeError("unexpected")

  with pytest.raises(RuntimeError, match="unexpected"):
    command_line.run(command, [], name="x", doc="")
