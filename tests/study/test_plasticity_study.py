"""Grids: what a branch is, and that any end of the process changes nothing."""

import contextlib
import csv
import functools
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiers, trainer

from sparsejax import command_line, plots
from sparsejax.analysis import plasticity
from sparsejax.components import trees
from sparsejax.plots import records
from sparsejax.study.plasticity import (
  __main__ as study,
  continuation,
  grid as grids,
  lab as labs,
  protocol as protocols,
  run as studies,
)
from sparsejax.training import (
  outcomes,
  preemption,
  session,
  sharding,
  train_state,
)
from sparsejax.training.checkpointing import run_checkpoints
from sparsejax.training.config import command
from sparsejax.training.reporting import reporter

ROOT = pathlib.Path(__file__).parents[2]
# One run, one moment, one rate: two branches of a measure.
SMALL = (
  "--config.plasticity.sparsities=(0.5,)",
  "--config.plasticity.rates=(0.5,)",
  "--config.plasticity.every_epochs=4.0",
)


def call(workdir, *args, config="plasticity:digits,runlocal"):
  return study.main([f"--config={config}", f"--workdir={workdir}", *args])


def rows_of(workdir):
  with open(workdir / studies.CSV, newline="") as file:
    return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A small grid, trained once."""
  folder = tmp_path_factory.mktemp("grid")
  assert call(folder, *SMALL) == outcomes.DONE
  return folder


def test_a_grid_has_one_row_per_branch(finished):
  rows = rows_of(finished)
  assert [(x["regrow"], x["measure"]) for x in rows] == [
    ("False", "plasticity"),
    ("False", "final_gap"),
    ("True", "plasticity"),
    ("True", "final_gap"),
  ]
  active = round(float(rows[0]["total"]) * 0.5)
  for row in rows:
    assert int(row["active_before"]) == active
    left = active if row["regrow"] == "True" else active - -(-active // 2)
    assert int(row["active"]) == left
    assert float(row["difference"]) == float(row["accuracy"]) - float(
      row["reference_accuracy"]
    )
  # A pruned network is the same for both measures.
  assert rows[0]["pruned_accuracy"] == rows[1]["pruned_accuracy"]
  summary = records.read_summary(finished / "run_0.5")
  assert float(rows[1]["reference_accuracy"]) == summary["test_accuracy"]
  assert float(rows[1]["trained_epochs"]) == 4.0
  assert float(rows[0]["trained_epochs"]) == 2.0


def test_figures_come_from_records_alone(finished, tmp_path):
  pytest.importorskip("matplotlib")
  for name in ("config.json", records.BRANCHES):
    (tmp_path / name).write_bytes((finished / name).read_bytes())
  plots.plot_plasticity([tmp_path, finished], "final_gap", tmp_path / "a.png")
  assert (tmp_path / "a.png").stat().st_size > 10_000
  assert (finished / "plasticity.png").stat().st_size > 10_000
  with pytest.raises(ValueError, match="have no record of the measure"):
    plots.plot_plasticity([finished], "else", tmp_path / "b.png")


def test_the_same_command_trains_nothing_again(finished, capsys):
  before = (finished / studies.CSV).read_bytes()
  assert call(finished, *SMALL) == outcomes.DONE
  assert "4 of 4 branches are done" in capsys.readouterr().out
  assert (finished / studies.CSV).read_bytes() == before


def test_a_damaged_end_of_the_records_is_trained_again(finished, tmp_path):
  lines = (finished / records.BRANCHES).read_bytes().splitlines(keepends=True)
  (tmp_path / records.BRANCHES).write_bytes(b"".join(lines[:2]) + lines[2][:9])
  assert len(records.read_branches(tmp_path)) == 2
  (tmp_path / records.BRANCHES).write_bytes(lines[0] + b"{}\n" + lines[1])
  assert len(records.read_branches(tmp_path)) == 1


def test_a_branch_without_pruning_is_the_original_run(tmp_path):
  """Bit for bit: parameters, masks, momentum, and what the trainer saved."""
  argv = [
    "--config=plasticity:digits,runlocal",
    "--config.plasticity.reset_optimizer=False",
    "--config.checkpoint_every_epochs=4.0",
  ]
  config, section = studies.split(command.parse(argv).config)
  experiment = grids.experiment(config, 0.5)
  protocol = protocols.from_section(
    section, total_steps=experiment.steps.total, steps_per_epoch=22
  )
  outcome = session.run(
    experiment,
    tmp_path,
    stop=preemption.StopRequest(),
    reporter=reporter.Reporter(lambda text: None, lambda step, row: None),
    keep_checkpoints=True,
  )
  lab = labs.Lab(experiment, experiment, protocol, sharding.make_mesh())
  with contextlib.closing(
    run_checkpoints.open(experiment, tmp_path, lab.abstract, keep_all=True)
  ) as saved:
    origin = lab.origin(saved.restore(88, lab.abstract))
  for regrow in (False, True):
    branch = protocols.Branch(0.5, 88, 0.0, regrow, protocols.FINAL_GAP)
    state = lab.begin(branch, origin)
    train_dispatch = lab.compiled(branch.measure, state).train
    while int(state.step) < experiment.steps.total:
      state, _ = train_dispatch(state)
    for name in ("step", "params", "model_state", "opt_state", "key"):
      pairs = zip(
        jax.tree.leaves_with_path(getattr(outcome.state, name)),
        jax.tree.leaves(getattr(state, name)),
        strict=True,
      )
      for (path, a), b in pairs:
        same = np.asarray(a).tobytes() == np.asarray(b).tobytes()
        assert same, (name, jax.tree_util.keystr(path))


def test_a_new_optimizer_differs_from_the_run_only_in_its_momentum():
  """The learning rate of a branch is that of the run at its step."""
  argv = ["--config=plasticity:digits,runlocal"]
  config, section = studies.split(command.parse(argv).config)
  experiment = grids.experiment(config, 0.5)
  held = grids.experiment(
    config,
    0.5,
    experiment.dataset,
    wrap=continuation.hold_learning_rate,
  )
  state = jax.jit(
    functools.partial(
      train_state.init,
      experiment.setup,
      experiment.init_key,
      experiment.data_key,
      experiment.dataset.example,
    )
  )()._replace(step=jnp.int32(132))  # After both drops: 0.001.
  pruned = plasticity.Pruned(state.params, state.opt_state.masks)
  grads = jax.tree.map(jnp.ones_like, state.params)
  for setup, later in ((experiment.setup, 134), (held.setup, 132)):
    branch = continuation.start(setup, state, pruned)
    opt_state = branch.opt_state
    for _ in range(2):
      updates, opt_state = setup.tx.update(grads, opt_state, branch.params)
    counts = optax.tree.get_all_with_path(opt_state.inner_state, "count")
    assert [int(count) for _, count in counts] == [later]
    # Momentum from 0, Nesterov: 1 + 0.9 (1 + 0.9 (1)) of a gradient of 1.
    by_name = dict(trees.named_leaves(updates))
    (bias, *_) = [x for name, x in by_name.items() if name.endswith("bias")]
    np.testing.assert_allclose(bias, -0.001 * 2.71, rtol=1e-3)


def start(workdir, *args):
  """Starts the command in a new process."""
  command_ = [
    sys.executable,
    "-m",
    "sparsejax.study.plasticity",
    "--config=plasticity:digits,runlocal",
    f"--workdir={workdir}",
    *args,
  ]
  return subprocess.Popen(
    command_,
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def recorded(workdir):
  path = workdir / records.BRANCHES
  return path.read_bytes().count(b"\n") if path.exists() else 0


@tiers.SLOW
def test_killed_at_several_moments_it_gives_the_same_bytes(tmp_path, finished):
  args = ("--config.plasticity.sparsities=(0.0,0.5)",)
  whole = tmp_path / "whole"
  assert call(whole, *args) == outcomes.DONE
  folder = tmp_path / "killed"
  for count in (1, 5, 6, 20):
    process = start(folder, *args)
    trainer.wait_for(process, lambda count=count: recorded(folder) >= count)
    process.kill()
    process.communicate()
  status, _, error = trainer.finish(start(folder, *args))
  assert status == outcomes.DONE, error
  for name in (studies.CSV, records.BRANCHES):
    assert (folder / name).read_bytes() == (whole / name).read_bytes()


@tiers.SLOW
def test_sigterm_saves_a_branch_and_the_same_command_resumes(
  tmp_path, finished
):
  long = (*SMALL, "--config.plasticity.continue_epochs=4000.0")
  process = start(tmp_path, *long)
  trainer.wait_for(
    process, lambda: (tmp_path / "run_0.5/summary.json").exists()
  )
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(8)  # Into the first branch.
  process.send_signal(signal.SIGTERM)
  status, _, error = trainer.finish(process)
  assert status == outcomes.TERMINATED
  assert "Run the same command to resume" in error
  saved = list(tmp_path.glob("unfinished/*/checkpoints/*"))
  assert saved and recorded(tmp_path) == 0
  before = max(int(path.name) for path in saved if path.name.isdigit())
  process = start(tmp_path, *long)
  trainer.wait_for(process, lambda: recorded(tmp_path) >= 1)
  process.kill()
  process.communicate()
  assert before > 88
  assert not list(tmp_path.glob("unfinished/0.5-*-plasticity/checkpoints/*"))


def test_steps_of_branches():
  protocol = protocols.granet(
    every_steps=20, continue_steps=30, total_steps=100, sparsities=(0.0,)
  )
  assert protocol.prune_steps == (20, 40, 60, 80)
  every = grids.branches(protocol)
  assert len(every) == 4 * 4 * 2 * 2 == len(set(every))
  ends = {(b.step, b.measure): protocols.last_step(protocol, b) for b in every}
  assert ends[80, "plasticity"] == 110
  assert ends[20, "final_gap"] == 100


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--config.plasticity.rates=(0.5,0.5)"], "none twice, got (0.5, 0.5)"),
    (["--config.plasticity.rates=(1.0,)"], "fractions in [0, 1), got 1.0"),
    (["--config.plasticity.rates=()"], "at least one value"),
    (["--config.plasticity.measures=('gap',)"], "Valid: final_gap, plasticity"),
    (["--config.plasticity.scope=all"], "`config.plasticity.scope` got 'all'"),
    (["--config.plasticity.rate=0.5"], "Did you mean"),
    (["--config.plasticity.every_epochs=9.0"], "there is no step to prune at"),
    (["--config.plasticity.every_steps=30"], "must be a multiple of 11"),
    (["--config.method.name=granet"], "must be 'static', got 'granet'"),
  ],
)
def test_errors_are_one_line(tmp_path, capsys, args, message):
  assert call(tmp_path, *args) == command_line.BAD_INPUT
  error = capsys.readouterr().err
  assert error.startswith("error: ") and error.count("\n") == 1
  assert message in error


def test_a_config_without_a_grid_is_refused(tmp_path, capsys):
  assert call(tmp_path, config="digits") == command_line.BAD_INPUT
  assert "`config.plasticity` is missing" in capsys.readouterr().err


def test_a_folder_of_another_grid_is_refused(finished, capsys):
  args = ("--config.plasticity.gradient_batches=3",)
  assert call(finished, *SMALL, *args) == command_line.BAD_INPUT
  assert "gradient_batches" in capsys.readouterr().err
