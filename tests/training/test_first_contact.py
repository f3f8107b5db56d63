"""What the trainer says to someone who starts it for the first time."""

import numpy as np
import pytest

from sparsejax import command_line, train
from sparsejax.training.config import command
from sparsejax.training.reporting import console as consoles, emptied

RUN = "--config=digits:granet,runlocal,scope=global"
SUMMARY = {
  "active": 73_815,
  "requested": 73_815,
  "total": 84_480,
  "target_sparsity": 0.9,
}


def test_print_config_lists_options_that_give_the_same_config(capsys):
  assert train.main([RUN, "--config.seed=3", "--print_config"]) == 0
  printed = capsys.readouterr().out.split("\n")[:-1]
  assert "--config.seed=3" in printed
  assert "--config.method.scope=global" in printed
  options = [line.replace("'", "") for line in printed]
  again = command.parse(["--config=digits:rigl", *options])
  assert command.lines(again.config) == printed


def test_an_unknown_option_hears_of_config_and_print_config(capsys):
  assert train.main([RUN, "--lr=1"]) == command_line.BAD_INPUT
  message = capsys.readouterr().err
  assert "--config.KEY=VALUE; --print_config lists them all." in message
  assert message.count("\n") == 1


def test_a_path_of_the_checkout_names_the_config_of_the_package(
  capsys, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  assert train.main(["--config=configs/digits.py:granet"]) == 2
  message = capsys.readouterr().err
  assert "no such file here" in message and message.endswith(": digits.\n")


@pytest.mark.parametrize(
  ("name", "canonical"),
  [("sparse_evolution", "set"), ("soft_threshold", "str")],
)
def test_a_config_takes_the_names_of_functions(name, canonical):
  parsed = command.parse([f"--config=digits:{name}"])
  assert parsed.config.method.name == canonical
  parsed = command.parse([RUN, f"--config.method.name={name}"])
  assert parsed.config.method.name == canonical


def test_a_layer_that_is_emptied_is_named_with_the_way_out():
  before = np.array([5, 3, 0])
  active = np.array([[4, 3, 0], [4, 0, 0], [0, 0, 0]])
  found = list(emptied.emptied(["a", "b", "c"], before, active, first=10))
  assert [text.split(",")[0] for text in found] == [
    "the mask update of step 12 left no active weight in b",
    "the mask update of step 13 left no active weight in a",
  ]
  assert "--config.method.scope=global_keep_alive" in found[0]


def run(capsys, workdir, *options):
  """Returns what a run that removes nearly all weights prints."""
  sparse = ("--config.method.sparsity=0.9999", "--config.method.every_steps=1")
  status = train.main([RUN, *sparse, *options, f"--workdir={workdir}"])
  printed = capsys.readouterr()
  assert status == command_line.DONE, printed.err
  return printed.out


def test_a_run_warns_of_layers_without_weights_and_of_late_schedules(
  capsys, tmp_path
):
  printed = run(capsys, tmp_path, "--config.method.end_step=1000")
  warnings = [x for x in printed.splitlines() if x.startswith("warning:")]
  late = "warning: `config.method.end_step` is step 1000"
  assert warnings[0].startswith(late) and warnings[-1].startswith(late)
  shown = " ".join(printed.split())
  assert "requested so far, 8 at the end of the schedule)" in shown
  assert "0 s each" not in printed


def test_the_last_weight_of_a_layer_is_missed_at_once(capsys, tmp_path):
  lines = run(capsys, tmp_path, "--config.method.end_step=2").splitlines()
  named = [i for i, x in enumerate(lines) if "left no active weight in" in x]
  result = next(i for i, x in enumerate(lines) if "test accuracy" in x)
  assert named and named[0] < result
  assert "warning: the mask update of step 2 left" in lines[named[0]]


@pytest.mark.parametrize(
  ("changes", "shown"),
  [
    ({}, "73,815 (73,815 requested so far, 8,448 at the end of the schedule)"),
    ({"active": 8448, "requested": 8448}, "8,448 (8,448 requested)"),
    ({"target_sparsity": None}, "73,815 (73,815 requested)"),
  ],
)
def test_active_weights_are_shown_with_the_target(changes, shown):
  assert consoles._active(SUMMARY | changes) == shown
