"""Every row of every table starts, stops and resumes.

SPARSEJAX_ALL_ROWS=1 trains one row per program of all tables, which takes most
of an hour. Without it, one row per family of networks is trained, and all
others are only built, at full size.
"""

import math
import os
import re

import jax
import pytest
from helpers import tables, tiers
from helpers.stopping import StopAfter
from oracles import architectures

from sparsejax import train
from sparsejax.plots import records
from sparsejax.study import blank_datasets, forecast, papers, reproduce, results
from sparsejax.training import outcomes
from sparsejax.training.checkpointing import reading
from sparsejax.training.config import build, command

KINDS = tables.kinds()
# Together they cover batch norm, streams, kept values, accumulators, a metric,
# and a network without convolutions.
FEW = (
  "granet_2:granet-0.5/vgg19/cifar10/0.9",
  "optg_3:optg/mobilenet_v1/0.8",
  "scholte_2:dynset2/cifar10",
)
QUICKEST = FEW[-1]
ALL = "SPARSEJAX_ALL_ROWS" in os.environ
TRAINED = [kind for kind in KINDS if ALL or kind.name in FEW]
# The rows of ResNet-50 on CIFAR repeat those of VGG-19 with another model.
BUILT = [
  kind
  for kind in KINDS
  if ALL or "resnet50_cifar" not in kind.name or "optg" in kind.name
]


@pytest.mark.parametrize("name", tables.NAMES)
def test_every_row_has_figures_and_a_config_or_a_note(name):
  table = tables.table(name)
  names = [row.name for row in table.rows]
  assert len(set(names)) == len(names)
  for index, row in enumerate(table.rows):
    published = any(x.published for x in table.rows)
    assert row.published or not published or table.plot is not None
    assert row.published.keys() <= set(table.columns)
    assert row.config is not None or (row.note and row.source)
    assert row.after is None or row.after in names[:index]


@pytest.mark.parametrize("name", tables.NAMES)
def test_a_row_requests_the_sparsity_of_its_name(name):
  for row in tables.table(name).rows:
    last = row.name.rpartition("/")[2]
    requested = re.search(r",sparsity=([\d.]+)", row.config or "")
    if (
      requested and re.fullmatch(r"0\.\d+", last) and "initial" not in row.name
    ):
      free = "initial_sparsity" in row.config.rpartition(",")[2]
      # Layers that stay dense are not counted.
      spared = any(x.startswith("--config.dense=") for x in row.changes)
      assert (
        free
        or (spared and float(requested[1]) > float(last))
        or float(requested[1]) == pytest.approx(float(last), abs=4e-3)
      )


def test_what_is_not_trained():
  rows = [row for name in tables.NAMES for row in tables.table(name).rows]
  names = {row.name.partition("/")[0] for row in rows if row.config is None}
  assert names == {"sis", "vd", "gs", "parameters", "flops"}


@pytest.mark.parametrize(
  "kind", tiers.every(20, BUILT), ids=lambda kind: kind.name
)
def test_a_row_builds_at_full_size(kind, tmp_path):
  if kind.row.after is not None:
    pytest.skip("Needs a finished run; one is trained below.")
  (run,) = tables.plan(kind.table, [kind.row], tmp_path)
  config = command.parse(run.argv).config
  experiment = build.build(config, blank_datasets.blank(run.config["data"]))
  assert experiment.warnings == ()
  wanted = run.config["epochs"] * run.config["epochs_multiplier"]
  epochs = experiment.steps.total / experiment.steps.per_epoch
  assert epochs == pytest.approx(wanted, rel=1e-3)
  requested = run.config["method"].get("sparsity")
  found = (experiment.target_sparsity, experiment.recipe.equivalent_sparsity)
  assert requested is None or requested in found


@pytest.mark.parametrize(
  "kind",
  tiers.some(TRAINED, lambda kind: kind.name == QUICKEST),
  ids=lambda kind: kind.name,
)
def test_a_row_starts_stops_and_resumes(kind, tmp_path):
  runs = tables.plan(
    kind.table,
    [kind.row],
    tmp_path,
    "--config.dispatch_steps=1",
    runlocal=True,
  )
  for run in runs:
    assert train.main(run.argv, stop=StopAfter(2)) == outcomes.TERMINATED
    assert reading.saved_steps(run.workdir)[-1] == 2
    if ALL and run is runs[-1]:  # The last dispatch compiles again.
      assert train.main(run.argv, stop=StopAfter(2)) == outcomes.TERMINATED
      assert reading.saved_steps(run.workdir)[-1] == 4
      return
    assert train.main(run.argv) == outcomes.DONE
    summary = records.read_summary(run.workdir)
    assert summary["resumed_from_step"] == 2
    assert summary["steps"] > 2
    jax.clear_caches()
  result = results.read(runs[-1])
  assert result.best >= result.summary["test_accuracy"]


# Costs that the papers print and a forecast gives without a run; the last item
# has those that differ, for the reason in the note or the docstring; `None` if
# there is no forecast.
@pytest.mark.parametrize(
  ("name", "row", "off"),
  tiers.every(
    4,
    [
      ("granet_3", "static/resnet50/0.8", ""),
      ("granet_3", "snip/resnet50/0.9", None),
      ("granet_3", "set/resnet50/0.9", "inference training"),
      ("granet_3", "rigl/resnet50/0.9", ""),
      ("granet_3", "rigl-5x/resnet50/0.8", ""),
      ("granet_3", "small_dense-5x/resnet50/0.9", ""),
      ("granet_5", "rigl/resnet50/0.965", ""),
      ("optg_2", "gmp/resnet50/0.9", ""),
      ("optg_2", "gmp/resnet50/0.99", ""),
      ("optg_2", "dnw/resnet50/0.95", ""),
      ("optg_2", "rigl/resnet50/0.9", "million_macs"),
      ("optg_3", "gmp/mobilenet_v1/0.7411", ""),
      ("optg_3", "gmp/mobilenet_v1/0.8903", ""),
      ("optg_4", "set/resnet50/0.9", "million_parameters"),
      ("optg_4", "gmp/resnet50/0.9", "million_parameters"),
      ("optg_4", "rigl/resnet50/0.9", "million_macs million_parameters"),
      ("optg_4", "optg/resnet50/0.9", None),
      ("optg_5", "optg-uniform/resnet50/0.9", "million_parameters"),
    ],
  ),
)
def test_published_costs_are_predicted(name, row, off, tmp_path):
  table = tables.table(name)
  rows = reproduce.select(table, [row])
  found = results.predict(table, tables.plan(name, rows, tmp_path))
  if off is None:
    assert not found
    return
  published = rows[0].published
  differing = {
    column
    for column, number in found[row].items()
    if results.differs(results.column(column), published[column], number)
  }
  assert differing == set(off.split())


def test_sizes_of_table_10_are_those_of_resnet50():
  rows = {row.name: row.published for row in tables.table("granet_10").rows}
  layers = architectures.resnet50_imagenet().values()
  names = [name for name in rows["parameters"] if name.endswith("/kernel")]
  sizes = [math.prod(shape) for shape, _ in layers]
  flops = [2 * math.prod(shape) * positions for shape, positions in layers]
  sizes = dict(zip(names, sizes, strict=True))
  flops = dict(zip(names, flops, strict=True))
  misprinted = {
    "stem/kernel": flops["stem/kernel"] // 2,
    "stage1_block0/conv1/kernel": 2 * 118_013_952,
    "stage4_block0/conv3/kernel": flops["stage4_block0/conv3/kernel"] // 2,
    "stage4_block2/conv1/kernel": 2 * flops["stage4_block2/conv1/kernel"],
  }
  pooling = 2 * 7 * 7 * 2048
  for row, found, printed in (
    ("parameters", sizes, sizes),
    ("flops", flops | {"pooling": pooling}, flops | misprinted),
  ):
    last, pooled = found["classifier/kernel"], found.get("pooling", 0)
    total = sum(found.values())
    totals = {"overall": total, "backbone": total - last - pooled}
    published = {name: figure.value for name, figure in rows[row].items()}
    assert published == totals | printed


@tiers.SLOW
def test_gmp_costs_are_those_of_rigl_s_paper(tmp_path):
  rows = reproduce.select(tables.table("granet_3"), ["gmp-kept/*"])
  ratios = [
    forecast.forecast(command.parse(run.argv).config).training_flops_ratio
    for run in tables.plan("granet_3", rows, tmp_path)
  ]
  # The paper samples 33 points of the run, both ends included.
  assert ratios == pytest.approx([0.5588, 0.5037], abs=0.011)


@pytest.mark.parametrize("line", ["gmp-uniform", "granet-0-uniform"])
@pytest.mark.parametrize(
  ("model", "first"),
  tiers.every(2, [("vgg19", "conv0"), ("resnet50_cifar", "stem")]),
)
@pytest.mark.parametrize("sparsity", tiers.every(2, [0.9, 0.98]))
def test_uniform_pruning_spares_the_first_layer_and_the_classifier(
  line, model, first, sparsity, tmp_path
):
  row = f"{line}/{model}/cifar100/{sparsity}"
  rows = reproduce.select(tables.table("granet_9"), [row])
  (run,) = tables.plan("granet_9", rows, tmp_path)
  found = dict(forecast.forecast(command.parse(run.argv).config).sparsities)
  assert f"{first}/kernel" not in found
  assert found.pop("classifier/kernel") == pytest.approx(0.8, abs=1e-4)
  low, high = min(found.values()), max(found.values())
  # The others make up for the classifier; the smallest has 4,096 weights.
  assert high - low < 1 / 4096 and sparsity < low < sparsity + 0.002


def test_a_line_with_missing_numbers_raises():
  cells = papers.across(("a", "b"), ("sparsity=0.9",))
  assert [cell.name for cell in cells] == ["a/0.9", "b/0.9"]
  with pytest.raises(ValueError, match="1 figures for 2 cells"):
    papers.line("gmp", None, cells, "93.1")
  with pytest.raises(ValueError, match="does not have a number for each"):
    papers.line("gmp", None, cells, "93.1/.2 -")
  with pytest.raises(ValueError, match="could not convert"):
    papers.line("gmp", None, cells, "93.1 x")
