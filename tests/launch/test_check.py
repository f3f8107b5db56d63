"""`python -m sparsejax.launch check`: processes agree, or how they differ."""

import os
import subprocess
import sys

import pytest
from helpers import slurm, trainer

from sparsejax.launch import __main__ as launch, check

SCRIPT = trainer.ROOT / "launch" / "local.sh"


def start(index, port, *arguments, before=()):
  command = [
    *before,
    sys.executable,
    "-m",
    "sparsejax.launch",
    "check",
    "--config=digits",
    f"--coordinator_address=127.0.0.1:{port}",
    "--num_processes=2",
    f"--process_id={index}",
    *arguments,
  ]
  return subprocess.Popen(
    command,
    cwd=trainer.ROOT,
    env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(*processes):
  try:
    return [trainer.finish(process, seconds=120) for process in processes]
  finally:
    for process in processes:
      process.kill()


def test_two_processes_agree(tmp_path):
  done = subprocess.run(
    [SCRIPT, "2", "check", "--config=digits", f"--workdir={tmp_path / 'run'}"],
    env={**os.environ, "PYTHON": sys.executable, "MODULE": "sparsejax.launch"},
    cwd=trainer.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  lines = [line for line in done.stdout.splitlines() if "Gloo" not in line]
  names, first, second, last = lines
  assert names.split() == (
    "process host devices jax python commit config workdir clock".split()
  )
  assert first.startswith("0 ") and second.startswith("1 ")
  assert "shared" in first and "not shared" not in second
  assert last == "All agree: 2 processes, 2 devices."
  assert not list((tmp_path / "run").iterdir())


def test_different_processes_are_refused_after_the_table(tmp_path):
  (port,) = slurm.free_ports(1)
  first, second = finish(
    start(0, port, f"--workdir={tmp_path}"),
    start(1, port, f"--workdir={tmp_path}", "--config.seed=7"),
  )
  assert first[0] == second[0] == 2, (first, second)
  assert "2 cpu" in first[1] and "All agree" not in first[1]
  said = first[2] + second[2]  # One may end because the other has ended.
  assert "`config.seed` is 0 in process 0 on" in said, said
  assert "and 7 in process 1 on" in said


def test_a_workdir_that_is_not_shared_is_refused(tmp_path):
  mount = ["unshare", "--mount", "sh", "-c"]
  hide = 'mount -t tmpfs none "$0" && exec "$@"'
  tried = subprocess.run([*mount, hide, tmp_path, "true"], capture_output=True)
  if tried.returncode:
    pytest.skip("only root can mount another folder")
  (port,) = slurm.free_ports(1)
  first, second = finish(
    start(0, port, f"--workdir={tmp_path}"),
    start(
      1, port, f"--workdir={tmp_path}", before=[*mount, hide, str(tmp_path)]
    ),
  )
  assert first[0] == second[0] == 2, (first, second)
  assert "not shared" in first[1]
  said = first[2] + second[2]
  assert "`--workdir is shared` is true in process 0" in said, said


def test_one_process_and_bad_arguments(capsys):
  alone = ["check", "--config=digits", "--distributed=False"]
  assert launch.main(alone) == 0
  assert "All agree: 1 processes" in capsys.readouterr().out
  assert launch.main(["train"]) == 2
  assert "Valid: check." in capsys.readouterr().err
  assert launch.main([*alone, "--config.seedz=1"]) == 2
  assert "config.seed" in capsys.readouterr().err


def test_columns_are_aligned():
  rows = [{"process": 0, "host": "a"}, {"process": 10, "host": "longer"}]
  assert check.table(rows).splitlines() == [
    "process  host",
    "0        a",
    "10       longer",
  ]
