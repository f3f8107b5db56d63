"""`local.sh` trains in two processes, and ends them together."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from helpers import tiers, trainer

SCRIPT = trainer.ROOT / "launch" / "local.sh"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """Starts two processes, which share their compiled programs."""
  compiled = tmp_path_factory.mktemp("compiled")
  started = []

  def start(workdir, *changes):
    process = subprocess.Popen(
      [
        SCRIPT,
        "2",
        "--config=digits:static",
        f"--workdir={workdir}",
        "--config.model.hidden=(8,)",
        "--config.dispatch_steps=2",
        "--config.log_every_steps=2",
        "--heartbeat_timeout_seconds=10",
        *changes,
      ],
      cwd=trainer.ROOT,
      env={
        **os.environ,
        "PYTHON": sys.executable,
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    process.terminate()
    process.communicate(timeout=60)


def children(process):
  path = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
  return [int(number) for number in path.read_text().split()]


def test_trains_in_two_processes(start, tmp_path):
  process = start(tmp_path / "run", "--config.epochs=1")
  status, out, err = trainer.finish(process)
  assert status == 0, out + err
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  assert summary["processes"] == 2


@pytest.mark.parametrize(
  "number, index, status",
  tiers.every(
    2, [(signal.SIGKILL, 1, 128 + 9), (signal.SIGTERM, None, 128 + 15)]
  ),
  ids=["one killed", "stopped"],
)
def test_all_processes_end_together(start, tmp_path, number, index, status):
  process = start(tmp_path / "run", "--config.epochs=100000")
  trainer.wait_for(process, lambda: trainer.last_step(tmp_path / "run") > 20)
  trained = children(process)
  assert len(trained) == 2
  os.kill(process.pid if index is None else trained[index], number)
  found, out, err = trainer.finish(process)
  assert found == status, out + err
  assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in trained)
  if index is None:
    assert "Stopped by a signal after saving step" in err
    assert trainer.saved_steps(tmp_path / "run")


@pytest.mark.parametrize("count", ["0", "two", ""])
def test_the_number_of_processes_is_checked(count):
  done = subprocess.run([SCRIPT, count], capture_output=True, text=True)
  assert done.returncode == 2
  assert f"N must be at least 1, got '{count}'." in done.stderr
