"""The SET family's config and benchmark: rows, table, curves."""

import json
import pathlib

import pytest
import set_family
from helpers import tiers

from sparsejax import train
from sparsejax.training.config import build, command, keys

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "set_mlp.py"


def parse(options, *changes):
  return command.parse([f"--config={CONFIG}:{options}", *changes]).config


@pytest.mark.parametrize("row", set_family.ROWS)
def test_rows_are_those_of_the_paper(row):
  config = keys.resolved(parse(f"cifar10,{row}"))
  assert config["model"]["hidden"] == [4000, 1000, 4000]
  assert config["model"]["dropout"] == 0.3
  assert config["dense"] == ["output/*"]
  assert config["method"]["epsilon"] == 20
  assert config["method"]["regrow_fraction"] == 0.3
  assert (config["epochs"], config["batch_size"]) == (1000, 100)
  follows = row not in ("set", "set_more")
  assert (config["metric"] is not None) == follows


def test_a_row_builds_with_the_paper_s_counts():
  chosen = build.build(parse("digits,dynset3,activation=srelu"))
  assert chosen.setup.metric == "validation_accuracy"
  assert chosen.recipe.method.metric == "accuracy"
  assert chosen.target_sparsity is None
  assert chosen.warnings == ()
  assert chosen.steps.dispatch == chosen.steps.per_epoch == 40


@tiers.SLOW
def test_curves_end_where_the_trainer_does(tmp_path):
  changes = ["--config.epochs=3", "--config.model.hidden=(16,)"]
  cell = set_family.cells("digits", changes)[4]
  assert cell.title == "DynSET, validation loss"
  (record,) = set_family.train(cell, [3])
  argv = [*cell.argv, "--config.seed=3", f"--workdir={tmp_path}"]
  assert train.main(argv) == 0
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert record["active"] == summary["active"]
  assert record["total"] == summary["total"]
  for name in ("test_accuracy", "test_loss"):
    assert record[name] == pytest.approx(summary[name], abs=1e-4)
  assert record["curves"]["epoch"] == [1, 2, 3]
  counts = record["curves"]["active"]
  assert counts[0] == 400 and counts[-1] == record["active"] < 400


def test_the_table():
  runs = [
    {
      "title": title,
      "seed": seed,
      "epochs": 100.0,
      "test_accuracy": accuracy,
      "test_loss": 0.5,
      "active": active,
      "total": 5000,
      "arguments": ["--config=set_mlp.py:digits,set", "--config.epochs=100"],
    }
    for title, seed, accuracy, active in (
      ("SET", 0, 0.9, 1000),
      ("SET", 1, 0.8, 1000),
      ("LSET", 0, 0.75, 500),
    )
  ]
  assert set_family.table(runs).splitlines() == [
    "| method | accuracy % | loss | connections | alpha, 1e-6 | beta |",
    "| --- | ---: | ---: | ---: | ---: | ---: |",
    "| SET | 85.00 ± 7.07 | 0.5000 ± 0.0000 | 1,000 ± 0 | 850.00 ± 70.71 |"
    " 500 ± 0 |",
    "| LSET | 75.00 | 0.5000 | 500 | 1500.00 | 250 |",
    "",
    "On the test split after 100 epochs: mean ± standard deviation over n = 2"
    " seeds (0, 1). Connections are those of the sparse layers, of 5,000;"
    " alpha = accuracy / connections, beta = loss x connections.",
    "",
    "With `--config.epochs=100`.",
  ]
