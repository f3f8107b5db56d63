"""What happens to one of two processes ends the other, and both resume.

All of it belongs to the slow tier, `-m faults`.
"""

import pathlib
import resource
import signal
import subprocess
import time

import pytest
from helpers import together, trainer
from helpers.disks import fill, small_disk

from sparsejax import command_line

pytestmark = pytest.mark.faults

FRAGILE = pathlib.Path(together.__file__).with_name("fragile.py")
INTERRUPTED = FRAGILE.with_name("interrupted.py")
LOST = command_line.LOST_PEER
VICTIMS = pytest.mark.parametrize("victim", [1, 0])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  """The workdir of a two-process run without faults."""
  workdir = tmp_path_factory.mktemp("runs") / "two"
  statuses, outputs = together.finish(together.start(workdir))
  assert statuses == [0, 0], outputs
  return workdir


@pytest.fixture
def run(tmp_path, uninterrupted):
  """Starts a run whose newest checkpoint, after the fault, is resumed."""
  workdir = tmp_path / "run"
  started = []

  def start(*args, **kwargs):
    started.extend(together.start(workdir, 2, *args, **kwargs))
    return workdir, started

  yield start
  together.end(started)
  if (workdir / "summary.json").exists():
    return
  step = max(trainer.saved_steps(workdir))
  statuses, outputs = together.finish(together.start(workdir))
  assert statuses == [0, 0], outputs
  assert f"Resuming from step {step}" in outputs[0]
  assert "damaged" not in outputs[0]
  trainer.assert_same_run(workdir, uninterrupted)


def wait_for_a_save(workdir, started) -> None:
  trainer.wait_for(started[0], lambda: trainer.saved_steps(workdir))


def finish(started, victim=None, *, seconds=together.END_SECONDS):
  """Waits for the end of all but a victim that has to be killed."""
  others = [p for index, p in enumerate(started) if index != victim]
  deadline = time.monotonic() + seconds
  try:
    while any(process.poll() is None for process in others):
      assert time.monotonic() < deadline, "the others still run"
      time.sleep(0.05)
  finally:
    if victim is not None:
      started[victim].kill()
  return together.finish(started, seconds=30)


def test_sigterm_to_one_saves_and_stops_both(run):
  workdir, started = run()
  trainer.wait_for(started[0], lambda: trainer.last_step(workdir) >= 8)
  started[1].send_signal(signal.SIGTERM)
  statuses, outputs = finish(started)
  assert statuses == [143, 143], outputs
  newest = trainer.saved_steps(workdir)[-1]
  assert f"after saving step {newest}" in outputs[0]


def test_sigterm_to_one_in_an_evaluation_stops_both(run):
  workdir, started = run(program=(INTERRUPTED, "2"))
  statuses, outputs = finish(started, seconds=180)
  assert statuses == [143, 143], outputs
  newest = trainer.saved_steps(workdir)[-1]
  assert f"after saving step {newest}" in outputs[0]
  # The row of this step is in the checkpoint, without what was interrupted.
  assert newest == trainer.last_step(workdir) + 1 == 44


@VICTIMS
def test_killing_one_ends_the_other(run, victim):
  """Process 1 only trains; process 0 writes, and has the service."""
  workdir, started = run()
  wait_for_a_save(workdir, started)
  started[victim].kill()
  statuses, outputs = finish(started)
  assert statuses[victim] == -signal.SIGKILL
  assert statuses[1 - victim] == LOST, outputs
  assert command_line.RESUME in outputs[1 - victim]


@VICTIMS
def test_stopping_one_ends_the_other(run, victim):
  workdir, started = run()
  wait_for_a_save(workdir, started)
  started[victim].send_signal(signal.SIGSTOP)
  statuses, outputs = finish(started, victim)
  assert statuses[1 - victim] == LOST, outputs
  assert command_line.RESUME in outputs[1 - victim]


@VICTIMS
def test_stopped_process_ends_when_it_continues(run, victim):
  workdir, started = run()
  wait_for_a_save(workdir, started)
  started[victim].send_signal(signal.SIGSTOP)
  started[1 - victim].wait(timeout=together.END_SECONDS)
  started[victim].send_signal(signal.SIGCONT)
  statuses, outputs = finish(started)
  assert statuses == [LOST, LOST], outputs


@VICTIMS
def test_full_disk_of_one_ends_both(run, victim):
  """A file size limit in one process only."""
  workdir, started = run()
  wait_for_a_save(workdir, started)
  resource.prlimit(started[victim].pid, resource.RLIMIT_FSIZE, (0, 0))
  statuses, outputs = finish(started)
  assert statuses[victim] == 2, outputs
  assert statuses[1 - victim] in (2, LOST), outputs
  reason = outputs[victim]
  assert "disk is full or a quota" in reason or "File too large" in reason


@VICTIMS
def test_stuck_process_ends_both_and_shows_its_stack(run, victim):
  workdir, started = run("--hang_timeout_seconds=60", config=FRAGILE)
  wait_for_a_save(workdir, started)
  started[victim].send_signal(signal.SIGUSR1)
  statuses, outputs = finish(started, seconds=60 + together.END_SECONDS)
  assert statuses == [LOST, LOST], outputs
  assert "made no progress for 60 s" in outputs[0] + outputs[1]
  assert "`--hang_timeout_seconds`" in outputs[0] + outputs[1]
  assert "helpers/fragile.py" in outputs[victim]


@VICTIMS
def test_exception_in_one_ends_the_other(run, victim):
  workdir, started = run(config=FRAGILE)
  wait_for_a_save(workdir, started)
  started[victim].send_signal(signal.SIGUSR2)
  statuses, outputs = finish(started)
  assert statuses[victim] == 1, outputs
  assert "RuntimeError: This process is broken." in outputs[victim]
  assert statuses[1 - victim] == LOST, outputs


def test_full_disk_that_has_the_log_too_ends_both(tmp_path, uninterrupted):
  disk = tmp_path / "disk"
  workdir = disk / "run"
  with small_disk(disk, 16_000_000):
    with open(disk / "log", "w") as log:
      started = together.start(workdir, stdout=log, stderr=subprocess.STDOUT)
      wait_for_a_save(workdir, started)
      fill(disk / "ballast")
      statuses, _ = finish(started)
    assert statuses == [2, 2]
    (disk / "ballast").unlink()
    statuses, outputs = together.finish(together.start(workdir))
    assert statuses == [0, 0], outputs
    trainer.assert_same_run(workdir, uninterrupted)
