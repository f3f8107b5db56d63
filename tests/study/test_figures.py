"""Figures of papers: what a plot says is what is drawn, from records alone."""

import pathlib

import pytest
from helpers import records, tables

from sparsejax import plots
from sparsejax.plots import panels, style
from sparsejax.plots.panels import Line
from sparsejax.study import figures, papers, results, runs

FIGURES = [name for name in tables.NAMES if tables.table(name).plot]
# Without published numbers.
OURS = {"transformer"}


def result(folder, row, *, steps=4, seed=0, **summary):
  rows = [
    {"step": step, "test_accuracy": step / 10, "active": 9 - step}
    for step in range(1, steps + 1)
  ]
  records.write(folder, summary=summary | {"steps": steps}, rows=rows)
  config = {**records.CONFIG, "epochs": 2.0}
  run = runs.Run(row, seed, (), config, folder)
  read = plots.read_run(folder)
  return results.Result(run, read.summary, read.summary["test_accuracy"])


def test_points_are_runs_next_to_published_numbers(tmp_path):
  pytest.importorskip("matplotlib")
  table = tables.table("granet_fig4")
  rows = {row.name: row for row in table.rows}
  found = [
    result(tmp_path / "a", rows["gmp/vgg19/cifar10/0.9"], test_accuracy=0.9),
    result(
      tmp_path / "b", rows["gmp-reinit/vgg19/cifar10/0.9"], test_accuracy=0.8
    ),
  ]
  ((first, *_),) = figures.panels(table, found)
  assert (first.title, first.x) == ("vgg19, cifar10", "sparsity in %")
  lines = {(x.label, x.published): x.places for x in first.lines}
  assert lines["gmp", False][0] == [(pytest.approx(90.0), pytest.approx(90.0))]
  assert lines["gmp", True][2] == [(98.0, 93.52)]
  assert lines["gmp-reinit", False][0] == [(pytest.approx(90), 80.0)]
  assert lines["gmp-reinit", True] == []
  figures.draw(table, found, tmp_path / "figure.png")
  assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_curves_have_the_values_of_all_seeds_at_each_epoch(tmp_path):
  table = tables.table("scholte_fig5")
  (row,) = [row for row in table.rows if row.name == "set/cifar10"]
  found = [
    result(tmp_path / str(seed), row, seed=seed, steps=4) for seed in (0, 1)
  ]
  ((panel,),) = figures.panels(table, found)
  assert (panel.title, panel.x, panel.y) == (
    "cifar10",
    "epoch",
    "active weights",
  )
  drawn = [line for line in panel.lines if line.places]
  assert drawn == [
    Line(
      "set",
      [
        [(e, v), (e, v)]
        for e, v in zip((0.5, 1, 1.5, 2), (8, 7, 6, 5), strict=True)
      ],
    )
  ]


def test_a_level_is_drawn_across_the_panel(tmp_path):
  pytest.importorskip("matplotlib")
  table = tables.table("transformer")
  rows = {row.name: row for row in table.rows}
  found = [
    result(tmp_path / name / str(seed), row, seed=seed, test_bits_per_byte=bits)
    for name, row, base in (
      ("dense", rows["dense"], 2.25),
      ("gmp", rows["gmp/0.9"], 2.5),
    )
    for seed, bits in enumerate((base, base + 1))
  ]
  ((panel,),) = figures.panels(table, found)
  assert [line.label for line in panel.lines if line.level] == ["dense"]
  axes = style.new_figure(3.0, 3.0).subplots()
  drawn = {
    line.label: panels.draw(axes, line, 0)
    for line in panel.lines
    if line.places
  }
  assert list(drawn["dense"].get_xdata()) == [0, 1]  # Of the width.
  assert list(drawn["dense"].get_ydata()) == [2.75, 2.75]
  assert list(drawn["gmp"].lines[0].get_ydata()) == [3.0]
  (segment,) = drawn["gmp"].lines[2][0].get_segments()  # Sample deviation.
  assert segment[:, 1] == pytest.approx([3 - 0.5**0.5, 3 + 0.5**0.5])


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_what_its_plot_needs(name):
  table = tables.table(name)
  (*_, last) = figures.panels(table, [])
  assert len(last) == len({panel.title for panel in last})
  if name in OURS:
    assert [panel.title for panel in last] == [""]
    return
  assert table.reference.endswith(name.rpartition("fig")[2])
  if table.plot.x is None:
    return
  drawn = [line for panel in last for line in panel.lines if line.published]
  assert any(line.places for line in drawn)


def test_the_papers_have_these_figures():
  assert set(FIGURES) - OURS == {
    "granet_fig4",
    "granet_fig15",
    *(f"optg_fig{number}" for number in (1, 2, 3)),
    *(f"scholte_fig{number}" for number in (2, 3, 4, 5, 6)),
  }


def test_a_shifted_seed_is_that_of_the_row_alone(tmp_path):
  row = papers.Row("again", "digits:gmp", {}, seed_shift=1000)
  table = papers.Table("", "", ("accuracy",), (row,))
  (run,) = runs.plan(table, [row], workdir=pathlib.Path(tmp_path), seeds=1)
  assert run.config["seed"] == 1000
