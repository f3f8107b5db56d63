"""The workdir of a run: which config it belongs to, and its summary."""

import pytest
from helpers import records as written

from sparsejax import command_line
from sparsejax.plots import records
from sparsejax.training.reporting import workdirs


def test_workdir_of_another_config_is_refused(tmp_path):
  config = written.CONFIG
  workdirs.claim(tmp_path, config)
  workdirs.claim(tmp_path, config)
  other = config | {"method": config["method"] | {"sparsity": 0.8}}
  with pytest.raises(command_line.InputError) as caught:
    workdirs.claim(tmp_path, other)
  assert "`method.sparsity` is 0.9 there and 0.8 here" in str(caught.value)
  assert "seed" not in str(caught.value)


def test_damaged_config_is_refused(tmp_path):
  (tmp_path / records.CONFIG).write_text('{"seed"')
  with pytest.raises(command_line.InputError, match="is not JSON"):
    workdirs.claim(tmp_path, {"seed": 0})


def test_summary_of_a_finished_run(tmp_path):
  assert records.read_summary(tmp_path) is None
  workdirs.write_json(tmp_path / records.SUMMARY, written.SUMMARY)
  assert records.read_summary(tmp_path) == written.SUMMARY
  assert [path.name for path in tmp_path.iterdir()] == [records.SUMMARY]
