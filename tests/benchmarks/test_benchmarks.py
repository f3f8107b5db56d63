"""The sweep matches the trainer, and benchmarks write where they may."""

import importlib
import json
import pathlib
import tempfile

import digits
import outputs
import pytest
import report
import sweep
from helpers import tiers

from sparsejax import train

ROOT = pathlib.Path(__file__).parents[2]


@tiers.SLOW
def test_a_sweep_matches_the_trainer(tmp_path):
  config = ROOT / "configs" / "digits.py"
  cells = [c for c in digits.cells(config, ",runlocal") if c.title == "granet"]
  cell, path = cells[0], tmp_path / "results.json"
  (record,) = sweep.run([cell], [4], path, jobs=1)

  argv = [*cell.argv, "--config.seed=4", f"--workdir={tmp_path / 'run'}"]
  assert train.main(argv) == 0
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  shared = summary.keys() & record.keys() - {"sparsity", "train_seconds"}
  assert len(shared) >= 7
  assert {k: record[k] for k in shared} == {k: summary[k] for k in shared}
  assert record["sparsity"] == summary["target_sparsity"]

  # Finished runs are read from the file; a changed config is trained again.
  path.write_text(json.dumps([record | {"test_loss": -1.0}]))
  again = sweep.run([cell], [4], path, jobs=1)
  assert [r["test_loss"] for r in again] == [-1.0]
  path.write_text(json.dumps([record | {"config": "another"}]))
  assert sweep.run([cell], [4], path, jobs=1)[0]["config"] == record["config"]


@tiers.SLOW
def test_a_retraining_cell_trains_the_run_that_it_starts_from(tmp_path):
  config = ROOT / "configs" / "digits.py"
  cell = next(
    c for c in digits.cells(config, ",runlocal") if c.title == "granet + reinit"
  )
  path = tmp_path / "results.json"
  (record,) = sweep.run([cell], [4], path, jobs=1)

  original = [
    *cell.init_runs[0],
    "--config.seed=4",
    f"--workdir={tmp_path / 'one'}",
  ]
  assert train.main(original) == 0
  argv = [
    *cell.argv,
    "--config.seed=104",
    f"--config.init_from={tmp_path / 'one'}",
    f"--workdir={tmp_path / 'two'}",
  ]
  assert train.main(argv) == 0
  summary = json.loads((tmp_path / "two" / "summary.json").read_text())
  same = ("test_accuracy", "test_loss", "active", "total", "parameters")
  assert {k: record[k] for k in same} == {k: summary[k] for k in same}
  assert record["seed"] == 4

  # A finished run is identified by both configs, not by a workdir.
  path.write_text(json.dumps([record | {"test_loss": -1.0}]))
  again = sweep.run([cell], [4], path, jobs=1)
  assert [r["test_loss"] for r in again] == [-1.0]


RUNS = [
  {"title": title, "sparsity": sparsity, "seed": seed, "test_accuracy": value}
  for title, sparsity, values in (
    ("dense", None, (0.98, 0.99)),
    ("granet", 0.8, (0.97, 0.99)),
    ("granet", 0.9, (0.96,)),
  )
  for seed, value in enumerate(values)
]


def test_table():
  assert report.table(RUNS, (0.8, 0.9)).splitlines() == [
    "| method | 80% | 90% |",
    "| --- | ---: | ---: |",
    "| dense | 98.50 ± 0.71 at 0% |  |",
    "| granet | 98.00 ± 1.41 | 96.00 ± nan (n=1) |",
    "",
    "Test accuracy at the last step in %: mean ± standard deviation over"
    " n = 2 seeds (0, 1).",
  ]


def test_figure_and_csv(tmp_path):
  pytest.importorskip("matplotlib")
  titles = {f"panel {i}": ("granet",) for i in range(4)}
  report.plot(RUNS, titles, tmp_path / "plot.png")
  assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
  report.write_csv(RUNS, tmp_path / "runs.csv")
  lines = (tmp_path / "runs.csv").read_text().splitlines()
  assert lines[:2] == ["title,sparsity,seed,test_accuracy", "dense,,0,0.98"]


def test_every_curve_is_in_one_panel():
  curves = [title for titles in digits.PANELS.values() for title in titles]
  assert sorted(curves) == sorted(digits.METHODS)


def test_the_docs_have_the_results():
  results = ROOT / "benchmarks" / "results"
  table = (results / "digits.md").read_text(encoding="utf-8")
  runs = json.loads((results / "digits.json").read_text(encoding="utf-8"))
  assert report.table(runs, digits.SPARSITIES) == table
  page = ROOT / "docs" / "which_method.md"
  assert table in page.read_text(encoding="utf-8")


SCRIPTS = sorted(
  path.stem
  for path in (ROOT / "benchmarks").glob("*.py")
  if "__main__" in path.read_text(encoding="utf-8")
)
ARGUMENTS = {"set_family": ["digits"]}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_runs_nothing(name, capsys, monkeypatch, tmp_path):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  with pytest.raises(SystemExit) as caught:
    load(name).main(["--help"])
  assert caught.value.code == 0
  assert "--record" in capsys.readouterr().out
  assert not list(tmp_path.iterdir())


@tiers.SLOW
@pytest.mark.parametrize("name", SCRIPTS)
def test_results_go_elsewhere(name, monkeypatch, tmp_path):
  before = {path: path.read_bytes() for path in outputs.RECORDED.iterdir()}
  arguments = [*ARGUMENTS.get(name, ()), "--small", f"--out={tmp_path}"]
  load(name).main(arguments)
  assert any(tmp_path.iterdir())
  after = {path: path.read_bytes() for path in outputs.RECORDED.iterdir()}
  assert before == after


def test_record_writes_the_committed_results():
  args = outputs.parser(None).parse_args(["--record"])
  assert outputs.folder(args) == ROOT / "benchmarks" / "results"
  with pytest.raises(SystemExit, match="measures nothing"):
    outputs.options(None, ["--record", "--small"])


def load(name):
  """Imports a script; `compile` is a function of Python's, too."""
  return importlib.import_module(name)
