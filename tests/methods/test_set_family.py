"""Connectivity that follows a metric or moves: worked numbers and rules."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiers
from oracles.connectivity import WORKED_SHARES

import sparsejax
from sparsejax import methods
from sparsejax.components import accumulators, connectivity, redistribution
from sparsejax.method import Context, Layout, SparseLeaf

FIGURE = np.array(
  [[1, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]], bool
)


def context(metric=None, **accumulated):
  """A mask update of a network of one layer."""
  layout = Layout((SparseLeaf(0, "kernel", (10, 10)),))
  return Context(layout, (), jnp.int32(0), None, metric, accumulated)


@pytest.mark.parametrize("k, p, theta", WORKED_SHARES)
def test_share_by_accuracy(k, p, theta):
  with jax.enable_x64(True):
    share = connectivity.by_accuracy(k).fraction(context(jnp.float32(p)))
  assert share.dtype == np.float64
  assert float(share) == pytest.approx(theta, abs=1e-7)


@pytest.mark.parametrize(
  "losses, share",
  [
    ([2.0], 1.0),  # The first epoch is the reference.
    ([2.0, 1.0], 0.5),
    ([2.0, 3.0], 1.0),
    ([2.0, 0.0], 0.0),
    ([0.0, 1.0], 1.0),
    ([-1.0, 1.0], 1.0),
    ([math.nan, 1.0], 1.0),
    ([2.0, math.nan], 1.0),
  ],
)
def test_share_by_loss(losses, share):
  history = accumulators.metric_history(3)
  known = history.init(context())
  for loss in losses[:-1]:
    known = known.with_metric(jnp.float32(loss))
  with jax.enable_x64(True):
    found = connectivity.by_loss(history).fraction(
      context(jnp.float32(losses[-1]), metric_history=known)
    )
  assert float(found) == pytest.approx(share)


@pytest.mark.parametrize(
  "losses, lag, pauses",
  [
    ([4, 3, 2, 9], 3, False),  # The fifth epoch is the first that may pause.
    ([4, 3, 2, 1, 3.5], 3, True),
    ([4, 3, 2, 1, 3], 3, False),
    ([1, 3, 5, 5, 5, 5], 5, False),
    ([1, 3, 5, 5, 5, 5, 4], 5, True),
    ([4, math.nan, 2, 1, 9], 3, False),
    ([4, 3, 2, 1, math.nan], 3, False),
  ],
)
def test_gate(losses, lag, pauses):
  for sign in (1, -1):
    history = accumulators.metric_history(lag)
    known = history.init(context())
    for loss in losses[:-1]:
      known = known.with_metric(jnp.float32(sign * loss))
    gate = connectivity.pause_when_worse(
      history, lag, higher_is_better=sign < 0
    )
    now = jnp.float32(sign * losses[-1])
    assert bool(gate.opens(context(now, metric_history=known))) != pauses


@pytest.mark.parametrize(
  "share, first, active, lost, gained",
  [
    (0.35, 60, 40, 12, 12),  # ceil(0.35 x 32) = ceil(11.2)
    (0.5, 60, 60, 18, 9),
    (0.55, 100, 100, 100, 55),  # 55.00000000000001
    (2.0, 60, 60, 18, 36),
    (1.0, 30, 60, 18, 0),  # It has more than at first: nothing is regrown.
  ],
)
def test_regrowth_is_relative_to_the_first_count(
  share, first, active, lost, gained
):
  regrow = connectivity.towards_first_count(connectivity.constant(share))
  found = regrow(
    context(first_counts=jnp.array([first], jnp.int32)),
    jnp.array([active], jnp.int32),
    jnp.array([lost], jnp.int32),
  )
  assert found.dtype == jnp.int32
  # Prune-and-regrow clips counts at 0.
  assert max(int(found[0]), 0) == gained


def counts_of_layers(method, size, metrics, *, steps_per_epoch=1):
  """Active weights after every step, of one layer whose weights never move."""
  params = {
    "kernel": jnp.asarray(
      np.random.default_rng(0).normal(size=(size, size)), jnp.float32
    )
  }
  tx = sparsejax.sparsify(optax.sgd(0.0), method, key=jax.random.key(0))
  update, state, counts = jax.jit(tx.update), tx.init(params), []
  params = sparsejax.apply_masks(params, state)
  for step in range(steps_per_epoch * len(metrics)):
    updates, state = update(
      jax.tree.map(jnp.zeros_like, params),
      state,
      params,
      metric=metrics[step // steps_per_epoch],
    )
    params = optax.apply_updates(params, updates)
    counts.append(int(state.masks["kernel"].sum()))
  return counts


def test_accset_settles_where_its_recursion_does_and_recovers():
  epochs = 33
  method = sparsejax.accset(
    sparsity=0.5, steps_per_epoch=2, total_steps=2 * epochs
  )
  counts = counts_of_layers(
    method, 60, [0.65] * 30 + [0.0] * 3, steps_per_epoch=2
  )
  assert counts[:2] == [1800, 1800]
  # theta / (zeta + theta (1 - zeta)) = 0.642202 at theta 0.35, zeta 0.3
  assert counts[59] / 1800 == pytest.approx(0.642202, rel=0.01)
  assert counts[-1] == 1800


@pytest.mark.parametrize(
  "share, settled", tiers.every(2, [(2.0, 2 / 1.7), (1.0, 1.0)])
)
def test_set_with_another_connectivity_settles(share, settled):
  method = sparsejax.sparse_evolution(
    sparsity=0.5, every_steps=1, total_steps=40, connectivity=share
  )
  counts = counts_of_layers(method, 60, [0.0] * 40)
  assert counts[-1] / 1800 == pytest.approx(settled, rel=0.01)


@pytest.mark.parametrize(
  "most, accuracy, settled",
  tiers.every(
    2,
    [
      (2.0, 0.35, 1.3 / (0.3 + 1.3 * 0.7)),  # It grows beyond its first count,
      (2.0, 0.5, 1.0),  # returns to it,
      (2.0, 0.9, 0.2 / (0.3 + 0.2 * 0.7)),  # and shrinks below.
      (0.5, 0.0, 0.5 / (0.3 + 0.5 * 0.7)),
    ],
  ),
)
def test_most_scales_what_follows_the_metric(most, accuracy, settled):
  method = sparsejax.accset(
    sparsity=0.5, steps_per_epoch=1, total_steps=40, most=most
  )
  counts = counts_of_layers(method, 60, [accuracy] * 40)
  assert counts[-1] / 1800 == pytest.approx(settled, rel=0.01)


def test_the_last_epoch_may_end_with_a_removal():
  given = {"sparsity": 0.5, "every_steps": 1, "total_steps": 4}
  method = sparsejax.sparse_evolution(
    **given, by_sign=False, regrow_fraction=0.3, prune_last=True
  )
  assert counts_of_layers(method, 10, [0.0] * 4) == [50, 50, 50, 35]
  assert method.target_sparsity is None
  method = sparsejax.sparse_evolution(**given, by_sign=False)
  assert counts_of_layers(method, 10, [0.0] * 4) == [50] * 4
  method = sparsejax.accset(
    sparsity=0.5,
    steps_per_epoch=1,
    total_steps=4,
    by_sign=False,
    prune_last=True,
  )
  params = {"kernel": jnp.ones((10, 10))}
  tx = sparsejax.sparsify(optax.sgd(0.0), method, key=jax.random.key(0))
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  for step in range(5):
    params, state = tx.update_masks(params, state, metric=0.0)
    sparsejax.assert_sparse(params, state)
    if step < 4:
      updates, state = tx.update(params, state, params, metric=0.0)
      params = optax.apply_updates(params, updates)
  assert int(state.masks["kernel"].sum()) == 35


@pytest.mark.parametrize("restarts", [True, False])
def test_methods_that_follow_a_metric_restart_momentum(restarts):
  changes = {} if restarts else {"reset_optimizer": False}
  method = sparsejax.accset(
    sparsity=0.5, steps_per_epoch=2, total_steps=6, **changes
  )
  params = {"kernel": jnp.ones((10, 10))}
  tx = sparsejax.sparsify(
    optax.sgd(0.1, momentum=0.9), method, key=jax.random.key(0)
  )
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  for _ in range(2):
    updates, state = tx.update(params, state, params, metric=0.5)
    params = optax.apply_updates(params, updates)
  _, state = tx.update_masks(params, state, metric=0.5)
  momentum = optax.tree.get(state, "trace")["kernel"]
  assert bool((momentum != 0).any()) != restarts


def test_a_connectivity_above_the_free_positions_fills_the_layer():
  method = sparsejax.sparse_evolution(
    sparsity=0.1, every_steps=1, total_steps=40, connectivity=1e12
  )
  assert counts_of_layers(method, 10, [0.0] * 5)[-1] == 100


def test_metric_is_required_by_methods_that_follow_one():
  for method, kind in (
    (sparsejax.accset(sparsity=0.5, steps_per_epoch=2, total_steps=8), "acc"),
    (sparsejax.lset(sparsity=0.5, steps_per_epoch=2, total_steps=8), "loss"),
  ):
    tx = sparsejax.sparsify(optax.sgd(0.1), method, key=jax.random.key(0))
    params = {"kernel": jnp.ones((4, 4))}
    state = tx.init(params)
    with pytest.raises(ValueError, match=rf"`metric` must .* the {kind}"):
      tx.update(params, state, params)


def test_other_methods_accept_metric_and_pass_value_on():
  inner = optax.chain(
    optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1, cooldown=0)
  )
  method = sparsejax.lset(sparsity=0.5, steps_per_epoch=2, total_steps=8)
  for chosen in (sparsejax.static(0.5), method):
    tx = sparsejax.sparsify(inner, chosen, key=jax.random.key(0))
    params = {"kernel": jnp.ones((4, 4))}
    state = tx.init(params)
    for _ in range(4):
      _, state = tx.update(params, state, params, metric=2, value=1.0)
    scale = optax.tree.get(state.inner_state, "scale")
    assert float(scale) < 1  # `value` did not fall, and reached the inner one.


@pytest.mark.parametrize(
  "change, message",
  [
    ({"k": 1.0}, r"`k` must be in \(-1, 1\), got 1.0"),
    ({"drives": "speed"}, "`drives` must be 'loss' or 'accuracy', got 'speed'"),
    ({"lag": 0}, "`lag` must be a whole number of epochs, at least 1, got 0"),
    ({"connectivity": -0.5}, "`connectivity` must be at least 0"),
    ({"most": 0.0}, "`most` must be above 0 and finite, got 0.0"),
    ({"epsilon": 2.0}, "not both"),
    ({"steps_per_epoch": 0}, "`every_steps` must be a whole number"),
  ],
)
def test_what_dynset_refuses(change, message):
  given = {"sparsity": 0.5, "steps_per_epoch": 2, "total_steps": 8} | change
  with pytest.raises(ValueError, match=message):
    sparsejax.dynset(**given)


@pytest.mark.parametrize(
  "method, change, message",
  [
    (sparsejax.dsr, {"prune_count": 0}, "`prune_count` must be a whole number"),
    (sparsejax.dsr, {"threshold": 0.0}, "`threshold` must be above 0"),
    (sparsejax.deep_r, {"noise": -1.0}, "`noise` must be at least 0"),
  ],
)
def test_what_others_refuse(method, change, message):
  usual = {"every_steps": 2, "end_step": 8, "prune_count": 5}
  given = change if method is sparsejax.deep_r else usual | change
  with pytest.raises(ValueError, match=message):
    method(0.5, **given)


# Neighbors


def test_neighbors_of_the_worked_mask():
  counts = sparsejax.criteria.active_neighbors(jnp.asarray(FIGURE))
  np.testing.assert_array_equal(
    counts,
    [[0, 1, 1, 1, 1], [1, 2, 3, 2, 2], [0, 1, 2, 2, 2], [0, 1, 2, 2, 1]],
  )
  inactive = np.where(FIGURE, 0, counts)
  assert (inactive >= 1).sum() == 14
  assert np.unravel_index(inactive.argmax(), inactive.shape) == (1, 2)


def test_planes_of_a_kernel():
  mask = np.random.default_rng(0).random((3, 4, 5, 6)) < 0.3
  count = sparsejax.criteria.active_neighbors
  out, hw, flat = (count(jnp.asarray(mask), x) for x in ("out", "hw", "flat"))
  np.testing.assert_array_equal(out[1, 2], count(jnp.asarray(mask[1, 2])))
  np.testing.assert_array_equal(
    hw[:, :, 3, 4], count(jnp.asarray(mask[:, :, 3, 4]))
  )
  np.testing.assert_array_equal(
    flat.reshape(60, 6), count(jnp.asarray(mask.reshape(60, 6)))
  )


UPDATES = [
  lambda by: sparsejax.rigl(0.8, end_step=9, every_steps=2, regrow_by=by),
  lambda by: sparsejax.granet(
    0.8, end_step=6, every_steps=2, total_steps=9, regrow_by=by
  ),
  lambda by: sparsejax.dynset(
    sparsity=0.8, steps_per_epoch=2, total_steps=9, regrow_by=by
  ),
]


@pytest.mark.parametrize(
  "make, name",
  [
    pytest.param(UPDATES[i % 3], name, id=name, marks=tiers.SLOW if i else ())
    for i, name in enumerate(methods.REGROW_BY)
  ],
)
def test_prune_and_regrow_takes_any_criterion(make, name):
  inner = optax.sgd(0.1, momentum=0.9)  # One criterion reads it.
  method = make(methods.REGROW_BY[name])
  tx = sparsejax.sparsify(inner, method, key=jax.random.key(0))
  random_tree = lambda i: {  # noqa: E731
    "kernel": jax.random.normal(jax.random.key(i), (3, 3, 4, 6))
  }
  params = random_tree(0)
  state = tx.init(params)
  params, first = sparsejax.apply_masks(params, state), state.masks["kernel"]
  update = jax.jit(tx.update)
  for i in range(1, 6):
    updates, state = update(random_tree(i), state, params, metric=1 / i)
    params = optax.apply_updates(params, updates)
    sparsejax.assert_sparse(params, state)
    counted = sparsejax.summary(params, state)
    assert counted.active == counted.requested
  assert (state.masks["kernel"] != first).any()


def test_most_active_neighbors_regrows_among_the_most():
  method = sparsejax.set_itop(
    0.5,
    every_steps=1,
    total_steps=2,
    regrow_by=sparsejax.criteria.most_active_neighbors(),
  )
  mask = np.zeros((9, 9), bool)
  mask[2:5, 2:5] = True
  mask[3, 3] = False  # Its eight neighbors are active.
  mask[8, 8] = True  # It leaves.
  params = {"kernel": jnp.where(mask, 1.0, 0.0).at[8, 8].set(0.5)}
  tx = sparsejax.sparsify(
    optax.sgd(0.0), method, key=jax.random.key(0), masks={"kernel": mask}
  )
  # The share falls to 0.005 at the last step: one weight.
  state = tx.init(params)._replace(step=jnp.int32(1))
  _, state = tx.update(params, state, params)
  new = np.asarray(state.masks["kernel"])
  assert new[3, 3] and not new[8, 8] and new.sum() == 9


def test_a_criterion_adds_the_accumulator_that_it_reads():
  speed = accumulators.gradient_trace("speed", 0.5)
  method = sparsejax.set_itop(
    0.5,
    every_steps=1,
    total_steps=4,
    regrow_by=sparsejax.criteria.accumulated_magnitude(speed),
  )
  tx = sparsejax.sparsify(optax.sgd(0.1), method, key=jax.random.key(0))
  params = {"kernel": jnp.ones((4, 4))}
  _, state = tx.update(params, tx.init(params), params)
  assert set(state.accumulators) == {"ever_active", "speed"}
  assert (state.accumulators["speed"]["kernel"] == 1).all()


def test_two_accumulators_of_one_name_are_refused():
  one, two = (accumulators.gradient_trace("speed", x) for x in (0.5, 0.9))
  with pytest.raises(ValueError, match="must have different names"):
    sparsejax.set_itop(
      0.5,
      every_steps=1,
      total_steps=4,
      regrow_by=sparsejax.Criterion(
        lambda leaf: one.of(leaf) + two.of(leaf), reads=(one, two)
      ),
    )


# Redistribution


@pytest.mark.parametrize(
  "shares, total, free, counts",
  [
    ([0.2, 0.5, 0.3], 60, [500] * 3, [12, 30, 18]),
    ([0.34, 0.33, 0.33], 10, [99] * 3, [4, 3, 3]),
    ([1.0, 0.3, 0.1], 1, [99] * 3, [1, 0, 0]),
    ([0.5, 0.3, 0.2], 100, [20, 99, 99], [19, 46, 35]),
    ([0.8, 0.1, 0.1], 20, [9, 4, 30], [8, 3, 9]),
    ([0.5, 0.5], 11, [6, 6], [6, 5]),
    ([0.5, 0.5], 0, [0, 0], [0, 0]),
    ([0.5, 0.5], 2**31 - 2, [2**31 - 1] * 2, [2**30 - 1] * 2),
  ],
)
def test_all_regrowth_is_placed(shares, total, free, counts):
  with jax.enable_x64(True):
    exact = jnp.asarray(shares, jnp.float64)
  found = redistribution.by_shares(
    exact, jnp.int32(total), jnp.asarray(free, jnp.int32)
  )
  assert found.dtype == jnp.int32 and found.tolist() == counts


@pytest.mark.parametrize(
  "survivors, total, free, counts",
  [
    ([100, 300, 600], 60, [999] * 3, [6, 18, 36]),
    ([1, 1, 1], 4, [9] * 3, [2, 1, 1]),
    ([100, 300, 600], 60, [999, 999, 6], [14, 40, 6]),
    ([100, 300, 0], 30, [999] * 3, [8, 22, 0]),
    ([5, 5], 30, [3, 4], [3, 4]),
    ([1, 1, 1], 5, [0, 9, 9], [0, 3, 2]),
    ([0, 0], 3, [4, 4], [0, 0]),
    ([2**30, 2**30 - 1], 2**30, [2**30] * 2, [2**29, 2**29]),
  ],
)
def test_growth_in_proportion_to_survivors(survivors, total, free, counts):
  found = redistribution.in_proportion(
    jnp.asarray(survivors, jnp.int32),
    jnp.int32(total),
    jnp.asarray(free, jnp.int32),
  )
  assert found.dtype == jnp.int32 and found.tolist() == counts


def test_the_threshold_of_dsr_follows_what_was_pruned():
  limit = accumulators.adaptive_threshold(1e-3, 100)
  threshold = limit.init(context())
  for pruned, value in [(110, 1e-3), (111, 5e-4), (90, 5e-4), (89, 1e-3)]:
    counts = jnp.array([pruned - 40, 40], jnp.int32)
    threshold = limit.after_update(threshold, context(), counts)
    assert float(threshold) == np.float32(value)
