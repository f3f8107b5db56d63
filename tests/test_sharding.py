"""The same masks on one device and on four, however they are sharded."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parent / "helpers" / "sharded.py"
KERNEL = 500  # the smallest kernel of the script has more weights


@pytest.fixture(scope="module")
def results():
  done = subprocess.run(
    [sys.executable, str(SCRIPT)],
    env={**os.environ, "JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=500,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout)


def test_same_masks_on_one_and_four_devices(results):
  methods = {run["method"] for run in results}
  assert len(methods) >= 6
  for method in methods:
    runs = [run for run in results if run["method"] == method]
    assert len(runs) >= 2
    assert len({run["masks"] for run in runs}) == 1, method
    assert len({run["counts"] for run in runs}) == 1, method


def test_only_counts_cross_devices(results):
  """No weights, gradients or masks are gathered, and masks stay in place."""
  for run in results:
    assert run["follows"], run
    if run["place"] in ("rows", "columns"):
      assert run["gathered"] < KERNEL, run
