"""Damaged records: one clear error, or metrics up to the last good line."""

import json
import os

import pytest
from helpers import records as written

from sparsejax import command_line, plots
from sparsejax.plots import records
from sparsejax.plots.__main__ import main as plots_main
from sparsejax.study import compare
from sparsejax.training.checkpointing import init_from
from sparsejax.training.reporting import console, workdirs

DEEP = "[" * 100_000 + "]" * 100_000
NESTED = '{"a": ' * 500 + "1" + "}" * 500


def resume(workdir):
  workdirs.claim(workdir, written.CONFIG)
  return records.read_summary(workdir)


def retrain(workdir):
  config = written.CONFIG | {
    "init_from": str(workdir),
    "init_mode": "lr_rewind",
    "init_step": 0,
    "seed": 0,
  }
  return init_from.find(config, needs_init_from=True)


READERS = {
  "resume": resume,
  "compare": lambda workdir: plots.read_results([workdir]),
  "init_from": retrain,
  "report": plots.write_report,
}


@pytest.fixture
def workdir(tmp_path):
  return written.write(tmp_path / "run")


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_a_pipe_is_refused_and_not_waited_for(workdir, name):
  (workdir / name).unlink()
  os.mkfifo(workdir / name)
  with pytest.raises(command_line.InputError, match="not a regular file"):
    plots.write_report(workdir)


@pytest.mark.parametrize("reader", READERS)
def test_intact_records_are_read(workdir, reader):
  READERS[reader](workdir)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["config.json", "summary.json"])
@pytest.mark.parametrize(
  "text",
  ["", "{", "[]", "[1]", "null", "3", '"x"', "{}", "\0\0", "\xff", "{}}", DEEP]
  + [NESTED, '{"seed": NaN}', '{"seed": 1e999}', '{"\\ud800": 1}'],
  ids=lambda text: repr(text[:16]),
)
def test_damaged_record_is_one_error(workdir, reader, name, text):
  (workdir / name).write_text(text, encoding="latin-1")
  with pytest.raises(command_line.InputError) as caught:
    READERS[reader](workdir)
  message = str(caught.value)
  assert message.startswith(f"{workdir / name} is damaged: ")
  assert "Remove it" in message and message.isprintable()


MEASURE = {
  "name": "accuracy",
  "title": "accuracy",
  "percent": True,
  "higher_is_better": True,
}


def test_what_is_measured_has_to_be_there(workdir):
  written.write(workdir, summary={"measures": [MEASURE | {"name": "depth"}]})
  with pytest.raises(command_line.InputError, match="`test_depth` is missing"):
    records.read_summary(workdir)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
  ("key", "value", "rule"),
  [
    ("seed", "a", "an integer of at least 0"),
    ("seed", True, "an integer of at least 0"),
    ("seed", 1.5, "an integer of at least 0"),
    ("steps", -1, "an integer of at least 0"),
    ("active", 2**70, "an integer of at least 0"),
    ("method", None, "printable text"),
    ("method", {"name": "gmp"}, "printable text"),
    ("model", "\x1b[31m", "printable text"),
    ("test_accuracy", "high", "in [0, 1]"),
    ("test_accuracy", 97.5, "in [0, 1]"),
    ("sparsity", 5, "in [0, 1]"),
    ("target_sparsity", 1.0, "in [0, 1) or null"),
    ("target_sparsity", 5, "in [0, 1) or null"),
    ("equivalent_sparsity", 1.0, "in [0, 1) or null"),
    ("test_loss", [], "a number or null"),
    ("train_seconds", 10**400, "a number"),
    ("layers", {}, "an array"),
    ("layers", [3], "an object"),
    ("layers", [{"name": "a"}], "is missing"),
    ("init_step", "x", "an integer of at least 0 or null"),
    ("measures", [{"name": "accuracy"}], "is missing"),
    ("measures", [{**MEASURE, "percent": 1}], "true or false"),
  ],
)
def test_value_that_a_run_does_not_write_is_named(
  workdir, reader, key, value, rule
):
  written.write(workdir, summary={key: value})
  with pytest.raises(command_line.InputError) as caught:
    READERS[reader](workdir)
  message = str(caught.value)
  assert f"`{key}" in message and rule in message
  assert "summary.json is damaged" in message


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("key", ["data", "model", "method"])
@pytest.mark.parametrize("value", [None, [], "mlp", {}, {"name": 3}])
def test_section_of_a_damaged_config_is_named(workdir, reader, key, value):
  written.write(workdir, config={key: value})
  with pytest.raises(command_line.InputError, match=f"config.json .*`{key}"):
    READERS[reader](workdir)


LINES = {
  "list": "[1, 2]",
  "number": "7",
  "null": "null",
  "text": '"step"',
  "no step": '{"loss": 1.0}',
  "text as step": '{"step": "3"}',
  "bool as step": '{"step": true}',
  "float as step": '{"step": 3.0}',
  "negative step": '{"step": -3}',
  "huge step": '{"step": 1' + "0" * 5000 + "}",
  "earlier step": '{"step": 1}',
  "same step": '{"step": 2}',
  "text as loss": '{"step": 3, "loss": "x"}',
  "list as loss": '{"step": 3, "loss": [1]}',
  "infinite loss": '{"step": 3, "loss": Infinity}',
  "accuracy null": '{"step": 3, "test_accuracy": null}',
  "deep": DEEP,
  "nested": NESTED,
  "partial": '{"step": 3',
  "empty": "",
  "zeros": "\0\0\0",
  "not UTF-8": '{"step": 3, "\xff": 1}',
  "two in one line": '{"step": 3}{"step": 4}',
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_metrics_are_cut_at_the_first_damaged_line(workdir, line):
  good = "".join(json.dumps(row) + "\n" for row in written.ROWS[:2])
  later = json.dumps(written.ROWS[2] | {"step": 4}) + "\n"
  path = workdir / "metrics.jsonl"
  path.write_text(f"{good}{line}\n{later}", encoding="latin-1")
  found = records.read_metrics(workdir)
  assert found.rows == written.ROWS[:2]
  assert found.damage is not None
  assert f"line 3 of {path} is damaged: " in found.damage
  for reader in READERS.values():
    reader(workdir)
  assert "line 3 of" in (workdir / plots.REPORT).read_text()


def test_a_line_that_is_being_written_is_no_damage(workdir):
  with open(workdir / "metrics.jsonl", "a") as file:
    file.write('{"step": 4')
  assert records.read_metrics(workdir) == (written.ROWS, None)


def test_commands_report_damage_in_one_line(workdir, capsys):
  (workdir / "summary.json").write_text("[]")
  for run in (
    lambda: compare.main([str(workdir)]),
    lambda: plots_main(["budgets", str(workdir)]),
  ):
    assert run() == command_line.BAD_INPUT
    err = capsys.readouterr().err
    assert err.startswith(f"error: {workdir}/summary.json is damaged: it must")
    assert err.count("\n") == 1


def test_loss_that_is_not_finite_can_be_read_again(workdir, capsys):
  written.write(workdir, summary={"test_loss": None, "train_seconds": 0})
  summary = records.read_summary(workdir)
  console.result(console.Console(), summary, workdir)
  assert "not finite" in capsys.readouterr().out
