"""The search for the value with which a run ends at a sparsity."""

import json

import pytest
from helpers import tiers

from sparsejax.plots import records
from sparsejax.study import reproduce, seek

TABLE = """
from sparsejax.study import papers

TABLE = papers.Table(
  title="A table",
  reference="Nobody (1900), Table 1",
  columns=("accuracy",),
  rows=papers.line(
    "str",
    "digits:str",
    papers.sought(papers.across(("sparsity=0.8",))),
    "95",
    changes=(
      "--config.epochs=24",
      "--config.model.hidden=(32,)",
      "--config.method.threshold_weight_decay=2e-3",
    ),
  ),
)
"""


def search(target=0.9, tolerance=0.005, most_runs=16):
  return seek.Search(target, tolerance, most_runs)


@pytest.mark.parametrize("first", [1e-9, 3e-4, 1.0, 5e7])
@pytest.mark.parametrize("target", [0.05, 0.5, 0.98])
def test_a_smooth_curve_is_met_within_the_tolerance(first, target):
  curve = lambda value: 1 / (1 + 1e-3 / value)  # noqa: E731
  found = list(seek.trials(search(target, most_runs=80), curve, first))
  assert abs(found[-1].sparsity - target) <= 0.005
  assert all(abs(t.sparsity - target) > 0.005 for t in found[:-1])
  assert [t.value for t in found] == [float(f"{t.value:.6g}") for t in found]


def test_the_steps_by_hand():
  step = lambda value: 1.0 if value > 5 else 0.2  # noqa: E731
  found = [t.value for t in seek.trials(search(most_runs=5), step, 1.0)]
  assert found == [1.0, 2.0, 4.0, 8.0, 5.65685]  # sqrt(4 x 8), six digits.
  found = list(seek.trials(search(most_runs=99), step, 1.0))
  # A step in the curve: it ends where no value of six digits is left.
  low = max(t.value for t in found if t.sparsity < 0.9)
  high = min(t.value for t in found if t.sparsity > 0.9)
  assert (low, high) == (5.0, 5.00001)
  assert search().closest(found) == seek.Trial(8.0, 1.0)


@pytest.mark.parametrize(
  "changes, message",
  [
    (["--sparsity=1.0"], "`--sparsity` must be in (0, 1), got 1.0"),
    (["--tolerance=0"], "`--tolerance` must be in (0, 1), got 0.0"),
    (["--runs=0"], "`--runs` must be at least 1, got 0"),
    (["--key=method.decay"], "`--key` got 'decay'"),
    ([], "must be a number above 0 to begin with, got 0.0"),
    (
      [
        "--config.method.threshold_weight_decay=1e-3",
        "--short_epochs=9",
      ],
      "`--short_epochs` must be in (0, 1.0)",
    ),
  ],
)
def test_what_is_refused(changes, message, tmp_path, capsys):
  argv = ["--config=digits:str,runlocal", f"--workdir={tmp_path}"]
  given = ["--sparsity=0.9"] if "--sparsity=1.0" not in changes else []
  assert seek.main([*argv, *given, *changes]) == 2
  assert message in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


@tiers.SLOW
def test_str_reaches_a_sparsity_and_repeats_no_run(tmp_path, capsys):
  argv = [
    "--config=digits:str",
    "--config.epochs=30",
    "--config.model.hidden=(32,)",
    "--config.method.threshold_weight_decay=2e-3",
    "--sparsity=0.8",
    "--tolerance=0.02",
    "--short_epochs=10",
    f"--workdir={tmp_path}",
  ]
  assert seek.main(argv) == 0
  said = capsys.readouterr().out
  *_, last = said.splitlines()
  folder = last.rpartition(": ")[2]
  summary = records.read_summary(tmp_path / folder)
  assert summary is not None and abs(summary["sparsity"] - 0.8) <= 0.02
  before = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*"))
  assert seek.main(argv) == 0
  assert capsys.readouterr().out.splitlines()[-1] == last
  after = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*"))
  assert after == before


@tiers.SLOW
def test_a_search_that_ends_without_one_says_the_closest(tmp_path, capsys):
  argv = [
    "--config=digits:str,runlocal",
    "--config.method.threshold_weight_decay=1e-6",
    "--sparsity=0.9",
    "--runs=2",
    f"--workdir={tmp_path}",
  ]
  assert seek.main(argv) == seek.NOT_FOUND
  said = capsys.readouterr().out
  assert "No run ended within 0.50% of 90.00%" in said
  assert "--config.method.threshold_weight_decay=2e-06" in said


@tiers.SLOW
def test_a_row_of_a_table_reaches_its_sparsity(tmp_path, capsys):
  table = tmp_path / "small.py"
  table.write_text(TABLE)
  argv = [str(table), f"--workdir={tmp_path / 'runs'}", "--seeds=2"]
  assert reproduce.main(argv) == 0
  said = capsys.readouterr().out
  assert "str/0.8: searching for a sparsity of 80.00%" in said
  # The last run of the search is that of seed 0.
  assert "1 runs are done, 1 to train." in said
  (known,) = (tmp_path / "runs" / "sought").glob("*.json")
  value = json.loads(known.read_text())["value"]
  found = {}
  for path in (tmp_path / "runs").glob("*/config.json"):
    config = json.loads(path.read_text())
    decay = config["method"]["threshold_weight_decay"]
    if config["epochs"] == 24 and decay == value:
      found[config["seed"]] = records.read_summary(path.parent)["sparsity"]
  assert sorted(found) == [0, 1]
  assert abs(found[0] - 0.8) <= 0.005
  assert reproduce.main(argv) == 0
  assert "2 runs are done, 0 to train." in capsys.readouterr().out
