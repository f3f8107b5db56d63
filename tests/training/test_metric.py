"""The epoch metric that methods follow, also after a resume."""

import functools
import pathlib

import jax
import numpy as np
import pytest
from helpers import in_process, tiers
from helpers.stopping import StopAfter
from helpers.trainer import metrics as rows

import sparsejax
from sparsejax import command_line
from sparsejax.training import (
  dispatches,
  metric,
  sharding,
  train_step,
)
from sparsejax.training.config import build, command

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"
EPOCH = 20  # Steps.
# Dispatches of 15 steps end within epochs.
SHORT = (
  "--config.epochs=4",
  "--config.dispatch_steps=15",
  "--config.log_every_steps=1",
  "--config.eval_every_epochs=1",
  "--config.checkpoint_every_epochs=100",
  "--config.model.hidden=(16,)",
  "--config.data.validation=144",
)
BY_VALIDATION = "--config.metric=validation_loss"


@functools.cache
def experiment(method, *changes):
  argv = [f"--config={CONFIG}:{method},sparsity=0.7", *SHORT, *changes]
  return build.build(command.parse(argv).config)


def run(chosen, workdir, *, stop=None):
  outcome, _ = in_process.run(chosen, workdir, stop=stop)
  return outcome


def assert_same_state(one, other):
  one, other = sharding.fetch(one), sharding.fetch(other)
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert a.tobytes() == b.tobytes()


@pytest.fixture(scope="module")
def by_train_loss(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("train")
  return workdir, run(experiment("dynset"), workdir)


@pytest.fixture(scope="module")
def by_validation(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("validation")
  return workdir, run(experiment("lset", BY_VALIDATION), workdir)


def counts_by_recursion(first, metrics, zeta=0.3):
  """n <- left + theta (first - left), left = (1 - zeta) n; theta = L / L_0."""
  counts = [first]
  for loss in metrics:
    theta = min(loss / metrics[0], 1.0)
    left = (1 - zeta) * counts[-1]
    counts.append(left + theta * (first - left))
  return counts


def test_method_follows_the_training_loss(by_train_loss):
  """The number of active weights follows the paper's recursion within 1 %."""
  workdir, outcome = by_train_loss
  losses = [row["loss"] for row in rows(workdir)]
  means = [np.mean(losses[i : i + EPOCH]) for i in range(0, 4 * EPOCH, EPOCH)]
  found = outcome.state.metric
  assert float(found.last) == pytest.approx(means[-1], rel=1e-6)
  assert float(found.sum) == 0
  history = outcome.state.opt_state.accumulators["metric_history"]
  np.testing.assert_allclose(history.recent[1:], means[:3], rtol=1e-6)
  assert int(history.epochs) == 3  # No mask update after the last epoch.
  active = [row["active"] for row in rows(workdir)]
  # A mask update precedes the first step of the next epoch.
  counts = [active[i] for i in range(0, 4 * EPOCH, EPOCH)]
  assert counts[0] > counts[2] > counts[3]
  np.testing.assert_allclose(
    counts, counts_by_recursion(counts[0], means[:3]), rtol=0.01
  )
  assert active[EPOCH - 1] == active[0] != active[-1]


def test_method_follows_the_validation_loss(by_validation):
  workdir, outcome = by_validation
  found = {
    row["step"]: row["validation_loss"]
    for row in rows(workdir)
    if "validation_loss" in row
  }
  assert list(found) == [20, 40, 60, 80]  # Dispatches end at the end of epochs.
  last = float(outcome.state.metric.last)
  assert last == pytest.approx(found[80], rel=1e-6)
  history = outcome.state.opt_state.accumulators["metric_history"]
  assert float(history.first) == pytest.approx(found[20], rel=1e-6)
  assert float(history.recent[-1]) == pytest.approx(found[60], rel=1e-6)
  active = [row["active"] for row in rows(workdir)]
  counts = counts_by_recursion(active[0], [found[i] for i in (20, 40, 60)])
  np.testing.assert_allclose(active[::EPOCH], counts, rtol=0.01)


@pytest.mark.parametrize(
  "dispatches, step", tiers.every(3, [(2, 20), (1, 15), (3, 30)])
)
def test_resumed_run_equals_an_uninterrupted_one(
  by_train_loss, tmp_path, dispatches, step
):
  workdir, wanted = by_train_loss
  stopped = run(experiment("dynset"), tmp_path, stop=StopAfter(dispatches))
  assert stopped.step == step
  resumed = run(experiment("dynset"), tmp_path)
  assert resumed.resumed_from_step == step
  assert_same_state(resumed.state, wanted.state)
  assert rows(tmp_path) == rows(workdir)


def test_run_resumed_between_epochs_equals_an_uninterrupted_one(
  by_validation, tmp_path
):
  workdir, wanted = by_validation
  chosen = experiment("lset", BY_VALIDATION)
  assert run(chosen, tmp_path, stop=StopAfter(4)).step == 40
  assert_same_state(run(chosen, tmp_path).state, wanted.state)
  assert rows(tmp_path) == rows(workdir)


def test_metric_does_not_depend_on_dispatch_steps(by_train_loss, tmp_path):
  other = run(experiment("dynset", "--config.dispatch_steps=80"), tmp_path)
  assert_same_state(other.state, by_train_loss[1].state)


def test_requested_counts_follow_the_metric(by_train_loss):
  workdir, outcome = by_train_loss
  state = outcome.state
  counted = sparsejax.summary(state.params, state.opt_state)
  last = rows(workdir)[-1]
  assert counted.active == counted.requested == last["active"]
  assert counted.warnings == ()
  assert (
    last["sparsity"] == last["requested_sparsity"] == counted.sparsity > 0.7
  )


def test_training_flops_follow_the_counts_of_every_step(by_train_loss):
  workdir, _ = by_train_loss
  # Masks change before a step, which is then computed with the new ones.
  active = [row["active"] for row in rows(workdir)]
  # Forward and two backward products, two FLOPs each, batches of 64.
  assert rows(workdir)[-1]["training_flops"] == 6 * 64 * sum(active)
  assert rows(workdir)[-1]["inference_flops"] == 2 * active[-1]


def test_the_last_removal_is_part_of_the_result(by_train_loss, tmp_path):
  changes = ("--config.method.prune_last=True",)
  outcome = run(experiment("dynset", *changes), tmp_path)
  *others, last = rows(tmp_path)
  assert others == rows(by_train_loss[0])[:-1]
  state = outcome.selected.state
  counted = sparsejax.summary(state.params, state.opt_state)
  sparsejax.assert_sparse(state.params, state.opt_state)
  assert counted.active == last["active"] < 0.75 * others[-1]["active"]
  assert last["inference_flops"] == 2 * last["active"]
  assert last["test_loss"] != rows(by_train_loss[0])[-1]["test_loss"]
  resumed = run(experiment("dynset", *changes), tmp_path)
  assert_same_state(resumed.state, outcome.state)


@pytest.mark.slow
def test_the_first_gradient_of_an_epoch_is_taken_at_its_masks(
  by_train_loss, tmp_path
):
  chosen = experiment("dynset")
  state = run(chosen, tmp_path, stop=StopAfter(2)).state
  assert int(state.step) == EPOCH
  found = rows(by_train_loss[0])[EPOCH]

  def step_from(state):
    train = sharding.replicate(chosen.dataset.train, sharding.make_mesh())
    dispatch = functools.partial(train_step.run_dispatch, chosen.setup)
    _, history = jax.jit(dispatch)(state, train)
    return float(history.loss[EPOCH % 15])

  updated = train_step.update_masks(chosen.setup, state)
  assert int(updated.counters.active.sum()) == found["active"]
  assert int(updated.counters.mask_updates) == 1
  assert step_from(updated) == pytest.approx(found["loss"], rel=1e-5)
  assert step_from(state) != pytest.approx(found["loss"], rel=1e-3)


@pytest.mark.parametrize(
  "method, changes, ends",
  [
    ("granet", [], [15, 30, 45, 60, 75, 80]),
    ("optg", [], [15, 20, 30, 40, 45, 60, 75, 80]),
    ("dynset", [], [15, 20, 30, 40, 45, 60, 75, 80]),
    ("lset", [BY_VALIDATION], [15, 20, 30, 40, 45, 60, 75, 80]),
    ("optg", ["--config.dispatch_steps=40"], [20, 40, 60, 80]),
    (
      "set",
      [
        "--config.method.masks_first=True",
        "--config.method.regrow_by=gradient",
      ],
      [15, 30, 45, 60, 75, 80],
    ),
  ],
)
def test_dispatches_end_where_the_host_acts(method, changes, ends):
  setup = experiment(method, *changes).setup
  found = [0]
  while found[-1] < setup.total_steps:
    found.append(dispatches.dispatch_end(setup, found[-1]))
  assert found[1:] == ends


def test_method_without_a_metric_gets_none():
  chosen = experiment("set", BY_VALIDATION)
  assert metric.init(chosen.setup.metric) == ()
  assert metric.update_kwargs(()) == {}


@pytest.mark.parametrize(
  "method, changes, message",
  [
    ("accset", ["--config.metric=train_loss"], "follows the accuracy"),
    ("lset", ["--config.metric=validation_accuracy"], "follows the loss"),
    ("lset", ["--config.metric=los"], "Valid: .*train_loss"),
    ("accset", ["--config.data.validation=0"], "has no validation split"),
  ],
)
def test_unavailable_metric_is_refused(method, changes, message):
  with pytest.raises(command_line.InputError, match=message):
    experiment(method, *changes)


def test_accuracies_by_hand():
  known = metric.init("train_accuracy")
  for step, value in enumerate([0.5, 1.0, 0.25, 0.75], start=1):
    known = metric.after_step(
      known,
      "train_accuracy",
      loss=jax.numpy.float32(9.0),
      metrics={"accuracy": jax.numpy.float32(value)},
      step=jax.numpy.int32(step),
      steps_per_epoch=2,
    )
    expected = {1: 0.0, 2: 0.75, 3: 0.75, 4: 0.5}[step]
    assert float(known.last) == expected
  known = metric.after_validation(
    metric.init("validation_accuracy"),
    "validation_accuracy",
    totals={"loss": jax.numpy.float32(9.0), "accuracy": jax.numpy.int32(30)},
    examples=40,
  )
  assert metric.update_kwargs(known) == {"metric": np.float32(0.75)}
