"""Microbatches give the step of the whole batch; per-layer sparsities."""

import functools
import pathlib

import jax
import numpy as np
import pytest
from helpers import tiers

import sparsejax
from sparsejax import command_line
from sparsejax.data import Split
from sparsejax.training import train_state, train_step
from sparsejax.training.config import build, command

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"


def experiment(options, *changes):
  argv = [f"--config={CONFIG}:{options}", *changes]
  return build.build(command.parse(argv).config)


def steps(chosen, count):
  """Yields the state and the metrics after each step."""
  setup = chosen.setup
  state = train_state.init(
    setup, chosen.init_key, chosen.data_key, chosen.dataset.example
  )
  train = jax.tree.map(np.asarray, chosen.dataset.train)
  history = train_step.empty_history(
    setup, state, Split(train.images[:64], train.labels[:64])
  )
  take = jax.jit(functools.partial(train_step.step_from_split, setup))
  for _ in range(count):
    state, history = take(state, history, train)
    yield state, history


def test_microbatches_give_the_gradient_and_one_mask_update():
  # Every 4 steps: 8 steps of 4 microbatches have two mask updates, not eight.
  small = "--config.model.hidden=(16,)"
  options = ("granet,runlocal", "--config.method.every_steps=4", small)
  whole = experiment(*options)
  parts = experiment(*options, "--config.microbatches=4")
  for at, ((one, _), (other, _)) in enumerate(
    zip(steps(whole, 8), steps(parts, 8), strict=True), 1
  ):
    for a, b in zip(
      jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    found = sparsejax.stats(other.opt_state)
    assert int(found["last_update"]) == (at // 4 * 4 or -1)
    assert int(other.step) == at
    assert int(found["active"]) == int(sparsejax.stats(one.opt_state)["active"])


def test_loss_and_accuracy_are_those_of_the_whole_batch():
  options = ("static,runlocal",)
  *_, (_, one) = steps(experiment(*options), 1)
  *_, (_, other) = steps(experiment(*options, "--config.microbatches=8"), 1)
  np.testing.assert_allclose(one.loss[0], other.loss[0], rtol=1e-5)
  assert one.metrics["accuracy"][0] == pytest.approx(
    float(other.metrics["accuracy"][0])
  )
  np.testing.assert_allclose(one.grad_norm[0], other.grad_norm[0], rtol=1e-5)


@tiers.SLOW
def test_batch_statistics_pass_from_one_microbatch_to_the_next():
  options = ("static,model=cnn,runlocal", "--config.model.channels=(4, 6)")
  chosen = experiment(*options, "--config.microbatches=2")
  *_, (state, _) = steps(chosen, 1)
  *_, (whole, _) = steps(experiment(*options), 1)
  moved, once = (
    jax.tree.leaves(s.model_state["batch_stats"]) for s in (state, whole)
  )
  # Running averages start at 0 and 1 and move a fraction of the way per batch.
  for a, b in zip(moved, once, strict=True):
    assert np.isfinite(a).all() and not np.array_equal(a, b)
  assert sum(np.abs(a).sum() for a in moved[::2]) > sum(
    np.abs(b).sum() for b in once[::2]
  )


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ("--config.microbatches=0", "at least 1, got 0"),
    ("--config.microbatches=3", "must divide 64"),
    ("--config.sparsities=('Dense_2/*',)", "items like 'classifier"),
    ("--config.sparsities=('Dense_9/*=0.5',)", "Dense_9"),
  ],
)
def test_invalid_values_are_refused(change, message):
  with pytest.raises(command_line.InputError, match=message):
    experiment("gmp,runlocal", change)


def test_layer_with_a_fixed_sparsity_is_balanced_by_the_others():
  chosen = experiment(
    "static,runlocal", "--config.sparsities=('Dense_2/kernel=0.5',)"
  )
  state = train_state.init(
    chosen.setup, chosen.init_key, chosen.data_key, chosen.dataset.example
  )
  counts = sparsejax.summary(state.params, state.opt_state)
  by_name = {layer.name: layer for layer in counts.layers}
  assert by_name["Dense_2/kernel"].active == 1280
  assert counts.active == counts.total // 10
