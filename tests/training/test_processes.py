"""Two processes with two devices each train one sharded network."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import together, trainer

from sparsejax import command_line
from sparsejax.training import processes

SCRIPT = pathlib.Path(__file__).parents[1] / "helpers" / "process.py"


def test_two_processes_agree_at_every_step(tmp_path):
  port = trainer.free_port()
  started = [
    subprocess.Popen(
      [sys.executable, SCRIPT, str(index), "2", str(port), str(tmp_path)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env={
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "2",
      },
    )
    for index in range(2)
  ]
  outputs = []
  try:
    for process in started:
      out, err = process.communicate(timeout=240)
      assert process.returncode == 0, out + err
      outputs.append(out)
  finally:
    for process in started:
      process.kill()
  masks = [
    [line for line in out.splitlines() if line.startswith("masks ")]
    for out in outputs
  ]
  assert masks[0] == masks[1]
  assert len(masks[0]) == 22
  changes = {line.split(maxsplit=2)[2] for line in masks[0]}
  assert len(changes) > 3
  # Only the first process prints and writes.
  assert "test accuracy" in outputs[0]
  # Gloo prints lines too, and sometimes parts of lines.
  lines = [
    line
    for line in outputs[1].splitlines()
    if "Gloo" not in line and "peer ranks" not in line
  ]
  *lines, refused = lines
  assert lines == masks[1]
  assert refused in outputs[0]
  assert "Step 5 was not saved: its masks differ between processes" in refused
  assert "`opt_state/masks/Dense_0/kernel` is" in refused
  assert "in process 0 on" in refused and "in process 1 on" in refused
  assert refused.count("in process 1 on") == 1  # No other leaf differs.
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == list(range(1, 23))
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["processes"] == 2
  assert summary["active"] == summary["requested"]


def test_processes_that_differ_are_refused_and_say_in_what(tmp_path):
  workdir = tmp_path / "run"
  changes = ("--config.seed=5", "--config.method.sparsity=0.5")
  started = together.start(workdir, each=lambda index: changes if index else ())
  statuses, outputs = together.finish(started)
  assert statuses == [2, 2], outputs
  for output in outputs:
    (line,) = [each for each in output.splitlines() if "error:" in each]
    assert "`config.seed` is 0 in process 0 on" in line
    assert "5 in process 1 on" in line
    assert "`config.method.sparsity` is 0.9 in process 0 on" in line
    assert "0.5 in process 1 on" in line
    assert "Traceback" not in output
  assert not workdir.exists()


def test_missing_process_is_named(tmp_path):
  started = together.start(
    tmp_path, 3, "--join_timeout_seconds=3", present=(0, 2)
  )
  statuses, outputs = together.finish(started)
  assert statuses == [75, 75], outputs
  for output in outputs:
    (line,) = output.splitlines()
    assert line.startswith("error: Process 1 of 3 did not come within 3 s")


@pytest.mark.pods
def test_a_run_goes_on_with_other_processes_and_another_mesh(tmp_path):
  """Four processes of one device, then one of three."""
  args = (
    "--config.batch_size=48",
    "--config.epochs=2",
    "--config.dispatch_steps=2",
    "--config.log_every_steps=1",
    "--config.method.every_steps=10",
    "--config.optimizer.learning_rate=0.01",
    "--config.model.hidden=(64,)",
    "--config.mesh.rules=('*_0/kernel=none,fsdp',)",
  )
  start = functools.partial(trainer.start, options="granet")
  one, several = tmp_path / "one", tmp_path / "several"
  trainer.finish_all([start(one, *args, env=devices(1))])
  started = trainer.start_several(
    several,
    4,
    *args,
    "--config.mesh.data=2",
    "--config.mesh.fsdp=2",
    options="granet",
    env=devices(1),
  )
  try:
    trainer.wait_for(
      started[0], lambda: trainer.last_step(several) >= 12, seconds=900
    )
    started[-1].send_signal(signal.SIGTERM)
    ended = [trainer.finish(process) for process in started]
    assert [status for status, _, _ in ended] == [143] * 4, ended
  finally:
    for process in started:
      process.kill()
  trainer.finish_all([start(several, *args, env=devices(3))])
  states = [trainer.newest_state(workdir) for workdir in (one, several)]
  masks = [jax.tree.leaves(state["opt_state"]["masks"]) for state in states]
  for a, b in zip(*masks, strict=True):
    np.testing.assert_array_equal(a, b)
  counts = [
    [(row["step"], row["active"]) for row in trainer.metrics(workdir)]
    for workdir in (one, several)
  ]
  assert counts[0] == counts[1]


def devices(count):
  return {
    "JAX_NUM_CPU_DEVICES": str(count),
    "XLA_FLAGS": os.environ["XLA_FLAGS"],
  }


def test_incomplete_cluster_arguments_are_refused():
  with pytest.raises(command_line.InputError, match="go together"):
    processes.join(num_processes=2)


def test_any_of_in_a_single_process():
  assert processes.any_of(True) is True
  assert processes.any_of(False) is False


BARRIER = """
import os, sys, time
from sparsejax.training import coordination, processes
index, port = int(sys.argv[1]), sys.argv[2]
processes.join(
  coordinator_address=f"127.0.0.1:{port}", num_processes=2, process_id=index
)
coordination.be_patient(0.5)
try:
  if index == 0:
    processes.barrier("report")
except Exception as error:
  print(type(error).__name__, error, flush=True)
else:
  coordination.get("never", seconds=60.0)  # Alive, but does not come.
os._exit(0)
"""


def test_barrier_names_the_process_that_does_not_come():
  port = str(trainer.free_port())
  started = [
    subprocess.Popen(
      [sys.executable, "-c", BARRIER, str(index), port],
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    for index in range(2)
  ]
  try:
    line, _ = started[0].communicate(timeout=120)
  finally:
    for process in started:
      process.kill()
      process.communicate()
  assert line == (
    "PeerError Process 1 did not reach the barrier `sparsejax_report_0` within"
    " 0.5 s.\n"
  )
