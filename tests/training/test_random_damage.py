"""Random damage: after each, a run ends in the bytes of one without faults.

    python -m pytest -m faults -n 2 tests/training

Damaged files, full disks, and folders that cannot be written; not part of the
ordinary tests. `SPARSEJAX_FAULTS_SEED=N` repeats the faults of the seed that is
printed.
"""

import gc
import pathlib
import shutil
import threading

import pytest
from helpers import disks, faults, trainer
from helpers.faults import CHANGES
from helpers.stopping import StopAfter

from sparsejax import train

pytestmark = pytest.mark.faults

OPTIONS = "static,sparsity=0.9"
OLDER, NEWEST = 110, 121
CONFIG = f"--config={trainer.ROOT / 'configs' / 'digits.py'}:{OPTIONS}"
NO_SPACE = ("disk is full", "No space left")


@pytest.fixture
def rng(request):
  return faults.numbers(request)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The workdir of a run without faults."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  assert train.main(command(workdir)) == 0
  return workdir


@pytest.fixture(scope="module")
def half(tmp_path_factory):
  """The workdir of a stopped run, with checkpoints `OLDER` and `NEWEST`."""
  workdir = tmp_path_factory.mktemp("runs") / "half"
  assert train.main(command(workdir), stop=StopAfter(NEWEST // 11)) == 143
  assert trainer.saved_steps(workdir)[-2:] == [OLDER, NEWEST]
  (workdir / "report.html").touch()  # It exists, so no figures are drawn.
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


@pytest.mark.parametrize("number", range(40))
def test_damaged_newest_checkpoint(workdir, whole, rng, run, number):
  damage_checkpoint(rng, workdir / "checkpoints" / str(NEWEST))
  result = run(workdir)
  # A byte that nothing reads may have changed.
  assert any(
    f"Resuming from step {step}" in result[1] for step in (OLDER, NEWEST)
  )
  assert_finishes(result, workdir, whole)


@pytest.mark.parametrize("number", range(4))
def test_copied_checkpoint(workdir, whole, rng, run, number):
  newest = workdir / "checkpoints" / str(NEWEST)
  shutil.rmtree(newest)
  if rng.random() < 0.5:
    newest.symlink_to(str(OLDER))
  else:
    shutil.copytree(newest.with_name(str(OLDER)), newest)
  result = run(workdir)
  copied = f"checkpoint {NEWEST} is damaged: it is a copy of step {OLDER}"
  assert copied in result[1]
  assert_finishes(result, workdir, whole)


@pytest.mark.parametrize("number", range(2))
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


@pytest.mark.parametrize("number", range(8))
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


@pytest.mark.parametrize("number", range(14))
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
  assert [r for r in rows if r["step"] > NEWEST] == expected[NEWEST:]
  assert steps == sorted(set(steps))
  if steps.index(NEWEST + 1) < NEWEST:
    assert "warning: " in out and "are lost" in " ".join(out.split())
    copy = path.with_name(f"metrics_damaged_{NEWEST}.jsonl")
    assert not damaged or copy.read_bytes() == damaged
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


@pytest.mark.parametrize("number", range(20))
def test_full_disk(whole, tmp_path, rng, run, number):
  """A disk that is too small, until it is made larger."""
  workdir = tmp_path / "disk" / "run"
  size, inodes = rng.choice(
    [
      (rng.randrange(8192, 800_000), 0),
      (64_000_000, rng.randint(3, 120)),
      (rng.randrange(100_000, 800_000), rng.randint(30, 120)),
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


@pytest.mark.parametrize("number", range(4))
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
    if name == "metrics.jsonl":
      assert f"Rows of steps 1 to {NEWEST} are lost" in " ".join(out.split())
      shutil.copy(whole / name, path)
    assert_finishes(result, workdir, whole)
    return
  assert status == 2, result
  assert err.startswith("error: ") and err.count("\n") == 1, err
  assert str(path) in err or str(workdir) in err, err
  shutil.rmtree(path) if kind == "folder" else path.unlink()
  if name != "." and (tmp_path / "saved").exists():
    (tmp_path / "saved").rename(path)
  assert_finishes(run(workdir), workdir, whole)
