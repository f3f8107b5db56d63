"""`tpu_vm.sh` with two folders as workers, in place of gcloud's machines."""

import os
import shutil
import subprocess
import sys

import pytest
from helpers.trainer import ROOT

# Runs what gcloud would run on the workers of a TPU VM, one after another.
GCLOUD = """#!/usr/bin/env bash
set -e
[[ "$1 $2 $3" == 'compute tpus tpu-vm' ]]
for option in "$@"; do
  case $option in
    --command=*) command=${option#*=} ;;
    --worker=all) all=1 ;;
    --zone=here) zone=1 ;;
  esac
done
[[ $all$zone == 11 ]]
for worker in "$WORKERS"/*; do
  case $4 in
    scp) cp "$5" "$worker/${6#tpu:}" ;;
    ssh) (cd "$worker" && HOME=$worker bash -c "$command") ;;
  esac
done
"""


@pytest.fixture
def tpu(tmp_path):
  """A clone of this repository, and a function that runs its script."""
  clone, workers = tmp_path / "clone", tmp_path / "workers"
  subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
  (clone / "launch").mkdir(exist_ok=True)
  shutil.copy(ROOT / "launch" / "tpu_vm.sh", clone / "launch")
  subprocess.run(["git", "-C", clone, "add", "-A"], check=True)
  git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", clone]
  subprocess.run(
    [*git, "commit", "-qam", "This script", "--allow-empty"], check=True
  )
  commit = subprocess.run(
    [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
  ).stdout.strip()
  for worker in ("0", "1"):
    binaries = workers / worker / "sparsejax" / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries.parent / commit).touch()  # What it needs is installed.
    python = binaries / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
  gcloud = tmp_path / "bin" / "gcloud"
  gcloud.parent.mkdir()
  gcloud.write_text(GCLOUD)
  gcloud.chmod(0o755)

  def run(*arguments, **changes):
    return subprocess.run(
      [clone / "launch" / "tpu_vm.sh", *arguments],
      env={
        **os.environ,
        "PATH": f"{gcloud.parent}:{os.environ['PATH']}",
        "PYTHONPATH": "",
        "WORKERS": str(workers),
        "TPU_NAME": "tpu",
        "ZONE": "here",
        **changes,
      },
      capture_output=True,
      text=True,
    )

  return clone, workers, run


def test_starts_the_same_commit_on_all_workers(tpu):
  clone, workers, run = tpu
  done = run("--help", "--workdir=with space")
  assert done.returncode == 0, done.stderr
  assert done.stdout.count("--coordinator_address") == 2, done.stdout
  (log,) = (clone / "runs").iterdir()
  assert log.read_text() == done.stdout
  for worker in workers.iterdir():
    for name in ("sparsejax/train.py", "setup.cfg"):
      copied = (worker / "sparsejax" / name).read_bytes()
      assert copied == (clone / name).read_bytes()


def test_refuses_workers_with_other_code(tpu):
  _, workers, run = tpu
  (workers / "1" / "sparsejax" / "sparsejax").mkdir()
  (workers / "1" / "sparsejax" / "sparsejax" / "more.py").touch()
  done = run("--help")
  assert done.returncode == 2
  assert "do not all have commit" in done.stderr
  assert "--coordinator_address" not in done.stdout


def test_refuses_uncommitted_changes_and_missing_names(tpu):
  clone, _, run = tpu
  assert "Set TPU_NAME and ZONE." in run("--help", ZONE="").stderr
  with open(clone / "setup.cfg", "a") as file:
    file.write("# changed\n")
  done = run("--help")
  assert done.returncode == 2 and "setup.cfg" in done.stderr


def test_the_status_of_the_trainer_is_that_of_the_script(tpu):
  _, _, run = tpu
  done = run("--config=nothing")
  assert done.returncode == 2 and "error: " in done.stderr
