"""`slurm.sbatch` on a real Slurm: requeued until done, with the same bytes."""

import pathlib
import sys
import time

import pytest
from helpers import slurm, trainer

SCRIPT = trainer.ROOT / "launch" / "slurm.sbatch"
CHANGES = (
  "--config.epochs=40",
  "--config.dispatch_steps=2",
  "--config.checkpoint_every_epochs=1",
  "--config.eval_every_epochs=5",
  "--config.log_every_steps=22",
  "--config.model.hidden=(8,)",
  "--heartbeat_timeout_seconds=10",
)

reason = slurm.missing()
pytestmark = [
  pytest.mark.slurm,
  pytest.mark.skipif(reason is not None, reason=reason or ""),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
  with slurm.running(tmp_path_factory.mktemp("slurm")) as cluster:
    yield cluster


@pytest.fixture(scope="module")
def submit(cluster, tmp_path_factory):
  """Submits the trainer with two tasks, one on each node."""
  compiled = tmp_path_factory.mktemp("compiled")

  def submit(workdir, *changes, options=()):
    (port,) = slurm.free_ports(1)
    return cluster.submit(
      "--nodes=2",
      "--ntasks-per-node=1",
      "--gpus-per-node=0",
      f"--output={workdir}.log",
      *options,
      str(SCRIPT),
      "--config=digits:static",
      f"--workdir={workdir}",
      *CHANGES,
      *changes,
      PYTHON=sys.executable,
      XLA_FLAGS="",
      # Elsewhere the names of nodes can be resolved.
      JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
      JAX_COMPILATION_CACHE_DIR=str(compiled),
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )

  return submit


@pytest.fixture(scope="module")
def reference(cluster, submit, tmp_path_factory):
  """A run that nothing disturbs."""
  workdir = tmp_path_factory.mktemp("reference") / "run"
  assert wait_for_end(cluster, submit(workdir))["JobState"] == "COMPLETED"
  return workdir


def wait_for(cluster, job, condition, *, seconds=300):
  deadline = time.monotonic() + seconds
  while not condition():
    found = cluster.job(job)
    assert time.monotonic() < deadline, found
    assert found["JobState"] in ("PENDING", "RUNNING", "COMPLETING"), found
    if found.get("Reason") == "BeginTime":
      # A requeued job begins after two minutes; there is no setting for it.
      cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now")
    time.sleep(0.2)


def wait_for_end(cluster, job):
  ends = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")
  deadline = time.monotonic() + 300
  while (found := cluster.job(job))["JobState"] not in ends:
    assert time.monotonic() < deadline, found
    if found.get("Reason") == "BeginTime":
      cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now")
    time.sleep(0.2)
  return found


def test_signal_before_the_time_limit_saves_and_requeues(
  cluster, submit, reference, tmp_path
):
  workdir = tmp_path / "run"
  job = submit(workdir)
  wait_for(cluster, job, lambda: trainer.last_step(workdir) > 100)
  # What Slurm sends 120 s before the limit.
  cluster.call("scancel", "--batch", "--signal=USR1", job)
  found = wait_for_end(cluster, job)
  log = pathlib.Path(f"{workdir}.log").read_text()
  assert found["JobState"] == "COMPLETED" and found["Restarts"] == "1", log
  assert "Stopped by a signal after saving step" in log
  assert "Exit status 143, restart 0 of 20." in log
  assert "Resuming from step" in log
  trainer.assert_same_run(workdir, reference)


def test_killed_task_is_requeued(cluster, submit, reference, tmp_path):
  workdir = tmp_path / "run"
  job = submit(workdir)
  wait_for(cluster, job, lambda: len(trainer.saved_steps(workdir)) > 1)
  pids = cluster.call("scontrol", "listpids", f"{job}.0", "n2").split("\n")[1:]
  cluster.call("kill", "-KILL", *(line.split()[0] for line in pids))
  found = wait_for_end(cluster, job)
  log = pathlib.Path(f"{workdir}.log").read_text()
  assert found["JobState"] == "COMPLETED" and found["Restarts"] == "1", log
  assert "Resuming from step" in log
  trainer.assert_same_run(workdir, reference)


def test_bad_input_is_final(cluster, submit, tmp_path):
  workdir = tmp_path / "run"
  found = wait_for_end(
    cluster, submit(workdir, "--config.optimizer.learning_rate=-1")
  )
  log = pathlib.Path(f"{workdir}.log").read_text()
  assert found["JobState"] == "FAILED" and found["ExitCode"] == "2:0", log
  assert found["Restarts"] == "0"
  assert "error: " in log and "Exit status" not in log


def test_a_cancelled_job_is_not_requeued(cluster, submit, tmp_path):
  workdir = tmp_path / "run"
  job = submit(workdir)
  wait_for(cluster, job, lambda: trainer.last_step(workdir) > 100)
  cluster.call("scancel", job)
  found = wait_for_end(cluster, job)
  assert found["JobState"] == "CANCELLED" and found["Restarts"] == "0"
  log = pathlib.Path(f"{workdir}.log")
  deadline = time.monotonic() + 60
  while "Stopped by a signal after saving step" not in log.read_text():
    assert time.monotonic() < deadline, log.read_text()
    time.sleep(0.2)
