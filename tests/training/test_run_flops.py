"""FLOPs of runs against counts on the host; label smoothing and averages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiers

import sparsejax
from sparsejax.analysis import flops
from sparsejax.tasks import cross_entropy
from sparsejax.training import (
  evaluation,
  run_flops,
  train_state,
  train_step,
)
from sparsejax.training.config import build, command
from sparsejax.training.reporting import metrics

STEPS = 12
CONFIG = (
  "--config=configs/digits.py:gmp,sparsity=0.8",
  "--config.model.hidden=(8,)",
  "--config.epochs=0.545",  # 12 of 22 steps.
  "--config.method.every_steps=3",
  "--config.method.end_epochs=0.3",
  "--config.eval_every_epochs=1",
  "--config.checkpoint_every_epochs=1",
)


# Label smoothing and a parameter average in one run, to compile only once.
SMOOTH = ("--config.label_smoothing=0.2", "--config.ema_decay=0.9")


@functools.cache
def experiment(*changes):
  return build.build(command.parse([*CONFIG, *changes]).config)


def first_state(chosen, setup):
  return train_state.init(
    setup, chosen.init_key, chosen.data_key, chosen.dataset.example
  )


@functools.cache
def by_steps(*changes):
  """Returns all states and metrics of a run, taken step by step."""
  chosen = experiment(*changes)
  setup = chosen.setup._replace(dispatch_steps=1, dense_gradient="at updates")
  train = jax.jit(functools.partial(train_step.run_dispatch, setup))
  states, by_step = [first_state(chosen, setup)], []
  for _ in range(STEPS):
    state, stacked = train(states[-1], chosen.dataset.train)
    states.append(state)
    by_step.append(jax.tree.map(lambda x: np.asarray(x[0]), stacked))
  return states, by_step


@pytest.mark.parametrize(
  "dense_gradient", tiers.every(3, ["at updates", "never", "every step"])
)
def test_flops_follow_the_masks_of_every_step(dense_gradient):
  chosen = experiment()
  costs = chosen.costs
  states, by_step = by_steps()
  now = run_flops.init(states[0].opt_state)
  table = flops.Costs({"Dense_0/kernel": 512, "Dense_1/kernel": 80})
  assert costs.table == table
  phases, at_updates = [], 0
  for index, (before, after) in enumerate(
    zip(states[:-1], states[1:], strict=True)
  ):
    updated = int(after.opt_state.last_update) == index + 1
    at_updates += updated
    full = {"never": 0, "at updates": int(updated), "every step": 1}
    phases.append(
      flops.Phase(1, forward_macs(before, table), full[dense_gradient])
    )
    now = run_flops.count_step(
      now, before.opt_state, after.opt_state, dense_gradient
    )
    if dense_gradient == "at updates":
      jax.tree.map(np.testing.assert_array_equal, now, by_step[index].counters)
    row = run_flops.record(now, index + 1, costs)
    spent = flops.training(phases, dense=table.dense)
    assert row == {
      "inference_flops": pytest.approx(2 * forward_macs(after, table)),
      "inference_flops_ratio": pytest.approx(
        forward_macs(after, table) / table.dense
      ),
      "training_flops": pytest.approx(2 * chosen.setup.batch_size * spent),
      "training_flops_ratio": pytest.approx(
        spent / (3 * table.dense * (index + 1))
      ),
    }
  assert at_updates == 2
  assert row["inference_flops_ratio"] < 0.4 < row["training_flops_ratio"] < 1


def forward_macs(state, table):
  """Returns the multiply-adds of one example, from the masks."""
  masks = jax.tree.leaves(sparsejax.get_masks(state.opt_state))
  densities = [float(np.asarray(mask).mean()) for mask in masks]
  return np.dot(list(table.kernels.values()), densities)


def test_dispatch_counts_like_its_steps():
  chosen = experiment()
  setup = chosen.setup._replace(dense_gradient="at updates")
  assert setup.dispatch_steps == STEPS
  whole = jax.jit(functools.partial(train_step.run_dispatch, setup))
  state, stacked = whole(first_state(chosen, setup), chosen.dataset.train)
  states, by_step = by_steps()
  # Dispatches of one step have no loop, and train equally.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    state.params,
    states[-1].params,
  )
  for index, one in enumerate(by_step):
    for a, b in zip(one.counters, stacked.counters, strict=True):
      np.testing.assert_array_equal(a, b[index])
  rows = metrics.rows(
    jax.tree.map(np.asarray, stacked)._asdict(), first=0, costs=chosen.costs
  )
  found = sparsejax.summary(
    state.params, state.opt_state, costs=chosen.costs.table
  )
  assert rows[-1]["inference_flops"] == pytest.approx(found.flops)
  assert rows[-1]["training_flops"] > 0


def test_sums_exceed_32_bits():
  chosen = experiment()
  state = first_state(chosen, chosen.setup)
  full = state.counters._replace(
    active_sums=state.counters.active_sums.at[0].set(2**32 - 100),
    active=jnp.array([300, 40], jnp.int32),
  )
  after = run_flops.count_step(full, state.opt_state, state.opt_state, "never")
  assert after.active_sums.tolist() == [
    [[200, 2**32 - 60], [2**32 - 100, 2**32 - 100]],
    [[1, 0], [0, 0]],
  ]
  assert int(after.dense_gradient_steps) == 0
  costs = chosen.costs
  phase = run_flops.training_macs(after, 7, costs)
  total = 512 / 512 * (2**32 + 200) + 80 / 80 * (2**32 - 60)
  assert phase == pytest.approx(3 * total, rel=1e-15)


@pytest.mark.parametrize(
  "method, updates",
  [
    (sparsejax.rigl(0.5, end_step=9, every_steps=3), [1, 5, 9]),
    (
      sparsejax.rigl(0.5, end_step=9, every_steps=3, skip_step_on_update=False),
      [3, 6],
    ),
    (
      sparsejax.optg(0.5, steps_per_epoch=3, epochs=3, score_learning_rate=0.1),
      [4, 7],
    ),
  ],
)
def test_mask_updates_are_counted_in_any_order(method, updates):
  params = {"kernel": jnp.ones((4, 3))}
  tx = sparsejax.sparsify(optax.sgd(0.1), method, key=jax.random.key(0))
  state = tx.init(params)
  update = jax.jit(lambda state: tx.update(params, state, params)[1])
  now, found = run_flops.init(state), []
  for call in range(1, 10):
    new = update(state)
    after = run_flops.count_step(now, state, new, "at updates")
    found += [call] * int(after.dense_gradient_steps - now.dense_gradient_steps)
    state, now = new, after
  assert found == updates


def test_dense_leaf_counts_in_full():
  chosen = experiment("--config.dense=('Dense_1/*',)")
  state = first_state(chosen, chosen.setup)
  state = state._replace(counters=run_flops.init(state.opt_state))
  assert chosen.costs.other_macs == 80
  assert chosen.costs.kernel_macs == (512,)
  zero = state.counters._replace(active=jnp.zeros(1, jnp.int32))
  assert run_flops.record(zero, 1, chosen.costs)["inference_flops"] == 2 * 80


# Label smoothing and the parameter average


def test_label_smoothing_is_that_of_pytorch():
  logits = jnp.array([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]])
  labels = jnp.array([0, 1])
  found = cross_entropy.losses(logits, labels, smoothing=0.3)
  targets = 0.7 * np.eye(3)[[0, 1]] + 0.3 / 3
  shifted = np.exp(np.asarray(logits, np.float64))
  expected = -(targets * np.log(shifted / shifted.sum(1, keepdims=True))).sum(1)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  plain = cross_entropy.losses(logits, labels)
  np.testing.assert_array_equal(
    plain, cross_entropy.losses(logits, labels, smoothing=0.0)
  )


def test_smoothing_applies_in_training_only():
  chosen = experiment(*SMOOTH)
  state = first_state(chosen, chosen.setup)
  _, (smoothed, *_) = by_steps(*SMOOTH)
  _, (bare, *_) = by_steps()
  assert smoothed.loss != bare.loss
  assert smoothed.loss == pytest.approx(bare.loss, rel=0.1)
  batch = jax.tree.map(lambda x: x[:64], chosen.dataset.test)
  counted = jnp.ones(64, bool)
  assert (
    evaluation.sum_batch(chosen.setup, state, batch, counted).loss
    == evaluation.sum_batch(experiment().setup, state, batch, counted).loss
  )


def test_average_is_evaluated_with_the_current_masks():
  chosen = experiment(*SMOOTH)
  setup = chosen.setup
  states, _ = by_steps(*SMOOTH)
  expected = jax.tree.map(np.asarray, states[0].params)
  for state in states[1:]:
    expected = jax.tree.map(
      lambda e, p: 0.9 * e + 0.1 * np.asarray(p), expected, state.params
    )
  last = states[-1]
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7),
    last.average,
    expected,
  )
  with pytest.raises(AssertionError, match="that are not 0"):
    sparsejax.assert_sparse(last.average, last.opt_state)
  masked = sparsejax.apply_masks(last.average, last.opt_state)
  batch = jax.tree.map(lambda x: x[:64], chosen.dataset.test)

  def loss(setup, state):
    counted = jnp.ones(64, bool)
    return evaluation.sum_batch(setup, state, batch, counted).loss

  bare = setup._replace(ema_decay=0.0)
  wanted = loss(bare, last._replace(params=masked))
  assert loss(setup, last) == wanted != loss(bare, last)
  sparsejax.assert_sparse(last.params, last.opt_state)


def test_no_average_without_a_decay():
  chosen = experiment()
  assert first_state(chosen, chosen.setup).average == ()


@pytest.mark.parametrize("key", ["label_smoothing", "ema_decay"])
@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_fractions_out_of_range_are_refused(key, value):
  with pytest.raises(ValueError, match=rf"`config.{key}` must be in \[0, 1\)"):
    experiment(f"--config.{key}={value}")
