"""Comparing runs from their records alone."""

import importlib.util
import json

import pytest
from helpers import records

from sparsejax import command_line, plots
from sparsejax.study import compare


def record(folder, method, accuracy, *, seed=0, sparsity=0.9, **changes):
  """Writes the records of a finished run that `compare` reads."""
  config = {
    "seed": seed,
    "epochs_multiplier": changes.pop("epochs_multiplier", 1.0),
    "model": {"name": changes.pop("model", "mlp"), "width": 1.0},
    "method": {
      "name": method,
      "sparsity": sparsity,
      "scope": changes.pop("scope", "global"),
    },
  }
  summary = {
    "method": method,
    "seed": seed,
    "test_accuracy": accuracy,
    "sparsity": sparsity or 0.0,
    "target_sparsity": sparsity,
    "active": 100,
    "layers": [],
    **changes,
  }
  return records.write(folder, config=config, summary=summary)


@pytest.fixture
def runs(tmp_path):
  for seed, accuracy in enumerate((0.90, 0.92)):
    record(tmp_path / f"gmp{seed}", "gmp", accuracy, seed=seed)
  record(tmp_path / "gmp98", "gmp", 0.8, sparsity=0.98)
  record(tmp_path / "dense", "dense", 0.95, sparsity=None)
  retrained = {"init_method": "gmp", "init_mode": "rewind", "init_step": 0}
  record(tmp_path / "lth", "retrain", 0.85, **retrained)
  record(tmp_path / "early", "retrain", 0.86, **retrained | {"init_step": 44})
  record(tmp_path / "twice", "gmp", 0.93, epochs_multiplier=2.0)
  narrow = {"sparsity": None, "equivalent_sparsity": 0.98}
  record(tmp_path / "narrow", "small_dense", 0.7, **narrow)
  unfinished = record(tmp_path / "unfinished", "gmp", 0.1)
  (unfinished / "summary.json").unlink()
  return tmp_path


def test_the_table(runs, capsys):
  assert compare.main([str(runs)]) == 0
  assert capsys.readouterr().out.splitlines() == [
    "| accuracy (%)            |    0% |              90% |   98% |",
    "| ----------------------- | ----: | ---------------: | ----: |",
    "| dense                   | 95.00 |                  |       |",
    "| gmp + rewind to step 44 |       |            86.00 |       |",
    "| gmp                     |       | 91.00 ± 1.41 (2) | 80.00 |",
    "| gmp + rewind            |       |            85.00 |       |",
    "| small_dense             |       |                  | 70.00 |",
    "| gmp 2x                  |       |            93.00 |       |",
    f"note: skipped 1 unfinished runs: {runs / 'unfinished'}",
  ]


def test_globs_and_folders_yield_each_run_once(runs, capsys):
  args = [str(runs / "gmp?"), str(runs / "gmp1"), str(runs / "lth")]
  assert compare.main(args) == 0
  table = capsys.readouterr().out
  assert "91.00 ± 1.41 (2)" in table
  assert "dense" not in table


def test_a_terminal_shows_the_same_numbers(runs, capsys, monkeypatch):
  monkeypatch.setenv("FORCE_COLOR", "1")
  assert compare.main([str(runs)]) == 0
  output = capsys.readouterr().out
  assert "91.00 ± 1.41 (2)" in output
  assert "┃" in output


def test_labels_have_the_settings_that_differ(tmp_path):
  folders = [
    record(tmp_path / "1", "gmp", 0.9),
    record(tmp_path / "2", "gmp", 0.8, scope="uniform"),
    record(tmp_path / "3", "rigl", 0.7),
    record(tmp_path / "4", "rigl", 0.6, model="cnn"),
  ]
  labels = [result.label for result in plots.read_results(folders)]
  assert labels == [
    "gmp, model=mlp, scope=global",
    "gmp, model=mlp, scope=uniform",
    "rigl, model=mlp",
    "rigl, model=cnn",
  ]


def test_many_differing_settings_become_a_number(tmp_path):
  folders = [record(tmp_path / str(i), "gmp", 0.5 + i / 10) for i in range(3)]
  for folder, value in zip(folders, (1, 2, 1), strict=True):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["method"] |= {name: value for name in ("d", "c", "b", "end_epochs")}
    path.write_text(json.dumps(config | {"epochs": value}))
  labels = [result.label for result in plots.read_results(folders)]
  first = "gmp, epochs=1, b=1, c=1, ... #1"
  assert labels == [first, "gmp, epochs=2, b=2, c=2, ... #2", first]


@pytest.mark.parametrize(
  ("value", "labels"),
  [(None, ["gmp"] * 2), (1, ["gmp, new=null", "gmp, new=1"])],
)
def test_a_setting_that_older_runs_lack_equals_null(tmp_path, value, labels):
  folders = [record(tmp_path / name, "gmp", 0.9) for name in ("old", "new")]
  path = folders[1] / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"new": value}))
  assert [r.label for r in plots.read_results(folders)] == labels


def test_a_repeated_seed_is_reported(tmp_path, capsys):
  for name in ("1", "2"):
    record(tmp_path / name, "gmp", 0.9, seed=3)
  assert compare.main([str(tmp_path)]) == 0
  assert "note: gmp at 90% has 2 runs with seed 3" in capsys.readouterr().out


def test_many_sparsities_are_rows(tmp_path):
  folders = [
    record(tmp_path / str(i), "gmp", 0.5, sparsity=i / 10) for i in range(1, 8)
  ]
  table = plots.result_table(plots.average_seeds(plots.read_results(folders)))
  assert table[0] == ("method", "sparsity", "accuracy (%)", "active")
  assert table[1:3] == [
    ("gmp", "10%", "50.00", "100"),
    ("gmp", "20%", "50.00", "100"),
  ]


def test_csv_and_plot(runs, tmp_path_factory, capsys):
  pytest.importorskip("matplotlib")
  out = tmp_path_factory.mktemp("out")
  args = [str(runs), "--csv", f"{out}/x.csv", "--plot", f"{out}/x.png"]
  assert compare.main(args) == 0
  header, *lines = (out / "x.csv").read_text().splitlines()
  assert header.startswith("label,workdir,method,")
  assert {"seed", "test_accuracy", "sparsity"} <= set(header.split(","))
  assert len(lines) == 8
  assert "layers" not in header
  assert (out / "x.png").read_bytes().startswith(b"\x89PNG")
  del capsys  # Only hides the table.


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ([], "RUN is missing"),
    (["nothing/*"], "'nothing/*' matches no run"),
    (["{runs}/unfinished"], "None of 1 runs is finished"),
    (["{runs}", "--plt", "x"], "unrecognized arguments: --plt x"),
    (["{runs}", "--csv", "{runs}/a_file/x.csv"], "File exists"),
    (["{runs}/broken"], "summary.json is damaged: it is not JSON"),
    (["{runs}/other"], "summary.json is damaged: `method` is missing"),
  ],
)
def test_errors_are_one_line(runs, capsys, args, message):
  for name, text in (("broken", "{"), ("other", '{"a": 1}')):
    (runs / name).mkdir()
    (runs / name / "config.json").write_text("{}")
    (runs / name / "summary.json").write_text(text)
  (runs / "a_file").touch()
  # Where the whole folder is compared, the broken runs must not be in it.
  for name in ("broken", "other") if "{runs}" in args else ():
    (runs / name / "config.json").unlink()
  assert (
    compare.main([x.format(runs=runs) for x in args]) == command_line.BAD_INPUT
  )
  output = capsys.readouterr().err
  assert output.startswith("error: ")
  assert output.count("\n") == 1
  assert message in output


@pytest.mark.parametrize("name", ["we[ir]d", "a*b", "what?", "[!x]"])
def test_names_with_characters_of_a_glob(tmp_path, capsys, name):
  record(tmp_path / name / "run", "gmp", 0.9)
  for path in (tmp_path / name, tmp_path / name / "run"):
    assert compare.main([str(path)]) == 0
    assert "90.00" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"target_sparsity": 5}, "`target_sparsity` must be in [0, 1) or null"),
    ({"target_sparsity": -1}, "in [0, 1) or null, got -1"),
    ({"sparsity": 5, "target_sparsity": None}, "`sparsity` must be in [0, 1]"),
    ({"equivalent_sparsity": "a", "target_sparsity": None}, 'got "a"'),
    ({"test_accuracy": 90}, "`test_accuracy` must be in [0, 1], got 90"),
    ({"test_accuracy": None}, "`test_accuracy` must be in [0, 1], got null"),
  ],
)
def test_shares_out_of_range_are_refused(tmp_path, capsys, changes, message):
  record(tmp_path / "run", "gmp", 0.9, **changes)
  plot = tmp_path / "x.png"
  assert compare.main([str(tmp_path), "--plot", str(plot)]) == 2
  assert message in capsys.readouterr().err
  assert not plot.exists()


def test_networks_without_active_weights(tmp_path, capsys):
  pytest.importorskip("matplotlib")
  record(tmp_path / "none", "str", 0.1, sparsity=None)
  path = tmp_path / "none" / "summary.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"sparsity": 1.0}))
  plot = tmp_path / "x.png"
  for name in ("alone", "next to a very sparse one"):
    assert compare.main([str(tmp_path), "--plot", str(plot)]) == 0
    output = capsys.readouterr().out
    assert "100%" in output and "gmp has no active" not in output
    assert "note: str has no active weights to plot" in output
    record(tmp_path / name, "gmp", 0.9, sparsity=0.9999999)


def test_a_plot_without_matplotlib_raises(runs, capsys, monkeypatch):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name, *rest: (
      None if name == "matplotlib" else find_spec(name, *rest)
    ),
  )
  assert compare.main([str(runs), "--plot", "x.png"]) == command_line.BAD_INPUT
  assert "pip install 'sparsejax[plots]'" in capsys.readouterr().err
