"""The records of a run: what is written, cut back, and refused."""

import json
import math

import numpy as np
import pytest

from sparsejax import command_line
from sparsejax.training.reporting import records


def write(workdir, steps, *, start=0):
  with records.Writer(workdir, start=start) as writer:
    writer.write({"step": step, "loss": step / 3} for step in steps)
    writer.sync()


def steps(workdir):
  return [row["step"] for row in records.read_metrics(workdir)]


def test_a_resume_cuts_back_to_where_it_starts(tmp_path):
  write(tmp_path, [1, 2, 3, 4])
  write(tmp_path, [3], start=2)
  assert steps(tmp_path) == [1, 2, 3]


def test_lines_survive_a_cut_byte_for_byte(tmp_path):
  write(tmp_path, [1, 2])
  before = (tmp_path / records.METRICS).read_bytes()
  write(tmp_path, [], start=2)
  assert (tmp_path / records.METRICS).read_bytes() == before


def test_a_start_from_nothing_drops_what_is_there(tmp_path):
  write(tmp_path, [1, 2])
  write(tmp_path, [1])
  assert steps(tmp_path) == [1]


@pytest.mark.parametrize("tail", [b'{"step": 3, "lo', b"\0\0\0\n", b"x\n{}\n"])
def test_a_damaged_end_is_dropped(tmp_path, tail):
  write(tmp_path, [1, 2])
  with open(tmp_path / records.METRICS, "ab") as file:
    file.write(tail)
  assert steps(tmp_path) == [1, 2]
  write(tmp_path, [3], start=2)
  assert steps(tmp_path) == [1, 2, 3]


def test_numbers_that_json_lacks_are_null(tmp_path):
  with records.Writer(tmp_path, start=0) as writer:
    writer.write([{"step": 1, "loss": math.nan, "grad_norm": math.inf}])
  text = (tmp_path / records.METRICS).read_text()
  assert json.loads(text) == {"step": 1, "loss": None, "grad_norm": None}


def test_events_are_written(tmp_path):
  write(tmp_path, [1])
  (events,) = tmp_path.glob("*events*")
  assert events.stat().st_size > 0


def test_a_workdir_of_another_config_is_refused_by_what_differs(tmp_path):
  config = {"seed": 0, "method": {"name": "gmp", "sparsity": 0.9}}
  records.claim(tmp_path, config)
  records.claim(tmp_path, config)
  other = {"seed": 0, "method": {"name": "gmp", "sparsity": 0.8}}
  with pytest.raises(command_line.InputError) as caught:
    records.claim(tmp_path, other)
  assert "`method.sparsity` is 0.9 there and 0.8 here" in str(caught.value)
  assert "seed" not in str(caught.value)


def test_a_config_that_is_damaged_is_told(tmp_path):
  (tmp_path / records.CONFIG).write_text('{"seed"')
  with pytest.raises(command_line.InputError, match="is not JSON"):
    records.claim(tmp_path, {"seed": 0})


def test_a_run_is_finished_when_its_summary_is_there(tmp_path):
  assert records.finished(tmp_path) is None
  records.write_json(tmp_path / records.SUMMARY, {"steps": 3})
  assert records.finished(tmp_path) == {"steps": 3}
  assert [path.name for path in tmp_path.iterdir()] == [records.SUMMARY]


def test_rows_have_sparsities_from_integer_counts():
  stats = {
    "active": np.array([7, 3], np.int32),
    "total": np.array([10, 10], np.int32),
    "requested": np.array([7, 4], np.int32),
    "last_update": np.array([-1, 6], np.int32),
    "ever_active": np.array([7, 8], np.int32),
  }
  metrics = {"loss": np.array([0.5, 0.25], np.float32), "stats": stats}
  assert records.rows(metrics, first=5) == [
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


def test_a_network_without_sparse_leaves_is_not_sparse():
  row = records.sparsity_row(
    {"active": 0, "total": 0, "requested": 0, "last_update": -1}
  )
  assert (row["sparsity"], row["requested_sparsity"]) == (0.0, 0.0)
