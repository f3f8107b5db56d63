"""Missing rows of a table are trained and compared with the paper."""

import csv
import json
import os
import pathlib
import signal
import threading
import time

import pytest
from helpers import records as written, tiers

from sparsejax import command_line, train
from sparsejax.plots import records
from sparsejax.study import (
  forecast,
  jobs,
  papers,
  reproduce,
  results,
  runs as study_runs,
)
from sparsejax.training import outcomes
from sparsejax.training.config import command

DIGITS = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"
TABLE = """
from sparsejax.study import papers

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
      ("rigl", "rigl", "96.1/-/.5", (), None),
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
      f"digits:{config}",
      _CELLS,
      published,
      columns=("accuracy", "training", "inference"),
      changes=(*_SMALL, *changes),
      after=after,
    )
  )
  + papers.line(
    "lth",
    "digits:retrain",
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
  plot=papers.Plot(x="inference", y=("accuracy",)),
)
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
  """A user's file with a table."""
  path = tmp_path_factory.mktemp("tables") / "small.py"
  path.write_text(TABLE)
  return path


def call(table, workdir, *args):
  argv = [str(table), f"--workdir={workdir}", "--runlocal", *args]
  return reproduce.main(argv)


def finished(workdir):
  return {path.parent.name for path in workdir.glob("*/summary.json")}


def lines(output):
  """The rows of the last table that was printed, cells by header."""
  printed = [x for x in output.splitlines() if x.startswith("| ")]
  header = max(i for i, x in enumerate(printed) if x.startswith("| row"))
  rows = [
    [c.strip() for c in x.strip("|").split("|")] for x in printed[header:]
  ]
  return {row[0]: row[1:] for row in rows[2:]}


def test_missing_runs_are_trained_once(table, tmp_path, capsys):
  args = ("--rows", "lth*", "other*", "--seeds=2")
  assert call(table, tmp_path, *args) == outcomes.DONE
  output = capsys.readouterr().out
  # GraNet was not requested, but its masks are retrained.
  assert "0 runs are done, 4 to train." in output
  folders = finished(tmp_path)
  assert len(folders) == 4
  assert sum(name.startswith("digits-granet") for name in folders) == 2
  retrained = next(tmp_path.glob("digits-retrain*seed1*")) / "summary.json"
  assert json.loads(retrained.read_text())["init_method"] == "granet"
  rows = lines(output)
  assert list(rows) == ["lth/0.7", "other/0.7"]
  published, last, best, _, training, *_ = rows["lth/0.7"]
  assert published == "95.50" and "±" in last and last.endswith("(2)")
  assert float(best.split()[0]) >= float(last.split()[0])
  assert 0.2 < float(training.split()[0]) < 1
  assert rows["other/0.7"] == ["99.00", "", "", "", "", "", ""]
  assert "note: other: figures of somebody else; is not trained here" in output

  with open(tmp_path / "small.csv", newline="") as file:
    numbers = list(csv.DictReader(file))
  text = (tmp_path / "small.md").read_text()
  assert text.startswith("| row ") and text.count("\n") >= 3
  assert sorted({x["row"] for x in numbers}) == [
    "granet/0.7",
    "lth/0.7",
  ]
  assert {x["seed"] for x in numbers} == {"0", "1"}
  numbers = [x for x in numbers if x["row"] == "lth/0.7"]
  assert float(numbers[0]["published_accuracy"]) == 95.5
  assert (tmp_path / "small.png").stat().st_size > 5_000
  mean = sum(float(x["test_accuracy"]) for x in numbers) / 2
  assert f"{100 * mean:.2f}" == last.split()[0]

  before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*.json*")}
  assert call(table, tmp_path, *args) == outcomes.DONE
  again = capsys.readouterr().out
  assert "4 runs are done, 0 to train." in again
  assert lines(again) == rows
  assert before == {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*.json*")}
  # Another number of epochs is another run.
  runs = plan(table, tmp_path, "granet*", "--config.epochs=2.0")
  assert runs[0].workdir.name not in folders


@tiers.SLOW
def test_the_seeds_of_a_row_train_together(table, tmp_path, capsys):
  args = ("--rows", "gmp*", "--seeds=2", "--together")
  assert call(table, tmp_path, *args) == outcomes.DONE
  output = capsys.readouterr().out
  assert "0 runs are done, 2 to train." in output
  assert "Run 1 of 1: gmp/0.7, seeds 0 to 1" in output
  first, second = plan(table, tmp_path, "gmp*", seeds=2)
  assert first.done and second.done
  assert finished(tmp_path) == {first.workdir.name, second.workdir.name}
  assert lines(output)["gmp/0.7"][1].endswith("(2)")
  assert call(table, tmp_path, *args) == outcomes.DONE
  assert "2 runs are done, 0 to train." in capsys.readouterr().out
  # A third seed trains by itself.
  args = ("--rows", "gmp*", "--seeds=3", "--together")
  assert call(table, tmp_path, *args) == outcomes.DONE
  assert "2 runs are done, 1 to train." in capsys.readouterr().out
  assert len(finished(tmp_path)) == 3


def test_interrupted_handing_over_is_completed(table, tmp_path):
  first, second = plan(table, tmp_path, "gmp*", seeds=2)
  (job,) = jobs.jobs([first, second], together=True)
  assert [run.seed for run in job.runs] == [0, 1]
  assert train.main(job.argv) == outcomes.DONE
  records.seed_folder(job.workdir, 0).rename(first.workdir)
  assert jobs.jobs([first, second], together=True) == []
  assert first.done and second.done and not job.workdir.exists()


def plan(table, workdir, glob, *changes, **args):
  found, _ = reproduce.load(str(table))
  return study_runs.plan(
    found,
    reproduce.select(found, [glob]),
    workdir=workdir,
    changes=changes,
    runlocal=True,
    **args,
  )


def test_a_run_that_is_not_finite_does_not_stop_the_others(
  table, tmp_path, capsys
):
  args = ("--rows", "diverges*", "again*", "rigl*")
  assert call(table, tmp_path, *args) == outcomes.NOT_FINITE
  assert len(finished(tmp_path)) == 1
  output = capsys.readouterr().out
  assert "diverges/0.7, seed 0 stopped at a value that is not finite" in output
  assert "again/0.7, seed 0 was skipped: diverges/0.7 is not done" in output
  assert lines(output)["diverges/0.7"][:3] == ["1.00", "", ""]


@tiers.SLOW
def test_sigterm_stops_all_runs_and_the_same_command_resumes(
  table, tmp_path, capsys
):
  args = ("--rows", "rigl*", "gmp*", "--epochs=100")

  def stop():
    while not list(tmp_path.glob("*/metrics.jsonl")):
      time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGTERM)

  sender = threading.Thread(target=stop)
  sender.start()
  try:
    status = call(table, tmp_path, *args)
  finally:
    sender.join()
  assert status == outcomes.TERMINATED
  assert len(finished(tmp_path)) < 2
  error = capsys.readouterr().err
  assert "Stopped with status 143 in run 1 of 2, rigl/0.7, seed 0." in error
  assert f"To resume: python -m sparsejax.study.reproduce {table}" in error

  assert call(table, tmp_path, *args) == outcomes.DONE
  assert len(finished(tmp_path)) == 2
  (first,) = tmp_path.glob("digits-rigl*/summary.json")
  assert json.loads(first.read_text())["resumed_from_step"] > 0


@pytest.mark.parametrize(
  "row", tiers.every(5, ["rigl*", "gmp*", "narrow*", "set*", "dpf*"])
)
def test_predicted_costs_are_those_of_the_run(table, tmp_path, row):
  (run,) = plan(table, tmp_path, row)
  known = forecast.forecast(command.parse(run.argv).config)
  assert train.main(run.argv) == outcomes.DONE
  summary = records.read_summary(run.workdir)
  for name in ("inference_flops_ratio", "training_flops_ratio"):
    assert getattr(known, name) == pytest.approx(summary[name], rel=1e-12)
  sparse = summary["kernel_parameters"] - summary["total"]
  assert known.kernel_parameters == sparse + summary["active"]
  overall = results.column("overall")
  for number in overall.ours(results.read(run)), overall.predicted(known, 1.0):
    assert number == pytest.approx(100 * summary["sparsity"])
  layers = {layer["name"]: layer["sparsity"] for layer in summary["layers"]}
  assert known.sparsities == pytest.approx(layers)


def test_costs_of_a_global_scope_are_not_predicted(table, tmp_path):
  (run,) = plan(table, tmp_path, "granet*")
  assert forecast.forecast(command.parse(run.argv).config) is None


def test_list_trains_nothing(table, tmp_path, capsys):
  workdir = tmp_path / "none"
  assert call(table, workdir, "--list") == outcomes.DONE
  output = capsys.readouterr().out
  assert not workdir.exists()
  assert "rigl/0.7: 0 of 1 done" in output
  assert "--config=digits:rigl,sparsity=0.7" in output
  assert "after granet/0.7" in output
  assert "other/0.7: not trained here" in output
  assert lines(output)["gmp/0.7"][-2:] == ["0.30", "0.30*"]
  assert lines(output)["rigl/0.7"][-2:] == ["0.50", "0.30*!"]


def test_the_best_evaluation_is_one_after_the_last_pruning(tmp_path):
  rows = [
    {"step": 1, "active": 100, "test_accuracy": 0.99},
    {"step": 2, "active": 10, "test_accuracy": 0.8},
    {"step": 3, "active": 10},
    {"step": 4, "active": 10, "test_accuracy": 0.7},
  ]
  summary = {"active": 10, "test_accuracy": 0.7}
  written.write(tmp_path, summary=summary, rows=rows)
  row = papers.Row("a", "digits:gmp", {})
  run = study_runs.Run(row, 0, (), written.CONFIG, tmp_path)
  result = results.read(run)
  assert result.best == 0.8


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["granet_22"], "Did you mean"),
    (["{table}", "--rows", "rigll*"], "`--rows` got 'rigll*'"),
    (["{table}", "--seeds=0"], "`--seeds` must be at least 1"),
    (["{table}", "--seeds=x"], "invalid int value: 'x'"),
    (["{table}", "--sedes=1"], "Did you mean '--seeds'"),
    (["{table}", "--config.epoch=1"], "Did you mean"),
    (["{table}", "--epochs=0", "--rows", "rigl*"], "config.epochs"),
    ([], "the following arguments are required: TABLE"),
    (["{digits}"], "has no `TABLE`"),
    (["{table}", "--config.seed"], "Missing value for flag --config.seed"),
    (["{table}", "--config.seed", "1.5"], "must be of type int, got '1.5'"),
    (["{table}", "--csv="], "the path must not be empty"),
    (["{table}", "--nodistributed", "--process_id=0"], "has no effect"),
    (["{table}", "--workdir={table}", "--rows=rigl*"], "Not a directory"),
  ],
)
def test_errors_are_one_line(table, tmp_path, capsys, args, message):
  workdir = (
    [] if any("workdir" in x for x in args) else [f"--workdir={tmp_path}"]
  )
  argv = [x.format(table=table, digits=DIGITS) for x in args]
  assert reproduce.main([*argv, *workdir]) == command_line.BAD_INPUT
  output = capsys.readouterr().err
  assert output.startswith("error: ")
  assert message in output
  assert output.count("error:") == 1


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("TABLE = 1 / 0", "line 3, cannot be run: ZeroDivisionError"),
    ("import sys; sys.exit(1)", "cannot be run: SystemExit"),
    ("TABLE = (", "line 3, cannot be run: SyntaxError"),
    ("TABLE = papers.Table('', '', (), None)", "`papers.Row`, got None"),
    ("TABLE = papers.Table('', '', (), ())", "`papers.Row`, got ()"),
    ("TABLE = papers.Table('', '', (), (3,))", "`papers.Row`, got (3,)"),
    ("TABLE = papers.Table('', '', (), (row('b', after='a'),))", "is no row"),
    (
      "TABLE = papers.Table('', '', (), (row('a', after='a'),))",
      "The row 'a' of",
    ),
  ],
)
def test_a_table_that_cannot_be_used(
  tmp_path, monkeypatch, capsys, text, message
):
  head = "from sparsejax.study import papers\n"
  head += "row = lambda n, after: papers.Row(n, 'digits', {}, after=after)\n"
  (tmp_path / "mine.py").write_text(head + text)
  monkeypatch.chdir(tmp_path)
  for name in ("mine.py", str(tmp_path / "mine.py")):
    assert reproduce.main([name, "--list"]) == command_line.BAD_INPUT
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error


def test_help_is_the_docstring(capsys):
  assert reproduce.main(["--help"]) == 0
  assert "--rows GLOB" in capsys.readouterr().out
