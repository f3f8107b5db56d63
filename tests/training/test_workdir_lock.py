"""The lock of a workdir: one owner, taken over when it is gone."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from sparsejax import command_line
from sparsejax.training import workdir_lock

OTHER = {"host": "elsewhere", "process": 7, "boot": "x", "id": "y"}
HOLD = """
import pathlib, sys, time
from sparsejax.training import workdir_lock
with workdir_lock.hold(pathlib.Path(sys.argv[1]), message=print):
  print("held", flush=True)
  time.sleep(600)
"""


@pytest.fixture
def quick(monkeypatch):
  """Watches an owner for a tenth of a second."""
  monkeypatch.setattr(workdir_lock, "_WATCH_SECONDS", 0.1)
  monkeypatch.setattr(workdir_lock, "_POLL_SECONDS", 0.01)


def hold(workdir, lines=None):
  return workdir_lock.hold(
    workdir, message=[].append if lines is None else lines.append
  )


@contextlib.contextmanager
def owner(workdir):
  """A process that holds the lock."""
  process = subprocess.Popen(
    [sys.executable, "-c", HOLD, str(workdir)],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout is not None
  with process.stdout:
    assert process.stdout.readline() == "held\n"
    try:
      yield process
    finally:
      process.kill()
      process.wait()


def leave(workdir, text) -> pathlib.Path:
  path = workdir / workdir_lock.FILE
  path.write_text(text)
  return path


def test_second_owner_is_refused_and_the_first_keeps_the_lock(tmp_path):
  with hold(tmp_path) as lock:
    with pytest.raises(command_line.InputError) as caught, hold(tmp_path):
      pass
    assert f"{tmp_path} is in use by process {os.getpid()}" in str(caught.value)
    assert socket.gethostname() in str(caught.value)
    lock.check()
  with hold(tmp_path) as lock:
    lock.check()
  assert (tmp_path / workdir_lock.FILE).read_bytes() == b""


def test_owner_in_another_process_is_named_until_it_is_killed(tmp_path):
  with owner(tmp_path) as process:
    with pytest.raises(command_line.InputError, match=f"process {process.pid}"):
      with hold(tmp_path):
        pass
    process.kill()
    process.wait()
    lines = []
    with hold(tmp_path, lines) as lock:
      lock.check()
    assert lines == []  # The kernel knows: nothing to watch.


def test_lock_is_released_after_an_error(tmp_path):
  with pytest.raises(ZeroDivisionError), hold(tmp_path):
    raise ZeroDivisionError
  lines = []
  with hold(tmp_path, lines):
    assert lines == []


@pytest.mark.parametrize(
  "text", [json.dumps(OTHER), "[]", "{", "\0", json.dumps({"process": 7})]
)
def test_silent_owner_on_another_machine_is_replaced(tmp_path, quick, text):
  leave(tmp_path, text)
  lines = []
  with hold(tmp_path, lines) as lock:
    lock.check()
  assert len(lines) == 1 and f"{tmp_path} was left locked by" in lines[0]


def test_owner_on_another_machine_that_touches_the_lock_keeps_it(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(workdir_lock, "_POLL_SECONDS", 0.01)
  path = leave(tmp_path, json.dumps(OTHER))
  done = threading.Event()

  def beat():
    while not done.wait(0.01):
      os.utime(path)

  thread = threading.Thread(target=beat)
  thread.start()
  try:
    with pytest.raises(command_line.InputError) as caught, hold(tmp_path):
      pass
  finally:
    done.set()
    thread.join()
  assert "in use by process 7 on elsewhere" in str(caught.value)
  assert json.loads(path.read_text()) == OTHER


def test_owner_touches_the_lock(tmp_path, monkeypatch):
  monkeypatch.setattr(workdir_lock, "_HEARTBEAT_SECONDS", 0.01)
  path = tmp_path / workdir_lock.FILE
  with hold(tmp_path):
    os.utime(path, (0, 0))
    for _ in range(1000):
      if path.stat().st_mtime:
        break
      time.sleep(0.01)
    assert path.stat().st_mtime


@pytest.mark.parametrize("text", [json.dumps(OTHER), "", None])
def test_owner_that_lost_the_lock_finds_out(tmp_path, text):
  with hold(tmp_path) as lock:
    path = tmp_path / workdir_lock.FILE
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(command_line.InputError, match="was taken over by"):
      lock.check()
  # What belongs to the new owner stays.
  assert text is None or path.read_text() == text


def test_workdir_that_cannot_be_written_is_an_os_error(tmp_path):
  (tmp_path / workdir_lock.FILE).mkdir()
  with pytest.raises(IsADirectoryError), hold(tmp_path):
    pass
