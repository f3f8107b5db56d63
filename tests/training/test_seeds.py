"""Several seeds in one program: each is the run of its seed alone."""

import json
import shutil
import statistics

import jax
import numpy as np
import pytest
from helpers import tiers
from helpers.stopping import StopAfter
from helpers.trainer import assert_same_run, metrics, saved_steps, summary

from sparsejax import train
from sparsejax.plots import __main__ as plots_command, records
from sparsejax.study import compare, imp, reproduce
from sparsejax.study.plasticity import __main__ as plasticity
from sparsejax.training import (
  initial_state,
  outcomes,
  preemption,
  replicas,
  session,
  sharding,
)
from sparsejax.training.checkpointing import reading
from sparsejax.training.config import build, command, finished
from sparsejax.training.reporting.reporter import Reporter

SHORT = (
  "--config.epochs=3",
  "--config.dispatch_steps=15",
  "--config.log_every_steps=1",
  "--config.eval_every_epochs=1",
  "--config.checkpoint_every_epochs=1.5",
)
MLP = "--config.model.hidden=(32,)"
SEEDS = (3, 4)


def arguments(options, *changes):
  return [f"--config=digits:{options}", *SHORT, *changes]


def experiment(options, *changes):
  return build.build(command.parse(arguments(options, *changes)).config)


def run(workdir, options, *changes, stop=None):
  argv = [*arguments(options, *changes), f"--workdir={workdir}"]
  return train.main(argv, stop=stop)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
  """The workdir of two seeds in one program."""
  workdir = tmp_path_factory.mktemp("seeds") / "together"
  assert run(workdir, "granet,seed=3", MLP, "--config.seeds=2") == 0
  return workdir


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """The workdir of the second seed, trained alone."""
  workdir = tmp_path_factory.mktemp("seeds") / "alone"
  assert run(workdir, "granet,seed=4", MLP) == 0
  return workdir


def assert_close(one, other, *, steps):
  """Asserts equal losses in the first steps, and equal counts in all."""
  one, other = metrics(one), metrics(other)
  assert [row.keys() for row in one] == [row.keys() for row in other]
  for left, right in zip(one[:steps], other[:steps], strict=True):
    assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)
    assert left["grad_norm"] == pytest.approx(right["grad_norm"], rel=1e-4)
  counts = ("step", "active", "requested_sparsity", "mask_updates")
  for left, right in zip(one, other, strict=True):
    assert [left[name] for name in counts] == [right[name] for name in counts]


def test_each_seed_trains_as_it_does_alone(together, alone):
  assert_close(together / "seed_4", alone, steps=15)
  first, second = (metrics(together / f"seed_{seed}") for seed in SEEDS)
  assert first[0]["loss"] != second[0]["loss"]


def test_initial_states_are_those_of_single_runs():
  chosen = experiment("granet,seed=3", MLP, "--config.seeds=2")
  mesh = sharding.make_mesh()
  states = [initial_state.create(each, mesh) for each in chosen.each]
  whole = replicas.stack(states)
  abstract = initial_state.abstract(chosen, mesh)
  shapes = replicas.stacked_shapes(abstract, 2)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), whole) == jax.tree.map(
    lambda x: (x.shape, x.dtype), shapes
  )
  for seed, found in zip(SEEDS, replicas.split_state(whole, 2), strict=True):
    single = experiment(f"granet,seed={seed}", MLP)
    wanted = initial_state.create(single, mesh)
    for a, b in zip(
      jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True
    ):
      assert a.dtype == b.dtype
      assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_masks_have_exact_counts(together):
  for seed in SEEDS:
    state = reading.read(together / f"seed_{seed}", 66)
    masks = jax.tree.leaves(state["opt_state"]["masks"])
    last = metrics(together / f"seed_{seed}")[-1]
    total = sum(mask.size for mask in masks)
    requested = round((1 - last["requested_sparsity"]) * total)
    assert sum(int(mask.sum()) for mask in masks) == requested
    assert last["active"] == requested


def test_a_seed_has_the_records_of_a_finished_run(together, alone):
  own = together / "seed_4"
  assert (own / "config.json").read_text() == (
    alone / "config.json"
  ).read_text()
  found, wanted = summary(own), summary(alone)
  assert (found.pop("replicas"), wanted.pop("replicas")) == (2, 1)
  assert found.keys() == wanted.keys()
  for name in ("active", "requested", "total", "steps", "mask_updates"):
    assert found[name] == wanted[name]
  assert found["test_loss"] == pytest.approx(wanted["test_loss"], rel=0.05)
  for name in ("report.html", "environment.json"):
    assert (own / name).exists()
  network = finished.read(own)
  assert network.summary["seed"] == 4
  params, masks = network.variables["params"], network.masks
  weights = params["Dense_0"]["kernel"]
  assert not weights[~masks["Dense_0"]["kernel"]].any()


def test_the_workdir_has_mean_and_deviation(together):
  found = records.read_summary_of_seeds(together)
  assert found["seeds"] == list(SEEDS)
  each = [records.read_summary(together / f"seed_{seed}") for seed in SEEDS]
  for name in ("test_accuracy", "test_loss", "active"):
    values = [one[name] for one in each]
    assert found["mean"][name] == statistics.mean(values)
    assert found["deviation"][name] == statistics.stdev(values)
  assert "seed" not in found["mean"]
  page = (together / "report.html").read_text()
  assert "2 runs" in page and "±" in page


def test_commands_read_the_seeds(together, capsys):
  assert compare.main([str(together)]) == 0
  whole = capsys.readouterr().out
  assert compare.main([str(together / "seed_*")]) == 0
  assert capsys.readouterr().out == whole and "(2)" in whole
  done, _ = compare.find([str(together.parent / "together*")])
  assert [path.name for path in done] == ["seed_3", "seed_4"]
  assert run(together, "granet,seed=3", MLP, "--config.seeds=2") == 0
  assert "is finished; nothing was changed." in capsys.readouterr().out


def test_the_workdir_of_several_seeds_is_no_single_run(together, capsys):
  assert plots_command.main(["report", str(together)]) == 2
  assert "such as" in capsys.readouterr().err
  assert run(together, "granet,seed=3", MLP) == 2
  assert "`seeds` is 2 there and missing here" in capsys.readouterr().err
  from_it = f"--config.init_from={together}"
  assert run(together / "new", "retrain", MLP, from_it) == 2
  assert "has several seeds" in capsys.readouterr().err


def test_a_later_run_starts_from_a_seed(together, tmp_path):
  from_it = f"--config.init_from={together / 'seed_4'}"
  assert run(tmp_path, "retrain", MLP, from_it, "--config.epochs=1") == 0
  wanted = records.read_summary(together / "seed_4")["active"]
  assert records.read_summary(tmp_path)["active"] == wanted


@pytest.mark.parametrize("dispatches", tiers.some((1, 4), lambda n: n == 4))
def test_resumed_seeds_equal_uninterrupted_ones(together, tmp_path, dispatches):
  changes = ("granet,seed=3", MLP, "--config.seeds=2")
  stopped = run(tmp_path, *changes, stop=StopAfter(dispatches))
  assert stopped == outcomes.TERMINATED
  assert saved_steps(tmp_path)[-1] == 15 * dispatches
  assert not list(tmp_path.glob("seed_*/summary.json"))
  # Steps that are repeated, and a line that was cut off.
  with open(tmp_path / "seed_3" / records.METRICS, "a") as file:
    file.write(json.dumps({"step": 65}) + '\n{"step": 66, "lo')
  assert run(tmp_path, *changes) == 0
  for seed in SEEDS:
    assert_same_run(tmp_path / f"seed_{seed}", together / f"seed_{seed}")
  found, wanted = (
    records.read_summary_of_seeds(path) for path in (tmp_path, together)
  )
  assert found["mean"] == wanted["mean"]
  assert found["deviation"] == wanted["deviation"]


def test_a_run_killed_before_its_result_writes_it_again(together, tmp_path):
  workdir = tmp_path / "copy"
  shutil.copytree(together, workdir)
  for path in ("summary.json", "seed_4/summary.json", "seed_4/report.html"):
    (workdir / path).unlink()
  shutil.rmtree(workdir / "seed_4" / "checkpoints")
  assert run(workdir, "granet,seed=3", MLP, "--config.seeds=2") == 0
  for seed in SEEDS:
    assert_same_run(workdir / f"seed_{seed}", together / f"seed_{seed}")


class _NotANumber:
  """A model whose first weights are NaN."""

  def __init__(self, model):
    self._model = model

  def init(self, *args, **kwargs):
    return jax.tree.map(lambda x: x * np.nan, self._model.init(*args, **kwargs))


def test_a_seed_that_is_not_finite_is_named(tmp_path):
  chosen = experiment("static,seed=3", MLP, "--config.seeds=2")
  good, bad = chosen.of_seeds
  setup = bad.setup._replace(model=_NotANumber(bad.setup.model))
  chosen = chosen._replace(of_seeds=(good, bad._replace(setup=setup)))
  outcome = session.run(
    chosen,
    tmp_path,
    stop=preemption.StopRequest(),
    reporter=Reporter(message=print, progress=lambda step, row: None),
  )
  assert outcome.status == outcomes.NOT_FINITE
  assert "of step 1 is not finite with seed 4; stopped" in outcome.message
  assert metrics(tmp_path / "seed_3")[-1]["finite"] is True
  assert metrics(tmp_path / "seed_4")[-1]["finite"] is False
  assert saved_steps(tmp_path) == []


def test_networks_in_lanes_are_refused(tmp_path, capsys):
  argv = ["--config=set_mlp:digits,runlocal", "--config.model.layout=sparse"]
  status = train.main([*argv, "--config.seeds=2", f"--workdir={tmp_path}"])
  assert status == 2
  assert "because `config.model.layout` of 'sparse'" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("changes", "why"),
  [
    (["--config.seeds=0"], "`config.seeds` must be at least 1, got 0"),
    (
      ["--config.seeds=2", "--config.select_checkpoint=best"],
      "`config.seeds` must be 1, because the best checkpoint",
    ),
    (["--config.seeds=2.5"], "`config.seeds` must be of type int"),
  ],
)
def test_what_cannot_train_together_is_refused(tmp_path, capsys, changes, why):
  assert run(tmp_path / "run", "granet", MLP, *changes) == 2
  assert why in capsys.readouterr().err
  assert not (tmp_path / "run").exists()


def test_several_devices_are_refused(monkeypatch):
  monkeypatch.setattr(jax, "device_count", lambda: 4)
  with pytest.raises(ValueError, match="because there are 4 devices, got 2"):
    experiment("granet", MLP, "--config.seeds=2")


def test_commands_that_follow_one_run_refuse_several_seeds(tmp_path, capsys):
  seeds, where = "--config.seeds=2", f"--workdir={tmp_path / 'run'}"
  assert imp.main(["--config=digits", "--sparsity=0.5", seeds, where]) == 2
  assert "each round starts from a run of one seed" in capsys.readouterr().err
  grid = ["--config=plasticity:digits", seeds, where]
  assert plasticity.main(grid) == 2
  assert "branches continue a run of one seed" in capsys.readouterr().err
  assert reproduce.main(["granet_2", "--runlocal", seeds, where]) == 2
  assert "`--seeds` gives each row several runs" in capsys.readouterr().err
  assert not (tmp_path / "run").exists()


# Between steps, by a metric, by scores, with kept values, with batch norms.
METHODS = (
  "rigl",
  "dynset",
  "accset",
  "optg",
  "str",
  "dnw",
  "top_kast",
  "deep_r",
  "dsr",
  "snip",
  "grasp",
  "small_dense",
)


@tiers.SLOW
@pytest.mark.parametrize("method", METHODS)
def test_other_methods_train_together(tmp_path, method):
  short = (MLP, "--config.epochs=2")
  options = f"{method},seed=3"
  assert run(tmp_path / "both", options, *short, "--config.seeds=2") == 0
  assert run(tmp_path / "one", options, *short) == 0
  assert_close(tmp_path / "both" / "seed_3", tmp_path / "one", steps=3)


@tiers.SLOW
@pytest.mark.parametrize(
  "config", ["digits:rigl,model=cnn,runlocal", "set_mlp:dynset2,runlocal"]
)
def test_other_models_train_together(tmp_path, config):
  argv = [f"--config={config}", "--config.log_every_steps=1"]
  both, one = tmp_path / "both", tmp_path / "one"
  assert train.main([*argv, f"--workdir={both}", "--config.seeds=2"]) == 0
  assert train.main([*argv, f"--workdir={one}"]) == 0
  assert_close(both / "seed_0", one, steps=3)
