"""Random kills: after each, a run ends in the bytes of one without faults.

    python -m pytest -m faults -n 2 tests/training

Not part of the ordinary tests. `SPARSEJAX_FAULTS_SEED=N` repeats the kills of
the seed that is printed, as far as their moments can be repeated.
"""

import dataclasses
import functools
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import pytest
from helpers import faults, phases, trainer
from helpers.faults import CHANGES, STEPS

pytestmark = pytest.mark.faults

CHAINS, KILLS = 8, 10
OPTIONS = "set,sparsity=0.9"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The workdir of a run without faults."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  status, out, err = trainer.finish(start(workdir))
  assert status == 0, out + err
  return workdir


def start(workdir) -> subprocess.Popen:
  env = {"XLA_FLAGS": os.environ["XLA_FLAGS"]}  # Compiles quickly.
  return trainer.start(workdir, *CHANGES, options=OPTIONS, env=env)


@dataclasses.dataclass
class Chain(phases.Phases):
  """Starts on one workdir, each of which is killed until the run is done."""

  workdir: pathlib.Path
  whole: pathlib.Path
  rng: random.Random
  events: list[str] = dataclasses.field(default_factory=list)

  def run(self) -> int:
    """Returns the number of faults."""
    while len(self.events) < KILLS:
      newest = max(trainer.saved_steps(self.workdir), default=0)
      self.kill(newest)
      # All that was saved is still there.
      assert max(trainer.saved_steps(self.workdir), default=0) >= newest, self
      if (self.workdir / "summary.json").exists():
        self.assert_same()
        shutil.rmtree(self.workdir)
    process = self.start()
    status, out, err = trainer.finish(process)
    assert status == 0, (self, out, err)
    self.assert_same()
    return len(self.events)

  def assert_same(self) -> None:
    try:
      trainer.assert_same_run(self.workdir, self.whole)
    except AssertionError as error:
      raise AssertionError(f"{self}: {error}") from error

  def start(self) -> subprocess.Popen:
    return start(self.workdir)

  def kill(self, newest: int) -> None:
    """Starts the run and kills it in a random phase."""
    phase = self.rng.choice([self.loading, self.compiling, self.saving])
    if self.rng.random() < 0.5:
      step = newest + self.rng.randrange(1, max(STEPS // KILLS * 2, 2))
      phase = functools.partial(self.training, step=step)
    loading = phase == self.loading
    number = self.rng.choice(
      [signal.SIGKILL] * 4
      + [signal.SIGTERM, signal.SIGHUP]
      # While it imports libraries, Python prints a traceback.
      + [signal.SIGINT] * (not loading)
    )
    process = self.start()
    if not self.wait(process, phase):
      trainer.finish(process)
      return
    time.sleep(self.rng.uniform(0, 1 if loading else 0.03))
    if not loading and self.rng.random() < 0.2:
      self.start_a_second(process)
    self.events.append(f"{phase}, {number!r}")
    process.send_signal(number)
    if number == signal.SIGINT and self.rng.random() < 0.5:
      time.sleep(self.rng.uniform(0, 0.1))
      process.send_signal(number)
    status, _, err = trainer.finish(process, seconds=100)
    assert status in (-number, 0, 130, 143), (self, status, err)
    assert "Traceback" not in err, (self, err)

  def start_a_second(self, first: subprocess.Popen) -> None:
    """Starts another run while the first one, which is stopped, is alive."""
    first.send_signal(signal.SIGSTOP)
    if (self.workdir / "summary.json").exists() or first.poll() is not None:
      first.send_signal(signal.SIGCONT)
      return
    self.events.append("second run")
    status, _, err = trainer.finish(self.start())
    first.send_signal(signal.SIGCONT)
    assert status == 2, (self, err)
    assert f"is in use by process {first.pid} " in err, (self, err)


@pytest.mark.parametrize("number", range(CHAINS))
def test_kills_at_random_moments(whole, tmp_path, request, number):
  rng = faults.numbers(request)
  assert Chain(tmp_path / "run", whole, rng).run() >= KILLS
