"""Random faults: after each, a run ends in the bytes of one without faults.

    python -m pytest -m faults

Kills, full disks, damaged files, folders that cannot be written, and two
processes on one workdir, at random moments and places; not part of the ordinary
tests. `SPARSEJAX_FAULTS_SEED=N` repeats the faults of the seed that is printed.
"""

import concurrent.futures
import dataclasses
import functools
import gc
import os
import pathlib
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest
from helpers import disks, trainer
from helpers.stopping import StopAfter

from sparsejax import train

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("compile_once")]

SEED = int(os.environ.get("SPARSEJAX_FAULTS_SEED") or time.time_ns() % 2**32)
CHAINS, KILLS = 6, 10
OPTIONS = "set,sparsity=0.9"
CHANGES = (
  "--config.epochs=20",
  "--config.dispatch_steps=11",
  "--config.checkpoint_every_epochs=1",
  "--config.eval_every_epochs=1",
  "--config.log_every_steps=1",
  "--config.keep_steps=(0,)",
  "--config.model.hidden=(32,)",
  "--distributed=False",
)
STEPS = 20 * 22
CONFIG = f"--config={trainer.ROOT / 'configs' / 'digits.py'}:{OPTIONS}"
NO_SPACE = ("disk is full", "No space left")


@pytest.fixture(scope="module", autouse=True)
def seed(pytestconfig):
  """Prints the seed, also if the tests pass."""
  capture = pytestconfig.pluginmanager.getplugin("capturemanager")
  with capture.global_and_fixture_disabled():
    print(f"\nSPARSEJAX_FAULTS_SEED={SEED}", flush=True)


@pytest.fixture
def rng(request):
  """Numbers that depend on the seed and on the test's name alone."""
  print(f"SPARSEJAX_FAULTS_SEED={SEED}")
  return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The workdir of a run without faults."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  assert train.main(command(workdir)) == 0
  return workdir


@pytest.fixture(scope="module")
def half(tmp_path_factory):
  """The workdir of a run that was stopped, with checkpoints 264 and 275."""
  workdir = tmp_path_factory.mktemp("runs") / "half"
  assert train.main(command(workdir), stop=StopAfter(25)) == 143
  assert trainer.saved_steps(workdir)[-2:] == [264, 275]
  return workdir


@pytest.fixture
def run(capsys):
  """A function that runs or resumes in this process: (status, out, err)."""

  def run(workdir):
    status = train.main(command(workdir))
    return status, *capsys.readouterr()

  return run


def command(workdir) -> list[str]:
  return [CONFIG, *CHANGES, f"--workdir={workdir}"]


def assert_refused(result, *texts) -> None:
  """One line that says one of the texts."""
  status, _, err = result
  assert status == 2, result
  assert err.startswith("error: ") and err.count("\n") == 1, err
  assert any(text in err for text in texts), err


def assert_finishes(result, workdir, whole) -> None:
  status, out, err = result
  assert status == 0, out + err
  trainer.assert_same_run(workdir, whole)


# Kills, and second runs.


@dataclasses.dataclass
class Chain:
  """Starts on one workdir, each of which is killed until the run is done."""

  workdir: pathlib.Path
  whole: pathlib.Path
  cache: str
  rng: random.Random
  events: list[str] = dataclasses.field(default_factory=list)

  def run(self) -> int:
    """Returns the number of faults."""
    while len(self.events) < KILLS:
      newest = max(trainer.saved_steps(self.workdir), default=0)
      self.kill(newest)
      # Whatever was saved is still there.
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
    env = {"XLA_FLAGS": os.environ["XLA_FLAGS"]}  # As in this process.
    return trainer.start(
      self.workdir, *CHANGES, options=OPTIONS, cache=self.cache, env=env
    )

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

  def wait(self, process: subprocess.Popen, phase) -> bool:
    """Returns whether the phase was seen before the run ended."""
    deadline = time.monotonic() + 100
    while process.poll() is None:
      assert time.monotonic() < deadline, (self, "the run hangs")
      if phase(process):
        return True
      time.sleep(0.0005)
    return False

  def loading(self, process: subprocess.Popen) -> bool:
    return True

  def compiling(self, process: subprocess.Popen) -> bool:
    lock = self.workdir / ".lock"
    return lock.exists() and f'"process": {process.pid},' in lock.read_text()

  def saving(self, process: subprocess.Popen) -> bool:
    folders = (self.workdir / "checkpoints", self.workdir / "weights")
    return self.compiling(process) and any(
      "orbax-checkpoint-tmp" in path.name
      for folder in folders
      if folder.exists()
      for path in folder.iterdir()
    )

  def training(self, process: subprocess.Popen, step: int) -> bool:
    return self.compiling(process) and trainer.last_step(self.workdir) >= step


def test_kills_at_random_moments(whole, tmp_path, tmp_path_factory, rng):
  cache = str(tmp_path_factory.mktemp("compiled"))
  chains = [
    Chain(tmp_path / str(i), whole, cache, random.Random(rng.random()))
    for i in range(CHAINS)
  ]
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    counts = list(pool.map(Chain.run, chains))
  assert sum(counts) >= CHAINS * KILLS


# Damaged files.


def flip(rng, data):
  """Flips up to three bits."""
  data = bytearray(data)
  for _ in range(rng.randint(1, 3)):
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  return bytes(data)


def zero(rng, data):
  """Zeros a part, as a lost block does."""
  first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
  return data[:first] + bytes(last - first) + data[last:]


def truncate(rng, data):
  return data[: rng.randrange(len(data))]


def extend(rng, data):
  return data + rng.randbytes(rng.randint(1, 100))


def scramble(rng, data):
  return rng.randbytes(len(data))


DAMAGES = (flip, flip, zero, truncate, extend, scramble)


def damage(rng, path) -> None:
  data = path.read_bytes()
  if rng.random() < 0.1 or not data:
    path.unlink()
  else:
    path.write_bytes(rng.choice(DAMAGES)(rng, data))


def damage_checkpoint(rng, folder) -> None:
  """Damages one to three of its files."""
  files = sorted(path for path in folder.rglob("*") if path.is_file())
  for path in rng.sample(files, rng.randint(1, 3)):
    damage(rng, path)


def contents(workdir) -> dict[pathlib.Path, bytes]:
  return {
    path.relative_to(workdir): path.read_bytes()
    for path in workdir.rglob("*")
    if path.is_file() and path.name != ".lock"
  }


@pytest.fixture
def workdir(half, tmp_path):
  return shutil.copytree(half, tmp_path / "run")


@pytest.mark.parametrize("number", range(50))
def test_damaged_newest_checkpoint(workdir, whole, rng, run, number):
  damage_checkpoint(rng, workdir / "checkpoints" / "275")
  result = run(workdir)
  # A byte that nothing reads may have changed.
  assert any(f"Resuming from step {step}" in result[1] for step in (264, 275))
  assert_finishes(result, workdir, whole)


@pytest.mark.parametrize("number", range(4))
def test_copied_checkpoint(workdir, whole, rng, run, number):
  newest = workdir / "checkpoints" / "275"
  shutil.rmtree(newest)
  if rng.random() < 0.5:
    newest.symlink_to("264")
  else:
    shutil.copytree(newest.with_name("264"), newest)
  result = run(workdir)
  assert "checkpoint 275 is damaged: it is a copy of step 264" in result[1]
  assert_finishes(result, workdir, whole)


@pytest.mark.parametrize("number", range(6))
def test_all_checkpoints_damaged(workdir, whole, rng, run, number):
  folder = workdir / "checkpoints"
  for step in trainer.saved_steps(workdir):
    for path in (folder / str(step)).rglob("metadata"):
      path.write_bytes(truncate(rng, path.read_bytes()))
  before = contents(workdir)
  assert_refused(run(workdir), "No checkpoint in ")
  assert contents(workdir) == before
  shutil.rmtree(folder)  # As the message says.
  assert_finishes(run(workdir), workdir, whole)


@pytest.mark.parametrize("number", range(16))
@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_damaged_record(workdir, whole, rng, run, name, number):
  if name == "summary.json":
    shutil.rmtree(workdir)
    shutil.copytree(whole, workdir)
  damage(rng, workdir / name)
  before = contents(workdir)
  result = run(workdir)
  if result[0]:
    assert_refused(result, f"{workdir / name} is damaged", "another config")
    assert contents(workdir) == before
    (workdir / name).unlink()  # As the message says.
    assert_finishes(run(workdir), workdir, whole)
  elif "nothing was changed" in result[1]:
    pass  # A value of a finished run that is as plausible as the old one.
  else:
    assert_finishes(result, workdir, whole)


@pytest.mark.parametrize("number", range(24))
def test_damaged_metrics(workdir, whole, rng, run, number):
  path = workdir / "metrics.jsonl"
  damage(rng, path)
  damaged = path.read_bytes() if path.exists() else b""
  status, out, err = run(workdir)
  assert status == 0, out + err
  rows = trainer.metrics(workdir)
  steps = [row["step"] for row in rows]
  expected = trainer.metrics(whole)
  # The end is as if there had been no damage.
  assert rows[-1] == expected[-1]
  assert [r for r in rows if r["step"] > 275] == expected[275:]
  assert steps == sorted(set(steps))
  if len(rows) < len(expected) and damaged.count(b"\n") > steps.index(276):
    assert "is damaged" in out and "are removed" in out
    assert path.with_name("metrics_damaged_275.jsonl").read_bytes() == damaged
  shutil.copy(whole / "metrics.jsonl", path)
  trainer.assert_same_run(workdir, whole)


# Full disks.


def assert_no_thread_waits() -> None:
  """One that did would keep a process from ending."""
  gc.collect()  # Ends the idle threads of pools.
  for thread in threading.enumerate():
    if thread is not threading.main_thread() and not thread.daemon:
      thread.join(timeout=10)
      assert not thread.is_alive(), thread


@pytest.mark.parametrize("number", range(40))
def test_full_disk(whole, tmp_path, rng, run, number):
  """A disk that is too small, until it is made larger."""
  workdir = tmp_path / "disk" / "run"
  size, inodes = rng.choice(
    [
      (rng.randrange(8192, 1_000_000), 0),
      (64_000_000, rng.randint(3, 120)),
      (rng.randrange(100_000, 1_000_000), rng.randint(30, 120)),
    ]
  )
  print(f"{size} bytes, {inodes} inodes")
  with disks.small_disk(tmp_path / "disk", size, inodes=inodes or 10_000):
    result = run(workdir)
    assert_no_thread_waits()
    if result[0]:
      assert_refused(result, *NO_SPACE)
      disks.resize(tmp_path / "disk", 64_000_000, inodes=10_000)
      result = run(workdir)
      assert "damaged" not in result[1]
    assert_finishes(result, workdir, whole)


# What cannot be written.


@pytest.mark.parametrize("number", range(6))
def test_disk_that_cannot_be_written(half, whole, tmp_path, rng, run, number):
  disk = tmp_path / "disk"
  workdir = disk / "run"
  with disks.small_disk(disk, 64_000_000, inodes=10_000):
    if rng.random() < 0.7:
      shutil.copytree(half, workdir)
    disks.remount(disk, "ro")
    before = contents(disk)
    assert_refused(run(workdir), "Read-only file system")
    assert contents(disk) == before
    disks.remount(disk, "rw")
    assert_finishes(run(workdir), workdir, whole)


@pytest.mark.parametrize("kind", ["folder", "file", "link to itself"])
@pytest.mark.parametrize(
  "name",
  ["config.json", "metrics.jsonl", "summary.json", ".lock", "checkpoints"]
  + ["weights", "."],
)
def test_something_else_in_the_place_of_a_file(
  half, whole, tmp_path, run, name, kind
):
  workdir = tmp_path / "run"
  path = workdir / name
  if name != ".":
    shutil.copytree(half, workdir)
    saved = tmp_path / "saved"
    path.rename(saved) if path.exists() else None
  match kind:
    case "folder":
      path.mkdir()
      (path / "x").touch()
    case "file":
      path.write_text("x")
    case _:
      path.symlink_to(path.name)
  result = run(workdir)
  status, out, err = result
  if status == 0:
    assert_finishes(result, workdir, whole)
    return
  assert status == 2, result
  assert err.startswith("error: ") and err.count("\n") == 1, err
  assert str(path) in err or str(workdir) in err, err
  shutil.rmtree(path) if kind == "folder" else path.unlink()
  if name != "." and (tmp_path / "saved").exists():
    (tmp_path / "saved").rename(path)
  assert_finishes(run(workdir), workdir, whole)
