"""Two processes with two devices each train one sharded network."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from sparsejax import command_line
from sparsejax.training import processes

SCRIPT = pathlib.Path(__file__).parents[1] / "helpers" / "process.py"


def free_port():
  with socket.socket() as server:
    server.bind(("127.0.0.1", 0))
    return server.getsockname()[1]


def test_two_processes_agree_at_every_step(tmp_path):
  port = free_port()
  started = [
    subprocess.Popen(
      [sys.executable, SCRIPT, str(index), "2", str(port), str(tmp_path)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env={
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "2",
        # The second training in a process compiles nothing again.
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
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
  assert lines == masks[1]
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == list(range(1, 23))
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["processes"] == 2
  assert summary["active"] == summary["requested"]


def test_incomplete_cluster_arguments_are_refused():
  with pytest.raises(command_line.InputError, match="go together"):
    processes.join(num_processes=2)


def test_any_of_in_a_single_process():
  assert processes.any_of(True) is True
  assert processes.any_of(False) is False
