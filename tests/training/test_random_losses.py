"""Random losses of processes: all end, and resume to the same bytes.

    python -m pytest -m faults -rP tests/training -k losses

prints a table of them. Not part of the ordinary tests. The variable
`SPARSEJAX_FAULTS_SEED=N` repeats the losses of the seed that is printed, as far
as their moments can be repeated.
"""

import collections
import dataclasses
import functools
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import time

import pytest
from helpers import faults, phases, together, trainer
from helpers.phases import PATIENCE_SECONDS

from sparsejax import command_line

pytestmark = pytest.mark.faults

LOSSES = int(os.environ.get("SPARSEJAX_LOSSES", "10"))
JOIN_SECONDS = 40
# The longest time to the end: a process that never joins, on a busy machine.
END_SECONDS = JOIN_SECONDS + together.END_SECONDS
KINDS = ("kill -9", "SIGTERM", "SIGSTOP", "full disk")
# Done, bad input (a full disk), a lost process, stopped.
LEFT = (0, 2, command_line.LOST_PEER, command_line.TERMINATED)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """Number of processes -> the workdir of a run without faults."""

  @functools.cache
  def train(count):
    workdir = tmp_path_factory.mktemp("runs") / str(count)
    started = together.start(workdir, count)
    statuses, outputs = together.finish(started, seconds=PATIENCE_SECONDS)
    assert statuses == [0] * count, outputs
    return workdir

  return train


@dataclasses.dataclass
class Chain(phases.Phases):
  """Starts on one workdir; each loses a process, until the run is done."""

  workdir: pathlib.Path
  whole: pathlib.Path
  count: int
  rng: random.Random
  events: list[tuple] = dataclasses.field(default_factory=list)

  def run(self) -> None:
    while len(self.events) < LOSSES:
      newest = max(trainer.saved_steps(self.workdir), default=0)
      self.lose(newest)
      # All that was saved is still there.
      assert max(trainer.saved_steps(self.workdir), default=0) >= newest, self
      if (self.workdir / "summary.json").exists():
        self.assert_same()
        shutil.rmtree(self.workdir)
    statuses, outputs = together.finish(self.start(), seconds=PATIENCE_SECONDS)
    assert statuses == [0] * self.count, (self, outputs)
    self.assert_same()

  def assert_same(self) -> None:
    try:
      trainer.assert_same_run(self.workdir, self.whole)
    except AssertionError as error:
      raise AssertionError(f"{self}: {error}") from error

  def start(self) -> list[subprocess.Popen]:
    join = f"--join_timeout_seconds={JOIN_SECONDS}"
    return together.start(self.workdir, self.count, join)

  def lose(self, newest: int) -> None:
    """Starts the run, and loses a random process in a random phase."""
    kind, victim = self.rng.choice(KINDS), self.rng.randrange(self.count)
    phase = self.rng.choice([self.loading, self.compiling, self.saving])
    if self.rng.random() < 0.5:
      step = newest + self.rng.randrange(1, together.STEPS // 4)
      phase = functools.partial(self.training, step=step)
    delay = self.rng.uniform(0, 3 if phase == self.loading else 0.03)
    started = self.start()
    try:
      seen = self.wait(started[0], phase)
      time.sleep(delay)
      if seen:
        self.break_one(started[victim], kind)
      self.end(started, victim if kind == "SIGSTOP" else None, kind)
      statuses, outputs = together.finish(started, seconds=30)
    finally:
      for process in started:
        process.kill()
    if not seen:
      return
    name = getattr(phase, "func", phase).__name__
    role = "process 0" if victim == 0 else "another"
    self.events.append((kind, name, role, tuple(statuses)))
    others = statuses[:victim] + statuses[victim + 1 :]
    assert set(others) <= set(LEFT), (self, outputs)
    killed = (-signal.SIGKILL, -signal.SIGTERM)
    assert statuses[victim] in (*LEFT, *killed), (self, outputs)
    assert not any("Traceback" in output for output in outputs), (self, outputs)

  def break_one(self, process: subprocess.Popen, kind: str) -> None:
    if kind == "full disk":
      if process.poll() is None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))
      return
    number = {
      "kill -9": signal.SIGKILL,
      "SIGTERM": signal.SIGTERM,
      "SIGSTOP": signal.SIGSTOP,
    }[kind]
    process.send_signal(number)

  def end(self, started, stopped: int | None, kind: str) -> None:
    """Waits until all have ended, except a process that is stopped."""
    running = [p for index, p in enumerate(started) if index != stopped]
    deadline = time.monotonic() + END_SECONDS
    while any(process.poll() is None for process in running):
      assert time.monotonic() < deadline, (self, kind, "the run hangs")
      time.sleep(0.02)
    if stopped is not None:
      started[stopped].kill()


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("count", [2, 4])
def test_losses_at_random_moments(whole, tmp_path, request, count, number):
  rng = faults.numbers(request)
  chain = Chain(tmp_path / "run", whole(count), count, rng)
  try:
    chain.run()
  finally:
    table = collections.Counter(chain.events)
    for event, times in sorted(table.items()):
      print(count, "processes:", *event, f"x {times}")
