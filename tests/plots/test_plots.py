"""Figures, tables and the report, from the records of runs."""

import importlib.util
import json

import pytest
from helpers import records

from sparsejax import plots
from sparsejax.plots.__main__ import main

LAYER = records.SUMMARY["layers"][0] | {"name": "Dense_0/<kernel>"}


@pytest.fixture
def workdir(tmp_path):
  rows = [
    {"step": 1, "loss": 2.0, "accuracy": 0.1, "sparsity": 0.0},
    {"step": 2, "loss": None, "accuracy": 0.5, "sparsity": 0.5},
    {"step": 3, "test_accuracy": 0.6, "test_loss": 1.0, "sparsity": 0.5},
  ]
  records.write(tmp_path, summary={"layers": [LAYER]}, rows=rows)
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write('{"step": 4, "lo')
  return tmp_path


def test_report_embeds_the_figure(workdir):
  pytest.importorskip("matplotlib")
  page = plots.write_report(workdir).read_text()
  assert "data:image/png;base64," in page
  assert "Dense_0/&lt;kernel&gt;" in page
  assert "0.9750" in page
  assert "http" not in page


def test_report_shows_where_the_time_went(tmp_path):
  phases = {"start": 5, "compile": 10, "restore": 2, "step": 150, "save": 3}
  summary = {f"run_{name}_seconds": x for name, x in phases.items()}
  records.write(tmp_path, summary=summary | {"run_elapsed_seconds": 200})
  page = plots.write_report(tmp_path).read_text()
  assert "Goodput 75.0%" in page and "of 200 s" in page
  assert "<td>compile</td><td>10.0</td><td>5.0%</td>" in page
  assert "<td>idle, or lost by a kill</td><td>30.0</td><td>15.0%</td>" in page


def test_report_plots_recorded_flops(workdir):
  pytest.importorskip("matplotlib")
  with open(workdir / "metrics.jsonl", "w") as file:
    for row in run_of([0.9, 0.5]).rows:
      file.write(json.dumps(row) + "\n")
  page = plots.write_report(workdir).read_text()
  assert page.count("<img") == 2
  assert 'alt="FLOPs over steps"' in page


def test_report_without_matplotlib_has_only_tables(workdir, monkeypatch):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name, *rest: (
      None if name == "matplotlib" else find_spec(name, *rest)
    ),
  )
  page = plots.write_report(workdir).read_text()
  assert "<img" not in page
  assert "pip install" in page
  assert "Dense_0/&lt;kernel&gt;" in page


def test_plot_of_an_unfinished_run(workdir, tmp_path):
  pytest.importorskip("matplotlib")
  (workdir / "summary.json").unlink()
  run = plots.read_run(workdir)
  assert run.summary == {}
  assert len(run.rows) == 3
  plots.plot_run(run, tmp_path / "run.png")
  assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def run_of(sparsities, *, macs=(300, 200), ratio=0.25):
  """A finished run; its layers are in tree order, not in the network's."""
  layers = [
    {
      "name": name,
      "shape": [2, 5],
      "total": 10,
      "active": round(10 * (1 - sparsity)),
      "sparsity": sparsity,
      "macs": cost,
      "position": position,
    }
    for name, sparsity, cost, position in zip(
      ("classifier", "stem"), sparsities, macs, (1, 0), strict=True
    )
  ]
  return plots.Run(
    config={},
    rows=[
      {"step": 1, "inference_flops_ratio": 1.0, "training_flops_ratio": 1.0},
      {"step": 2, "loss": 0.5},
      {"step": 3, "inference_flops_ratio": 0.4, "training_flops_ratio": 0.8},
    ],
    summary={
      "layers": layers,
      "sparsity": sum(sparsities) / 2,
      "inference_flops_ratio": ratio,
      "dense_inference_macs": 500,
    },
  )


def test_budget_table_is_in_the_order_of_the_network():
  runs = {"granet": run_of([0.9, 0.5]), "erk": run_of([0.8, 0.6], ratio=0.3)}
  assert plots.budget_table(runs).splitlines() == [
    "| layer | shape | weights | multiply-adds | granet | erk |",
    "| --- | --- | ---: | ---: | ---: | ---: |",
    "| stem | 2x5 | 10 | 200 | 50.00 | 60.00 |",
    "| classifier | 2x5 | 10 | 300 | 90.00 | 80.00 |",
    "| all sparse layers |  | 20 |  | 70.00 | 70.00 |",
    "| FLOPs / dense |  |  | 500 | 0.2500 | 0.3000 |",
  ]


def test_budgets_of_different_networks_raise():
  other = run_of([0.9, 0.5])
  other.summary["layers"][0]["name"] = "head"
  with pytest.raises(ValueError, match="'b' and 'a' have different layers"):
    plots.budget_table({"a": run_of([0.9, 0.5]), "b": other})
  with pytest.raises(ValueError, match="no summary"):
    plots.budget_table({"a": run_of([0.9, 0.5])._replace(summary={})})
  with pytest.raises(ValueError, match="at least one run"):
    plots.budget_table({})


@pytest.mark.parametrize("draw", [plots.plot_budgets, plots.plot_flops])
def test_figures_of_several_runs(draw, tmp_path):
  pytest.importorskip("matplotlib")
  draw({"a": run_of([0.9, 0.5]), "b": run_of([0.8, 0.6])}, tmp_path / "f.png")
  assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_plotting_missing_flops_raises():
  pytest.importorskip("matplotlib")
  with pytest.raises(ValueError, match="at least one run with FLOPs"):
    plots.plot_flops({"a": run_of([0.9, 0.5])._replace(rows=[])}, None)


def test_command_line_prints_the_table_and_writes_the_figure(
  workdir, tmp_path, capsys
):
  pytest.importorskip("matplotlib")
  records.write(workdir, summary=run_of([0.9, 0.5]).summary)
  figure = tmp_path / "budgets.svg"
  assert main(["budgets", str(workdir), "--out", str(figure)]) == 0
  assert "| stem | 2x5 | 10 | 200 | 50.00 |" in capsys.readouterr().out
  assert "<svg" in figure.read_text()
  assert main(["budgets", str(workdir / "nothing")]) == 2
  assert "nothing" in capsys.readouterr().err
