"""Figures, tables and the report, from the records of runs."""

import json
import sys

import numpy as np
import pytest
from helpers import records

from sparsejax import plots
from sparsejax.plots import curves, results_figure, style
from sparsejax.plots.__main__ import main
from sparsejax.plots.records import ACCURACY
from sparsejax.plots.results import Average

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


def test_report_is_one_page_that_needs_nothing_else(workdir, monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib", None)  # Not installed.
  page = plots.write_report(workdir).read_text()
  assert "Dense_0/&lt;kernel&gt;" in page and "97.50 %" in page
  for title in ("Accuracy", "Loss", "Sparsity"):
    assert f"<figcaption>{title}</figcaption><svg" in page
  assert "prefers-color-scheme: dark" in page
  for word in ("http", "<script", "<img", "@import", "url("):
    assert word not in page


def test_report_shows_where_the_time_went(tmp_path):
  phases = {"start": 5, "compile": 10, "restore": 2, "step": 150, "save": 3}
  summary = {f"run_{name}_seconds": x for name, x in phases.items()}
  records.write(tmp_path, summary=summary | {"run_elapsed_seconds": 200})
  page = plots.write_report(tmp_path).read_text()
  assert "Goodput 75.0 %" in page and "of 3 min 20 s" in page
  assert "compile</td><td>10 s</td><td>5.0 %</td>" in page
  assert "idle, or lost by a kill</td><td>30 s</td><td>15.0 %</td>" in page


def test_report_shows_recorded_flops_and_what_moved(workdir):
  with open(workdir / "metrics.jsonl", "w") as file:
    for row in MOVED:
      file.write(json.dumps(row) + "\n")
  layer = LAYER | {"pruned": 1200, "regrown": 700}
  records.write(workdir, summary={"layers": [layer]}, rows=MOVED)
  page = plots.write_report(workdir).read_text()
  for title in ("FLOPs", "Mask overlap between updates"):
    assert f"<figcaption>{title}</figcaption><svg" in page
  assert "<td>1,200</td><td>700</td>" in page


MOVED = [
  {"step": 1, "active": 100, "mask_updates": 0, "pruned": [0, 0]}
  | {"regrown": [0, 0], "inference_flops_ratio": 1.0},
  {"step": 2, "active": 80, "mask_updates": 1, "pruned": [20, 10]}
  | {"regrown": [4, 6], "inference_flops_ratio": 0.8},
  # Two mask updates, each of which pruned 8 of 80 weights on average.
  {"step": 4, "active": 80, "mask_updates": 3, "pruned": [30, 16]}
  | {"regrown": [16, 10], "inference_flops_ratio": 0.8},
]


def test_mask_overlap_follows_from_counts():
  run = plots.Run({}, MOVED, {})
  assert curves.moved(run) == [(2, 30, 10, 0.7), (4, 8, 8, 0.9)]
  # A log that begins after the first mask update knows as much.
  assert curves.moved(run._replace(rows=MOVED[1:])) == curves.moved(run)


def test_report_of_an_unfinished_run(workdir):
  (workdir / "summary.json").unlink()
  assert len(plots.read_run(workdir).rows) == 3
  assert "not finished, step 3" in plots.write_report(workdir).read_text()


def test_comparison_of_runs(tmp_path):
  for name, sparsity in (("a", 0.8), ("b", 0.9), ("c", 0.9)):
    method = records.CONFIG["method"] | {"sparsity": sparsity}
    seed = ord(name)
    environment = {"jax": "0.1", "command": f"train <{name}>"}
    records.write(
      tmp_path / name,
      config={"method": method, "seed": seed},
      summary={"target_sparsity": sparsity, "seed": seed},
      rows=MOVED,
    )
    (tmp_path / name / "environment.json").write_text(json.dumps(environment))
  path = tmp_path / "all.html"
  plots.write_comparison([tmp_path / name for name in "abc"], path)
  page = path.read_text()
  assert "97.50 ± 0.00 (2)" in page
  assert "<figcaption>Test accuracy over sparsity</figcaption><svg" in page
  assert "gmp at 90%, seed 99" in page and "train &lt;c&gt;" in page
  assert "<td>method.sparsity</td><td>0.8</td><td>0.9</td>" in page
  assert "http" not in page and "<script" not in page


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


@pytest.mark.parametrize("deviation", [None, 0.2])
def test_points_stand_at_their_sparsity(deviation):
  """Only error bars are moved apart, by less than one reads from the axis."""
  averages = [
    Average(label, 0.9, ACCURACY, 97.0, deviation, 1, 100.0) for label in "abc"
  ]
  axes = style.new_figure(4.0, 3.0).subplots()
  results_figure._curves(axes, averages, {0.9: 1.0})
  drawn = [1 - 10 ** -bar.lines[0].get_xdata()[0] for bar in axes.containers]
  if deviation is None:
    np.testing.assert_allclose(drawn, 0.9, rtol=1e-12)
  else:
    assert len(set(drawn)) == 3
    np.testing.assert_allclose(drawn, 0.9, atol=0.003)
