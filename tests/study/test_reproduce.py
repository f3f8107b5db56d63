"""A table is trained as far as it is missing, and laid beside what was told."""

import csv
import json
import os
import pathlib
import shutil
import signal
import threading
import time

import pytest

from sparsejax import train
from sparsejax.study import forecast, papers, reproduce
from sparsejax.training import loop
from sparsejax.training.config import command
from sparsejax.training.reporting import records

DIGITS = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"
TABLE = """
from sparsejax import papers

_SMALL = ("--config.model.hidden=(16,)",)
_CELLS = papers.across(("sparsity=0.7",))

TABLE = papers.Table(
  title="A table",
  reference="Nobody (1900), Table 1",
  columns=("accuracy", "training", "inference"),
  rows=tuple(
    row
    for name, config, published, changes, after in (
      ("granet", "granet", "97.5±.3/.5/.4", (), None),
      ("rigl", "rigl", "96.1/-/-", (), None),
      ("gmp", "gmp", "96.2/-/.3", ("--config.method.scope=uniform",), None),
      ("narrow", "small_dense", "94/-/-", (), None),
      ("set", "set", "95/-/-", ("--config.method.masks_first=True",), None),
      ("dpf", "dpf", "95/-/-", ("--config.method.scope=erk",), None),
      ("diverges", "gmp", "1/-/-", ("--config.optimizer.learning_rate=1e30",),
       None),
      ("again", "retrain", "1/-/-", (), "diverges"),
    )
    for row in papers.line(
      name,
      f"configs/digits.py:{config}",
      _CELLS,
      published,
      columns=("accuracy", "training", "inference"),
      changes=(*_SMALL, *changes),
      after=after,
    )
  )
  + papers.line(
    "lth",
    "configs/digits.py:retrain",
    papers.without("sparsity", (papers.Cell("0.7", "seed=0,sparsity=0.7"),)),
    "95.5/-/-",
    columns=("accuracy", "training", "inference"),
    changes=_SMALL,
    after="granet",
  )
  + papers.line(
    "other", None, _CELLS, "99/-/-",
    columns=("accuracy", "training", "inference"),
    source="of somebody else", note="is not trained here",
  ),
)
"""


pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
  """The file of a table whose configs stand where they do in the project."""
  root = tmp_path_factory.mktemp("project")
  path = root / "configs" / "tables" / "small.py"
  path.parent.mkdir(parents=True)
  path.write_text(TABLE)
  shutil.copy(DIGITS, root / "configs" / "digits.py")
  return path


def call(table, workdir, *requested):
  argv = [str(table), f"--workdir={workdir}", "--runlocal", *requested]
  return reproduce.main(argv)


def finished(workdir):
  return {path.parent.name for path in workdir.glob("*/summary.json")}


def lines(told):
  """The rows of the last table that was printed, cells by header."""
  printed = [x for x in told.splitlines() if x.startswith("| ")]
  header = max(i for i, x in enumerate(printed) if x.startswith("| row"))
  rows = [
    [c.strip() for c in x.strip("|").split("|")] for x in printed[header:]
  ]
  return {row[0]: row[1:] for row in rows[2:]}


def test_what_is_missing_is_trained_once(table, tmp_path, capsys):
  requested = ("--rows", "rigl*", "lth*", "other*", "--seeds=2")
  assert call(table, tmp_path, *requested) == loop.DONE
  told = capsys.readouterr().out
  # GraNet was not requested, but its masks are trained again.
  assert "0 runs are done, 6 are missing." in told
  folders = finished(tmp_path)
  assert len(folders) == 6
  assert sum(name.startswith("digits-granet") for name in folders) == 2
  retrained = next(tmp_path.glob("digits-retrain*seed1*")) / "summary.json"
  assert json.loads(retrained.read_text())["init_method"] == "granet"
  rows = lines(told)
  assert list(rows) == ["rigl/0.7", "lth/0.7", "other/0.7"]
  theirs, last, best, _, training, *_ = rows["rigl/0.7"]
  assert theirs == "96.10" and "±" in last and last.endswith("(2)")
  assert float(best.split()[0]) >= float(last.split()[0])
  assert 0.3 < float(training.split()[0]) < 1
  assert rows["other/0.7"] == ["99.00", "", "", "", "", "", ""]
  assert "note: other: figures of somebody else; is not trained here" in told

  with open(tmp_path / "small.csv", newline="") as file:
    numbers = list(csv.DictReader(file))
  assert sorted({x["row"] for x in numbers}) == [
    "granet/0.7",
    "lth/0.7",
    "rigl/0.7",
  ]
  assert {x["seed"] for x in numbers} == {"0", "1"}
  assert float(numbers[0]["published_accuracy"]) == 96.1
  mean = sum(float(x["test_accuracy"]) for x in numbers[:2]) / 2
  assert f"{100 * mean:.2f}" == last.split()[0]

  before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*.json*")}
  assert call(table, tmp_path, *requested) == loop.DONE
  again = capsys.readouterr().out
  assert "6 runs are done, 0 are missing." in again
  assert lines(again) == rows
  assert before == {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*.json*")}
  # Another length is another run.
  runs = plan(table, tmp_path, "rigl*", "--config.epochs=2.0")
  assert runs[0].workdir.name not in folders


def plan(table, workdir, glob, *changes, **requested):
  found, path = reproduce.load(str(table))
  return reproduce.plan(
    found,
    reproduce.chosen(found, [glob]),
    root=path.parents[2],
    workdir=workdir,
    changes=changes,
    runlocal=True,
    **requested,
  )


def test_a_run_that_is_not_finite_does_not_stop_the_others(
  table, tmp_path, capsys
):
  requested = ("--rows", "diverges*", "again*", "rigl*")
  assert call(table, tmp_path, *requested) == loop.NOT_FINITE
  assert len(finished(tmp_path)) == 1
  told = capsys.readouterr().out
  assert "diverges/0.7, seed 0 ended with a number that is not finite" in told
  assert "again/0.7, seed 0 was left out: diverges/0.7 is not done" in told
  assert lines(told)["diverges/0.7"][:3] == ["1.00", "", ""]


def test_sigterm_stops_all_and_the_same_command_goes_on(
  table, tmp_path, capsys
):
  requested = ("--rows", "rigl*", "gmp*", "--epochs=100")

  def stop():
    while not list(tmp_path.glob("*/metrics.jsonl")):
      time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGTERM)

  sender = threading.Thread(target=stop)
  sender.start()
  try:
    status = call(table, tmp_path, *requested)
  finally:
    sender.join()
  assert status == loop.TERMINATED
  assert len(finished(tmp_path)) < 2
  error = capsys.readouterr().err
  assert "Stopped with status 143 in run 1 of 2, rigl/0.7, seed 0." in error
  assert f"To go on: python -m sparsejax.study.reproduce {table}" in error

  assert call(table, tmp_path, *requested) == loop.DONE
  assert len(finished(tmp_path)) == 2
  (first,) = tmp_path.glob("digits-rigl*/summary.json")
  assert json.loads(first.read_text())["resumed_from_step"] > 0


@pytest.mark.parametrize("row", ["rigl*", "gmp*", "narrow*", "set*", "dpf*"])
def test_costs_without_a_run_are_those_of_the_run(table, tmp_path, row):
  (run,) = plan(table, tmp_path, row)
  known = forecast.forecast(command.parse(run.argv).config)
  assert train.main(run.argv) == loop.DONE
  summary = records.finished(run.workdir)
  for name in ("inference_flops_ratio", "training_flops_ratio"):
    assert getattr(known, name) == pytest.approx(summary[name], rel=1e-12)
  layers = {layer["name"]: layer["sparsity"] for layer in summary["layers"]}
  assert known.sparsities == pytest.approx(layers)


def test_costs_of_layers_that_compete_are_not_known_before(table, tmp_path):
  (run,) = plan(table, tmp_path, "granet*")
  assert forecast.forecast(command.parse(run.argv).config) is None


def test_a_list_trains_nothing(table, tmp_path, capsys):
  workdir = tmp_path / "none"
  assert call(table, workdir, "--list") == loop.DONE
  told = capsys.readouterr().out
  assert not workdir.exists()
  assert "rigl/0.7: 0 of 1 done" in told
  assert "--config=configs/digits.py:rigl,sparsity=0.7" in told
  assert "after granet/0.7" in told
  assert "other/0.7: not trained here" in told
  assert lines(told)["gmp/0.7"][-1].endswith("*")


def test_the_best_evaluation_is_one_after_the_last_pruning(tmp_path):
  rows = [
    {"step": 1, "active": 100, "test_accuracy": 0.99},
    {"step": 2, "active": 10, "test_accuracy": 0.8},
    {"step": 3, "active": 10},
    {"step": 4, "active": 10, "test_accuracy": 0.7},
  ]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "metrics.jsonl").write_text(text)
  (tmp_path / "config.json").write_text("{}")
  summary = {"active": 10, "test_accuracy": 0.7}
  (tmp_path / "summary.json").write_text(json.dumps(summary))
  row = papers.Row("a", "configs/digits.py:gmp", {})
  result = reproduce.read(reproduce.Run(row, 0, (), {}, tmp_path))
  assert result.best_accuracy == 0.8


@pytest.mark.parametrize(
  ("requested", "message"),
  [
    (["granet_22"], "Did you mean"),
    (["{table}", "--rows", "rigll*"], "`--rows` got 'rigll*'"),
    (["{table}", "--seeds=0"], "`--seeds` must be at least 1"),
    (["{table}", "--seeds=x"], "invalid int value: 'x'"),
    (["{table}", "--sedes=1"], "Did you mean '--seeds'"),
    (["{table}", "--config.epoch=1"], "Did you mean"),
    (["{table}", "--epochs=0", "--rows", "rigl*"], "config.epochs"),
    ([], "the following arguments are required: table"),
    (["{digits}"], "has no `TABLE`"),
    (["{table}", "--workdir={table}", "--rows=rigl*"], "Not a directory"),
  ],
)
def test_errors_are_one_line(table, tmp_path, capsys, requested, message):
  workdir = (
    [] if any("workdir" in x for x in requested) else [f"--workdir={tmp_path}"]
  )
  argv = [x.format(table=table, digits=DIGITS) for x in requested]
  assert reproduce.main([*argv, *workdir]) == train.BAD_INPUT
  told = capsys.readouterr().err
  assert told.startswith("error: ")
  assert message in told
  assert told.count("error:") == 1


def test_help_is_the_docstring(capsys):
  assert reproduce.main(["--help"]) == 0
  assert "--rows GLOB" in capsys.readouterr().out
