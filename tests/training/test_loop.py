"""Runs end to end; a resumed run equals an uninterrupted one."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest
from helpers import tiers
from helpers.in_process import run
from helpers.stopping import StopAfter, StopInEvaluation
from helpers.trainer import metrics as rows

import sparsejax
from sparsejax.data import Split
from sparsejax.plots import records
from sparsejax.training import (
  evaluation,
  initial_state,
  outcomes,
  preemption,
  sharding,
  train_step,
)
from sparsejax.training.checkpointing import errors, reading
from sparsejax.training.config import build, command
from sparsejax.training.reporting import results

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"
# Three epochs of 22 steps in dispatches of 15: the last one is shorter, and no
# dispatch ends at the end of an epoch.
SHORT = (
  "--config.epochs=3",
  "--config.dispatch_steps=15",
  "--config.log_every_steps=4",
  "--config.eval_every_epochs=1",
  "--config.checkpoint_every_epochs=1.5",
)


@functools.cache
def experiment(options, *changes):
  argv = [f"--config={CONFIG}:{options}", *SHORT, *changes]
  if "cnn" not in options:
    argv.append("--config.model.hidden=(32,)")
  return build.build(command.parse(argv).config)


def assert_same_state(one, other):
  one, other = sharding.fetch(one), sharding.fetch(other)
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert a.dtype == b.dtype
    assert a.tobytes() == b.tobytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole")
  outcome, lines = run(experiment("granet"), workdir)
  return workdir, outcome, lines


def test_run_reports_logs_and_evaluates_on_schedule(whole):
  workdir, outcome, lines = whole
  assert outcome.status == outcomes.DONE
  assert outcome.step == int(outcome.state.step) == 66
  assert outcome.resumed_from_step is None
  assert [line[0] for line in lines if isinstance(line, tuple)] == [
    15,
    30,
    45,
    60,
    66,
  ]
  evaluated = [row["step"] for row in rows(workdir) if "test_loss" in row]
  assert evaluated == [30, 45, 66]
  logged = {row["step"] for row in rows(workdir)}
  assert logged == {*range(4, 67, 4), 30, 45, 66}
  assert outcome.selected.evaluation["test_accuracy"] > 0.5
  assert set(outcome.selected.evaluation) == {
    "test_loss",
    "test_accuracy",
    "train_loss",
    "train_accuracy",
  }


def test_run_reaches_the_requested_sparsity(whole):
  _, outcome, _ = whole
  state = outcome.state
  found = sparsejax.summary(state.params, state.opt_state)
  assert found.active == found.requested
  assert found.sparsity == pytest.approx(0.9, abs=1e-3)
  sparsejax.assert_sparse(state.params, state.opt_state)


def test_summary_has_the_flops_of_the_run(whole):
  workdir, outcome, _ = whole
  chosen = experiment("granet")
  found, last = results.summarize(chosen, outcome), rows(workdir)[-1]
  for key in ("inference_flops", "training_flops"):
    assert found[key] == pytest.approx(last[key], rel=1e-12)
    assert 0 < found[f"{key}_ratio"] == last[f"{key}_ratio"] < 1
  assert found["inference_flops"] == 2 * found["inference_macs"]
  macs = {layer["name"]: layer["macs"] for layer in found["layers"]}
  assert macs == {"Dense_0/kernel": 64 * 32, "Dense_1/kernel": 32 * 10}
  assert [layer["position"] for layer in found["layers"]] == [0, 1]
  assert found["dense_inference_macs"] == sum(macs.values())
  assert found["kernel_parameters"] == found["total"] == sum(macs.values())
  assert found["parameters"] == found["total"] + 32 + 10


@pytest.mark.parametrize("dispatches", [1, 4])
def test_resumed_run_equals_an_uninterrupted_one(whole, tmp_path, dispatches):
  workdir, wanted, _ = whole
  chosen = experiment("granet")
  stopped, _ = run(chosen, tmp_path, stop=StopAfter(dispatches))
  assert stopped.status == outcomes.TERMINATED
  assert stopped.step == 15 * dispatches
  # A complete and a partial line of steps that are repeated.
  with open(tmp_path / records.METRICS, "a") as file:
    file.write(json.dumps({"step": 65}) + '\n{"step": 66, "lo')
  resumed, lines = run(chosen, tmp_path)
  assert resumed.status == outcomes.DONE
  assert resumed.resumed_from_step == 15 * dispatches
  assert f"Resuming from step {15 * dispatches}." in lines
  assert_same_state(resumed.state, wanted.state)
  assert resumed.selected.evaluation == wanted.selected.evaluation
  assert rows(tmp_path) == rows(workdir)
  times = [
    row
    for row in records.read_metrics(tmp_path).rows
    if "run_began_seconds" in row
  ]
  # The sums go on where those of the kept rows end.
  for name in ("compile", "step", "evaluate", "save", "elapsed"):
    values = [row[f"run_{name}_seconds"] for row in times]
    assert values == sorted(values) and values[-1] > 0
  starts = {row["run_began_seconds"] for row in times}
  assert len(starts) == 1  # Also where the first start has written such rows.


def test_signals_in_evaluations_change_nothing(tmp_path, monkeypatch):
  """Of the metric that the method follows, of a row, and of a checkpoint."""
  monkeypatch.setattr(evaluation, "_EVAL_BATCH", 128)
  chosen = experiment("accset,sparsity=0.9")  # Compiled with these batches.
  wanted, _ = run(chosen, tmp_path / "whole")
  folder, steps = tmp_path / "parts", []
  # Two batches for the metric, and five for a row or a checkpoint.
  for batch in (2, 4, 8, 9, 12):
    stopped, _ = run(chosen, folder, stop=StopInEvaluation(batch))
    assert stopped.status == outcomes.TERMINATED
    assert f"after saving step {stopped.step}" in stopped.message
    assert rows(folder)[-1]["step"] < stopped.step
    steps.append(stopped.step)
  assert steps == [20, 20, 30, 40, 60]
  with pytest.raises(preemption.Stopped):  # Everything is saved.
    run(chosen, folder, stop=StopInEvaluation(9))
  resumed, _ = run(chosen, folder)
  assert resumed.status == outcomes.DONE
  assert_same_state(resumed.state, wanted.state)
  assert resumed.selected.evaluation == wanted.selected.evaluation
  assert rows(folder) == rows(tmp_path / "whole")
  recorded = [
    reading.read_record(each / "checkpoints" / "60")
    for each in (folder, tmp_path / "whole")
  ]
  assert recorded[0] == recorded[1]


def test_run_killed_after_its_last_step_takes_no_step(whole):
  workdir, wanted, _ = whole
  before = rows(workdir)
  again, _ = run(experiment("granet"), workdir)
  assert again.resumed_from_step == 66
  assert again.train_seconds == 0
  assert again.selected.evaluation == wanted.selected.evaluation
  assert rows(workdir) == before


def test_checkpoints_of_another_config_are_refused(whole):
  workdir, _, _ = whole
  with pytest.raises(errors.CheckpointError, match="`seed` is 0 there"):
    run(experiment("granet,seed=1"), workdir)


def test_the_seed_changes_the_run(whole, tmp_path):
  workdir, _, _ = whole
  run(experiment("granet,seed=1"), tmp_path, stop=StopAfter(1))
  assert rows(tmp_path)[0] != rows(workdir)[0]


def test_non_finite_loss_stops_the_run(tmp_path):
  chosen = experiment("gmp", "--config.optimizer.learning_rate=1e20")
  outcome, _ = run(chosen, tmp_path)
  assert outcome.status == outcomes.NOT_FINITE
  assert "is not finite; stopped after steps 1 to 15" in outcome.message
  assert "Last good checkpoint: none" in outcome.message
  assert rows(tmp_path)[-1]["finite"] is False
  assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
  "model", tiers.every(2, ["set_mlp", "mlp"])
)  # Dropout.
def test_training_does_not_depend_on_dispatch_steps(model):
  states = []
  for dispatch_steps in (3, 5):
    chosen = experiment(
      f"dense,model={model}", f"--config.dispatch_steps={dispatch_steps}"
    )
    mesh = sharding.make_mesh()
    state = initial_state.create(chosen, mesh)
    train = sharding.replicate(chosen.dataset.train, mesh)
    steps = jax.jit(functools.partial(train_step.run_dispatch, chosen.setup))
    while int(state.step) < 15:
      state, _ = steps(state, train)
    states.append(state)
  assert int(states[0].step) == int(states[1].step) == 15
  for a, b in zip(*(jax.tree.leaves(s.params) for s in states), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_dropout_is_a_function_of_the_step():
  chosen = experiment("dense,model=set_mlp", "--config.data.max_shift=0")
  state = initial_state.create(chosen, sharding.make_mesh())
  batch = Split(*(x[:64] for x in chosen.dataset.train))
  one_step = jax.jit(functools.partial(train_step.train_step, chosen.setup))
  losses = [
    float(one_step(state._replace(step=state.step + offset), batch)[1].loss)
    for offset in [0, 0, 1]
  ]
  assert losses[0] == losses[1] != losses[2]


def test_batch_statistics_change_in_training_only():
  chosen = experiment("static,model=cnn", "--config.model.channels=(4,)")
  state = initial_state.create(chosen, sharding.make_mesh())
  batch = Split(*(x[:64] for x in chosen.dataset.train))
  new, _ = jax.jit(functools.partial(train_step.train_step, chosen.setup))(
    state, batch
  )
  before, after = (
    jax.tree.leaves(s.model_state["batch_stats"]) for s in (state, new)
  )
  assert all((a != b).any() for a, b in zip(before, after, strict=True))
  totals = evaluation.evaluate(chosen.setup, new, chosen.dataset.test)
  correct = int(totals.metrics["accuracy"])
  assert 0 <= correct <= chosen.dataset.test.examples


def test_validation_split_is_evaluated_in_addition_to_the_test_split(tmp_path):
  chosen = experiment(
    "static", "--config.data.validation=100", "--config.epochs=1"
  )
  outcome, _ = run(chosen, tmp_path)
  assert outcome.step == (1438 - 100) // 64
  assert 0 <= outcome.selected.evaluation["validation_accuracy"] <= 1
  last = rows(tmp_path)[-1]
  assert (
    last["validation_loss"] == outcome.selected.evaluation["validation_loss"]
  )
  validation = chosen.dataset.validation
  totals = evaluation.evaluate(chosen.setup, outcome.state, validation)
  accuracy = int(totals.metrics["accuracy"]) / validation.examples
  assert outcome.selected.evaluation["validation_accuracy"] == accuracy
