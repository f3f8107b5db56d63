"""`metrics.jsonl`: writing, truncating on resume, and computed values."""

import json
import math

import numpy as np
import pytest

from sparsejax.plots import records
from sparsejax.training.reporting import metrics


def write(workdir, steps, *, start=0):
  with metrics.Writer(workdir, start=start) as writer:
    writer.write({"step": step, "loss": step / 3} for step in steps)
    writer.sync()


def steps(workdir):
  return [row["step"] for row in records.read_metrics(workdir).rows]


def test_resume_truncates_to_its_first_step(tmp_path):
  write(tmp_path, [1, 2, 3, 4])
  write(tmp_path, [3], start=2)
  assert steps(tmp_path) == [1, 2, 3]


def test_truncating_keeps_earlier_lines_byte_for_byte(tmp_path):
  write(tmp_path, [1, 2])
  before = (tmp_path / records.METRICS).read_bytes()
  write(tmp_path, [], start=2)
  assert (tmp_path / records.METRICS).read_bytes() == before


def test_new_run_truncates_everything(tmp_path):
  write(tmp_path, [1, 2])
  write(tmp_path, [1])
  assert steps(tmp_path) == [1]


@pytest.mark.parametrize("tail", [b'{"step": 3, "lo', b"\0\0\0\n", b"x\n{}\n"])
def test_damaged_last_lines_are_dropped(tmp_path, tail):
  write(tmp_path, [1, 2])
  with open(tmp_path / records.METRICS, "ab") as file:
    file.write(tail)
  assert steps(tmp_path) == [1, 2]
  write(tmp_path, [3], start=2)
  assert steps(tmp_path) == [1, 2, 3]


def test_rows_lost_to_damage_are_reported_and_a_copy_remains(tmp_path):
  write(tmp_path, [1, 2, 3, 4])
  path = tmp_path / records.METRICS
  before = path.read_bytes().replace(b'"step": 2', b'"step": [', 1)
  path.write_bytes(before)
  with metrics.Writer(tmp_path, start=3) as writer:
    assert writer.warning is not None
    assert "line 2 of" in writer.warning and "steps 2 to 3" in writer.warning
    writer.write([{"step": 4}])
  assert steps(tmp_path) == [1, 4]
  assert (tmp_path / "metrics_damaged_3.jsonl").read_bytes() == before


def test_damage_in_steps_that_are_repeated_is_not_reported(tmp_path):
  write(tmp_path, [1, 2, 3])
  with open(tmp_path / records.METRICS, "a") as file:
    file.write("[]\n")
  with metrics.Writer(tmp_path, start=2) as writer:
    assert writer.warning is None
  assert steps(tmp_path) == [1, 2]


def test_non_finite_numbers_are_null(tmp_path):
  with metrics.Writer(tmp_path, start=0) as writer:
    writer.write([{"step": 1, "loss": math.nan, "grad_norm": math.inf}])
  text = (tmp_path / records.METRICS).read_text()
  assert json.loads(text) == {"step": 1, "loss": None, "grad_norm": None}


def test_events_are_written(tmp_path):
  write(tmp_path, [1])
  (events,) = tmp_path.glob("*events*")
  assert events.stat().st_size > 0


def test_sparsities_are_computed_from_integer_counts():
  stats = {
    "active": np.array([7, 3], np.int32),
    "total": np.array([10, 10], np.int32),
    "requested": np.array([7, 4], np.int32),
    "last_update": np.array([-1, 6], np.int32),
    "ever_active": np.array([7, 8], np.int32),
  }
  stacked = {"loss": np.array([0.5, 0.25], np.float32), "stats": stats}
  assert metrics.rows(stacked, first=5) == [
    {
      "step": 6,
      "loss": 0.5,
      "sparsity": 1 - 7 / 10,
      "requested_sparsity": 1 - 7 / 10,
      "active": 7,
      "last_mask_update_step": -1,
      "itop_rate": 0.7,
    },
    {
      "step": 7,
      "loss": 0.25,
      "sparsity": 1 - 3 / 10,
      "requested_sparsity": 1 - 4 / 10,
      "active": 3,
      "last_mask_update_step": 6,
      "itop_rate": 0.8,
    },
  ]


def test_sparsity_without_sparse_leaves_is_zero():
  row = metrics.sparsity_row(
    {"active": 0, "total": 0, "requested": 0, "last_update": -1}
  )
  assert (row["sparsity"], row["requested_sparsity"]) == (0.0, 0.0)
