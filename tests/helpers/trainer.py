"""Start the trainer as a user does, and compare the files of runs."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = pathlib.Path(__file__).parents[2]
_CLOCK = ("_seconds", "_per_second")


def start(
  workdir,
  *args,
  config="configs/digits.py",
  options="set,sparsity=0.9",
  env=None,
  program=("-m", "sparsejax.train"),
  **output,
) -> subprocess.Popen:
  """Starts `python -m sparsejax.train` in a new process."""
  command = [
    sys.executable,
    *program,
    f"--config={config}:{options}",
    f"--workdir={workdir}",
    *args,
  ]
  return subprocess.Popen(
    command,
    cwd=ROOT,
    # Users compile with all optimizations, unlike `conftest.py`.
    env={**os.environ, "XLA_FLAGS": "", **(env or {})},
    text=True,
    **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | output),
  )


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def start_several(workdir, count, *args, **kwargs) -> list[subprocess.Popen]:
  """Starts several processes that train one network together."""
  port = free_port()
  return [
    start(
      workdir,
      *args,
      f"--coordinator_address=127.0.0.1:{port}",
      f"--num_processes={count}",
      f"--process_id={index}",
      "--heartbeat_timeout_seconds=10",
      **kwargs,
    )
    for index in range(count)
  ]


def finish_all(started) -> None:
  """Waits for processes; all of them must succeed."""
  try:
    for process in started:
      status, out, err = finish(process)
      assert status == 0, out + err
  finally:
    for process in started:
      process.kill()


def finish(process: subprocess.Popen, *, seconds: float = 240):
  """Waits; returns (exit status, stdout, stderr)."""
  out, err = process.communicate(timeout=seconds)
  return process.returncode, out, err


def run(workdir, *args, **kwargs):
  return finish(start(workdir, *args, **kwargs))


def wait_for(process: subprocess.Popen, condition, *, seconds: float = 180):
  """Waits until `condition()` is true; the run must still be in progress."""
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, "timed out waiting for the run"
    if process.poll() is not None:
      raise AssertionError(f"the run ended early: {process.communicate()}")
    time.sleep(0.0005)


def last_step(workdir) -> int:
  """Returns the newest step in `metrics.jsonl`, from its last lines."""
  path = pathlib.Path(workdir) / "metrics.jsonl"
  if not path.exists():
    return 0
  with open(path, "rb") as file:
    file.seek(max(path.stat().st_size - 4096, 0))
    lines = file.read().split(b"\n")[:-1]
  return json.loads(lines[-1])["step"] if lines else 0


def saved_steps(workdir) -> list[int]:
  folder = pathlib.Path(workdir) / "checkpoints"
  names = [path.name for path in folder.iterdir()] if folder.exists() else []
  return sorted(int(name) for name in names if name.isdigit())


def newest_state(workdir):
  """Reads the newest checkpoint without the code under test."""
  folder = pathlib.Path(workdir) / "checkpoints"
  local = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
    return reader.restore(
      folder / str(saved_steps(workdir)[-1]) / "state",
      args=ocp.args.StandardRestore(fallback_sharding=local),
    )


def metrics(workdir) -> list[dict]:
  text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
  return [_without_clock(json.loads(line)) for line in text.splitlines()]


def summary(workdir) -> dict:
  text = (pathlib.Path(workdir) / "summary.json").read_text()
  found = _without_clock(json.loads(text))
  for key in ("resumed_from_step", "devices", "processes"):
    found.pop(key)
  return found


def _without_clock(row: dict) -> dict:
  return {key: row[key] for key in row if not key.endswith(_CLOCK)}


def assert_same_run(one, other) -> None:
  """Asserts equal states, bit for bit, and equal records except times."""
  assert saved_steps(one)[-1] == saved_steps(other)[-1]
  left, right = newest_state(one), newest_state(other)
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for (path, a), b in zip(
    jax.tree.leaves_with_path(left), jax.tree.leaves(right), strict=True
  ):
    same = np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert same, jax.tree_util.keystr(path)
  assert metrics(one) == metrics(other)
  assert summary(one) == summary(other)
