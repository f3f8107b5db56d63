"""A report is one page that needs nothing else, with or without matplotlib."""

import importlib.util
import json

import pytest

from sparsejax import plots

SUMMARY = {
  "method": "granet",
  "test_accuracy": 0.975,
  "itop_rate": None,
  "layers": [
    {
      "name": "Dense_0/<kernel>",
      "shape": [4, 5],
      "total": 20,
      "active": 2,
      "sparsity": 0.9,
    }
  ],
}


@pytest.fixture
def workdir(tmp_path):
  rows = [
    {"step": 1, "loss": 2.0, "accuracy": 0.1, "sparsity": 0.0},
    {"step": 2, "loss": None, "accuracy": 0.5, "sparsity": 0.5},
    {"step": 2, "test_accuracy": 0.6, "test_loss": 1.0, "sparsity": 0.5},
  ]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "metrics.jsonl").write_text(lines + '{"step": 3, "lo')
  (tmp_path / "config.json").write_text('{"seed": 7}')
  (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
  return tmp_path


def test_report_has_the_figure_inside(workdir):
  pytest.importorskip("matplotlib")
  page = plots.write_report(workdir).read_text()
  assert "data:image/png;base64," in page
  assert "Dense_0/&lt;kernel&gt;" in page
  assert "0.9750" in page
  assert "http" not in page


def test_report_without_matplotlib_has_tables_only(workdir, monkeypatch):
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


def test_plot_of_a_run_that_goes_on(workdir, tmp_path):
  pytest.importorskip("matplotlib")
  (workdir / "summary.json").unlink()
  run = plots.read_run(workdir)
  assert run.summary == {}
  assert len(run.rows) == 3
  plots.plot_run(run, tmp_path / "run.png")
  assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
