"""Connectivity that follows a metric, that moves, and that rewires.

The oracles first, against numbers worked by hand; then the library against the
oracles, as in `test_oracles`.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiers
from helpers.side_by_side import (
  STEPS,
  Case,
  LibraryRun,
  assert_equal,
  check_first_gradients,
  oracle_run,
  random_tree,
  run_side_by_side,
)
from oracles import (
  connectivity,
  distributions,
  growth,
  network,
  ranking,
  redistribution,
  rewiring,
  training,
)

import sparsejax
from sparsejax.components import redistribution as sparse_redistribution
from sparsejax.updates import orders

# The oracles, by hand


@pytest.mark.parametrize("k, p, theta", connectivity.WORKED_SHARES)
def test_tunable_sigmoid(k, p, theta):
  assert connectivity.tunable_sigmoid(p, k) == pytest.approx(theta, abs=1e-15)


@pytest.mark.parametrize(
  "history, theta",
  [
    ([2.0], 1.0),
    ([2.0, 1.0], 0.5),
    ([2.0, 3.0], 1.0),
    ([2.0, 0.0], 0.0),
    ([0.0, 1.0], 1.0),
    ([-1.0, 1.0], 1.0),
    ([math.nan, 1.0], 1.0),
    ([2.0, math.nan], 1.0),
  ],
)
def test_share_by_loss(history, theta):
  assert connectivity.by_loss()(np.float32(history)) == pytest.approx(theta)


@pytest.mark.parametrize(
  "losses, lag, pauses",
  [
    ([4, 3, 2, 9], 3, False),  # The fifth epoch is the first that may pause.
    ([4, 3, 2, 1, 3.5], 3, True),
    ([4, 3, 2, 1, 3], 3, False),
    ([4, 9, 2, 1, 3], 3, False),
    ([1, 3, 5, 5, 5, 5], 5, False),
    ([1, 3, 5, 5, 5, 5, 4], 5, True),
    ([4, math.nan, 2, 1, 9], 3, False),
    ([4, 3, 2, 1, math.nan], 3, False),
  ],
)
def test_pause_gate(losses, lag, pauses):
  losses = np.float32(losses)
  assert connectivity.when_worse(lag, loss=True)(losses) == pauses
  assert connectivity.when_worse(lag, loss=False)(-losses) == pauses


def follow(shape, density, metrics, **rule):
  """Counts of one layer over epochs of one step; its weights never move."""
  key = jax.random.key(0)
  values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  leaves = network.make_leaves({"kernel": values})
  network.sample_initial_masks(leaves, [density], key)
  run = connectivity.UpdateThenStep(
    leaves,
    network.MomentumSGD(learning_rate=0.0, weight_decay=0.0),
    connectivity.evolve_each_epoch(
      steps_per_epoch=1,
      total_steps=len(metrics),
      fraction=0.3,
      grow=growth.at_random(key),
      **rule,
    ),
  )
  counts, masks = [], []
  for metric in metrics:
    run.step([np.zeros(shape, np.float32)], metric)
    counts.append(leaves[0].active)
    masks.append(leaves[0].mask)
  return counts, masks


def test_accset_settles_where_its_recursion_does():
  # n*/gamma = theta / (zeta + theta (1 - zeta)); theta .35, zeta .3: .642202.
  counts, _ = follow(
    (60, 60), 0.5, [0.65] * 30, share=connectivity.by_accuracy()
  )
  assert counts[0] == 1800
  assert counts[-1] / 1800 == pytest.approx(0.642202, rel=0.01)
  # And it recovers: missing weights are counted from the first masks.
  counts, _ = follow(
    (60, 60), 0.5, [0.65] * 30 + [0.0, 0.0], share=connectivity.by_accuracy()
  )
  assert counts[-1] == 1800


def test_set_preserves_its_count_and_a_pause_its_masks():
  losses = [4.0, 3.0, 2.0, 1.0, 0.5, 3.5, 3.6, 0.1, 9.0]
  counts, masks = follow(
    (12, 12),
    0.4,
    losses,
    share=connectivity.regrow_all,
    pauses=connectivity.when_worse(3, loss=True),
  )
  assert counts == [57] * 9
  moved = [(a != b).any() for a, b in itertools.pairwise(masks)]
  # Calls 1 to 8 follow epochs 0 to 7, whose losses they get.
  assert moved == [True, True, True, True, False, False, True, False]


FIGURE = np.array(
  [[1, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]], bool
)


def test_neighbors_of_the_worked_mask():
  counts = growth.neighbor_counts(FIGURE)
  np.testing.assert_array_equal(
    counts,
    [[0, 1, 1, 1, 1], [1, 2, 3, 2, 2], [0, 1, 2, 2, 2], [0, 1, 2, 2, 1]],
  )
  inactive = np.where(FIGURE, 0, counts)
  assert (inactive >= 1).sum() == 14
  assert np.unravel_index(inactive.argmax(), inactive.shape) == (1, 2)


def test_rings_of_the_worked_mask_and_of_a_long_row():
  np.testing.assert_array_equal(
    growth.rings(FIGURE),
    [[0, 8, 8, 8, 8], [8, 8, 8, 0, 8], [7, 8, 0, 0, 8], [7, 8, 8, 8, 8]],
  )
  row = np.zeros((1, 12), bool)
  row[0, 1] = True
  np.testing.assert_array_equal(
    growth.rings(row), [[8, 0, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0]]
  )


def test_planes_of_a_kernel():
  mask = np.random.default_rng(0).random((3, 4, 5, 6)) < 0.3
  io = growth.by_plane(growth.neighbor_counts, mask, "io")
  hw = growth.by_plane(growth.neighbor_counts, mask, "hw")
  flat = growth.by_plane(growth.neighbor_counts, mask, "flat")
  np.testing.assert_array_equal(io[1, 2], growth.neighbor_counts(mask[1, 2]))
  np.testing.assert_array_equal(
    hw[:, :, 3, 4], growth.neighbor_counts(mask[:, :, 3, 4])
  )
  np.testing.assert_array_equal(
    flat.reshape(60, 6), growth.neighbor_counts(mask.reshape(60, 6))
  )


def leaf_of(weights, mask):
  weights = np.array(weights, np.float32)
  [leaf] = network.make_leaves({"kernel": weights})
  leaf.mask = np.array(mask, bool)
  return leaf


def test_selectors_prefer_what_their_names_say():
  leaf = leaf_of(np.ones(FIGURE.shape), FIGURE)
  key = jax.random.key(1)
  most = growth.by_neighbors(key, growth.neighbor_counts)
  assert most(leaf, 1, ~FIGURE, 7)[1, 2]
  one = growth.by_neighbors(key, growth.rings)
  fourteen = one(leaf, 14, ~FIGURE, 7)
  assert not fourteen[2:, 0].any() and fourteen.sum() == 14
  assert one(leaf, 99, ~FIGURE, 7).sum() == 16
  fresh = growth.never_active_first(key)
  mask = FIGURE.copy()
  mask[0, 0] = False  # It was active, so it is last.
  grown = fresh(leaf, 16, ~mask, 7)
  assert grown.sum() == 16 and not grown[0, 0]


def test_shares_of_sparse_momentum():
  values = [0.02, 0.05, 0.03]
  leaves = network.make_leaves(
    {f"{i}": np.ones((2, 2), np.float32) for i in range(3)}
  )
  buffers = {
    i: np.array([[value, -value], [9.0, value]], np.float32)
    for i, value in enumerate(values)
  }
  for leaf in leaves:
    leaf.mask = np.array([[1, 1], [0, 1]], bool)
  shares = redistribution.momentum_shares(leaves, buffers)
  assert shares == pytest.approx([0.2, 0.5, 0.3])
  assert redistribution.share_regrowth(shares, 60, [500] * 3) == [12, 30, 18]
  assert redistribution.momentum_shares(
    leaves, {i: np.zeros((2, 2), np.float32) for i in range(3)}
  ) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
  "shares, total, free, counts",
  [
    # 3.4, 3.3, 3.3 are rounded up to 4, 4, 4: the last two give back.
    ([0.34, 0.33, 0.33], 10, [99] * 3, [4, 3, 3]),
    # 1, 0.3 and 0.1 are 1, 1, 1: the third and the second have 1 to give.
    ([1.0, 0.3, 0.1], 1, [99] * 3, [1, 0, 0]),
    # 50 is capped at 19; 31 are missing: 16 and 15 more.
    ([0.5, 0.3, 0.2], 100, [20, 99, 99], [19, 46, 35]),
    # 8 missing, of which the second can take but 1: the third takes the rest.
    ([0.8, 0.1, 0.1], 20, [9, 4, 30], [8, 3, 9]),
    # Nothing below 0.99 of the free: the last ones are filled, in order.
    ([0.5, 0.5], 11, [6, 6], [6, 5]),
    ([0.5, 0.5], 0, [0, 0], [0, 0]),
  ],
)
def test_all_regrowth_is_placed(shares, total, free, counts):
  assert redistribution.share_regrowth(shares, total, free) == counts


def test_an_important_nearly_dense_layer_is_pruned_gently():
  leaf = leaf_of(np.ones((2, 5)), [[1] * 5, [1, 1, 1, 1, 0]])
  careful = redistribution.careful_fraction
  assert careful(leaf, 0.6, 2, 0.5) == pytest.approx(0.1)
  assert careful(leaf, 0.6, 2, 0.05) == 0.05
  assert careful(leaf, 0.5, 2, 0.5) == 0.5
  leaf.mask[0, 0] = False  # A sparsity of 0.2 is not below 0.2.
  assert careful(leaf, 0.6, 2, 0.5) == 0.5


@pytest.mark.parametrize(
  "survivors, total, free, counts",
  [
    ([100, 300, 600], 60, [999] * 3, [6, 18, 36]),
    ([1, 1, 1], 4, [9] * 3, [2, 1, 1]),
    ([1, 1, 1], 5, [9] * 3, [2, 2, 1]),
    # 36 go to the last, which has room for 6; 30 are split 1 : 3.
    ([100, 300, 600], 60, [999, 999, 6], [14, 40, 6]),
    # 7.5 and 22.5: of equal remainders the first layer gets it.
    ([100, 300, 0], 30, [999] * 3, [8, 22, 0]),
    # No room for all of it.
    ([5, 5], 30, [3, 4], [3, 4]),
  ],
)
def test_growth_in_proportion_to_survivors(survivors, total, free, counts):
  found = redistribution.share_by_survivors(survivors, total, free)
  assert found == counts


def test_threshold_of_dsr_follows_what_was_pruned():
  threshold = redistribution.Threshold()
  for pruned, value in [(110, 1e-3), (111, 5e-4), (90, 5e-4), (89, 1e-3)]:
    threshold.follow(pruned, 100)
    assert threshold.value == np.float32(value)


def test_dsr_never_empties_a_layer_nor_regrows_what_it_pruned():
  weights = np.array([[1e-4, 2e-4, 3e-4], [0, 0, 0]], np.float32)
  leaves = network.make_leaves({"a": weights, "b": np.ones((2, 3)) * 1.0})
  leaves[0].mask = weights > 0
  leaves[1].mask = np.array([[1, 1, 1], [1, 0, 0]], bool)
  [(due, move)] = redistribution.dsr(
    every=2, end_step=4, target=2, key=jax.random.key(0)
  )
  assert [t for t in range(7) if due(t)] == [2, 4]
  move(leaves, None, 2)
  # One of five survivors is in "a": 0.4 and 1.6 of 2.
  assert leaves[0].mask.tolist()[0] == [False, False, True]
  assert [leaf.active for leaf in leaves] == [1, 6]


def test_deep_rewiring_keeps_counts_and_signs():
  values = np.random.default_rng(0)
  tree = {
    name: values.normal(size=(6, 7)).astype(np.float32) for name in ["a", "b"]
  }
  leaves = network.make_leaves(tree)
  network.sample_initial_masks(leaves, [0.5, 0.25], jax.random.key(0))
  run = rewiring.NoisyStepThenRewire(
    leaves,
    network.MomentumSGD(momentum=0.0, weight_decay=0.0),
    alpha=1e-2,
    sigma=1e-2,
    key=jax.random.key(0),
  )
  first = [leaf.mask for leaf in leaves]
  for _ in range(30):
    run.step([values.normal(size=(6, 7)).astype(np.float32) for _ in leaves])
    for leaf in leaves:
      assert (leaf.sparse_weights * run.signs[leaf.index] >= 0).all()
    assert [leaf.active for leaf in leaves] == [21, 10]
  for leaf, mask in zip(leaves, first, strict=True):
    assert (leaf.mask != mask).any()
  for leaf, weights in zip(leaves, tree.values(), strict=True):
    np.testing.assert_array_equal(run.signs[leaf.index], np.sign(weights))


# The library against the oracles

EPOCH = 5  # steps
# Of the epochs; there is none before the first has finished. The
# seventh, eighth and twelfth are worse than three before; one is unknown.
LOSSES = [math.nan, 2.3, 2.0, 1.5, 1.1, 0.9, 0.6, 1.75, 1.2, 0.4, math.nan]
LOSSES += [0.3, 2.9, 0.5, 0.25]


def small_tree(seed):
  """A convolution, dense layers of which one is dead, and a bias.

  Values are on a coarse grid, so that ties are common. Every tree is compiled
  for each method: few leaves keep that short.
  """
  values = np.random.default_rng(seed)

  def grid(*shape):
    return (values.integers(-24, 25, shape) / 32).astype(np.float32)

  return {
    "conv": {"kernel": grid(3, 3, 3, 4)},
    "dead": {"kernel": np.full((6, 5), 0.5, np.float32)},
    "head": {"bias": grid(10), "kernel": grid(12, 10)},
  }


def extra_args(case, call):
  """Returns the extra arguments of a call: the metric, if there is one."""
  if case.method.metric is None:
    return {}
  loss = LOSSES[call // EPOCH]
  return {"metric": loss if case.method.metric == "loss" else 1 - loss}


def er(density):
  return lambda shapes: distributions.erk_densities(
    shapes, density, kernel_dims=False
  )


def by_epsilon(shapes):
  return distributions.epsilon_densities(shapes, 1.5)


def uniform(density):
  return lambda shapes: distributions.uniform_densities(shapes, density)


def erk(density):
  return lambda shapes: distributions.erk_densities(shapes, density)


def evolving(
  key,
  share,
  pauses=connectivity.never,
  grow=growth.at_random,
  restarts=False,
):
  """What the oracle of the SET family does, epoch by epoch."""
  return connectivity.evolve_each_epoch(
    steps_per_epoch=EPOCH,
    total_steps=STEPS,
    fraction=0.3,
    grow=grow(key),
    share=share,
    pauses=pauses,
    restarts=restarts,
  )


def masks_first(name, method, densities, **rule):
  """A method that updates the masks before the first step of an epoch."""
  return Case(
    name,
    method,
    lambda leaves, sgd, key: connectivity.UpdateThenStep(
      leaves, sgd, evolving(key, **rule)
    ),
    densities,
  )


def following(name, method, *, given, **rule):
  """A method that follows a metric, from ER at 70 %."""
  made = method(sparsity=0.7, steps_per_epoch=EPOCH, total_steps=STEPS, **given)
  rule = {"restarts": True, **rule}
  return masks_first(name, made, er(0.3), **rule)


def step_first(name, method, events, densities, changes=5):
  """A method of the usual order; events: key -> what the oracle does."""
  return Case(
    name,
    method,
    lambda leaves, sgd, key: training.StepThenUpdate(leaves, sgd, events(key)),
    densities,
    changes,
  )


ITOP = {"every_steps": EPOCH, "total_steps": STEPS}
SHARES = {
  "every": EPOCH,
  "total_steps": STEPS,
  "first_fraction": 0.5,
  "last_fraction": 0.005,
}


def itop_by_momentum(key):
  momentum = growth.DenseMomentum()
  return [momentum.event, *growth.itop(grow=momentum.grow_by(key), **SHARES)]


def snfs(name, sparsity):
  return Case(
    name,
    sparsejax.snfs(sparsity, **ITOP),
    lambda leaves, sgd, key: training.StepDenseThenUpdate(
      leaves, sgd, redistribution.snfs(key=key, **SHARES)
    ),
    uniform(1 - sparsity),
  )


def snfs_with_own_momentum(name, sparsity, momentum):
  return step_first(
    name,
    sparsejax.snfs(sparsity, momentum=momentum, **ITOP),
    lambda key: redistribution.snfs_with_own_momentum(
      mu=momentum, key=key, **SHARES
    ),
    uniform(1 - sparsity),
  )


def dsr(name, sparsity, *, target, threshold):
  return step_first(
    name,
    sparsejax.dsr(
      sparsity,
      every_steps=EPOCH,
      end_step=60,
      prune_count=target,
      threshold=threshold,
    ),
    lambda key: redistribution.dsr(
      every=EPOCH,
      end_step=60,
      target=target,
      key=key,
      threshold=redistribution.Threshold(threshold),
    ),
    uniform(1 - sparsity),
  )


def set_every_epoch(**given):
  return sparsejax.sparse_evolution(
    epsilon=1.5, every_steps=EPOCH, total_steps=STEPS, **given
  )


CASES = [
  masks_first(
    "accset, bent, epsilon",
    sparsejax.accset(
      k=0.5, epsilon=1.5, steps_per_epoch=EPOCH, total_steps=STEPS
    ),
    by_epsilon,
    share=connectivity.by_accuracy(0.5),
    restarts=True,
  ),
  following(
    "lset, bent, near active",
    sparsejax.lset,
    given={"k": -0.9, "regrow_by": sparsejax.criteria.near_active()},
    share=connectivity.by_loss(-0.9),
    grow=lambda key: growth.by_neighbors(key, growth.rings),
  ),
  following(
    "dynset by accuracy, lag 5",
    sparsejax.dynset,
    given={"drives": "accuracy", "lag": 5},
    share=connectivity.by_accuracy(),
    pauses=connectivity.when_worse(5, loss=False),
  ),
  following(
    "dynset that regrows more",
    sparsejax.dynset,
    given={"connectivity": 1.75, "reset_optimizer": False},
    share=lambda history: 1.75,
    restarts=False,
    pauses=connectivity.when_worse(3, loss=True),
  ),
  masks_first(
    "set, masks first",
    set_every_epoch(masks_first=True),
    by_epsilon,
    share=connectivity.regrow_all,
  ),
  step_first(
    "set that regrows more",
    set_every_epoch(connectivity=2.0),
    lambda key: evolving(key, share=lambda history: 2.0),
    by_epsilon,
  ),
  step_first(
    "set_itop",
    sparsejax.set_itop(0.8, **ITOP),
    lambda key: growth.itop(grow=growth.at_random(key), **SHARES),
    erk(0.2),
  ),
  step_first(
    "set_itop, never active first",
    sparsejax.set_itop(0.8, regrow_by=sparsejax.never_active_first, **ITOP),
    lambda key: growth.itop(grow=growth.never_active_first(key), **SHARES),
    erk(0.2),
  ),
  step_first(
    "set_itop by momentum",
    sparsejax.set_itop(0.8, regrow_by=sparsejax.momentum, **ITOP),
    itop_by_momentum,
    erk(0.2),
  ),
  snfs("snfs", 0.6),
  snfs("snfs, nearly dense", 0.05),
  snfs_with_own_momentum("snfs, own momentum", 0.6, 0.8),
  dsr("dsr", 0.7, target=20, threshold=1e-2),
  dsr("dsr, nearly dense", 0.1, target=60, threshold=1e-1),
]
ALWAYS = ("accset, bent, epsilon", "snfs")
FIRST_GRADIENTS_ALWAYS = ("set, masks first",)


def restarts_at(calls):
  """Compares all bits, except where a weight may be pruned and regrown at once.

  What is added to such a weight w, to bring it to its first step u from 0, is
  `u - w`; the sum may differ from u in the last bit of w. After these calls
  values are compared to rounding, and the oracle continues with the library's.
  """

  def compare(oracle, library):
    sparse_weights = library.sparse_weights
    for leaf in oracle.leaves:
      if oracle.t - 1 in calls and leaf.mask is not None:
        found = sparse_weights[leaf.name]
        np.testing.assert_allclose(
          found, leaf.sparse_weights, rtol=0, atol=2e-7
        )
        leaf.weights = np.where(leaf.mask, found, leaf.weights)
    assert_equal(oracle, library)

  return compare


@pytest.mark.parametrize(
  "case",
  tiers.some(CASES, lambda case: case.name in ALWAYS),
  ids=[case.name for case in CASES],
)
def test_masks_weights_and_momentum_equal_the_oracle(case):
  seed = CASES.index(case)
  tree, key = small_tree(seed), jax.random.key(seed)
  updates_first = case.method.order is orders.update_then_step
  changed = run_side_by_side(
    oracle_run(case, tree, key),
    LibraryRun(case, tree, key),
    seed,
    compare=restarts_at(range(0, STEPS, EPOCH))
    if updates_first
    else assert_equal,
    extra=lambda call: extra_args(case, call),
  )
  assert len(changed) >= case.changes
  if updates_first:
    assert all(call % EPOCH == 0 for call in changed)


@pytest.mark.parametrize(
  "case",
  tiers.some(
    [case for case in CASES if orders.between_steps(case.method)],
    lambda case: case.name in FIRST_GRADIENTS_ALWAYS,
  ),
  ids=lambda case: case.name,
)
def test_the_first_gradient_of_an_epoch_is_taken_at_its_masks(case):
  # Every bit: what regrows is at 0 before the step, so nothing is subtracted.
  seed = CASES.index(case)
  check_first_gradients(
    case,
    small_tree(seed),
    seed,
    EPOCH,
    extra=lambda call: extra_args(case, call),
  )


def test_deep_rewiring_equals_the_oracle_to_rounding():
  # How the compiler rounds a normal number, and noise and gradient together,
  # depends on the kernel; the oracle continues with the library's values.
  case = Case(
    "deep_r",
    sparsejax.deep_r(0.8, penalty=0.01, noise=0.03),
    lambda leaves, sgd, key: rewiring.NoisyStepThenRewire(
      leaves, sgd, alpha=0.01, sigma=0.03, key=key
    ),
    erk(0.2),
  )

  def compare(oracle, library):
    assert_equal(oracle, library, rtol=1e-6, atol=1e-6)
    sparse_weights, trace = library.sparse_weights, library.inner_value("trace")
    for leaf in oracle.leaves:
      leaf.weights = sparse_weights[leaf.name]
      leaf.inner_state["trace"] = trace[leaf.name]

  tree, key = small_tree(5), jax.random.key(5)
  changed = run_side_by_side(
    oracle_run(case, tree, key), LibraryRun(case, tree, key), 5, compare=compare
  )
  assert len(changed) > 30


def test_dynset_pauses_and_waits_for_finite_gradients():
  case = following(
    "dynset by loss",
    sparsejax.dynset,
    given={},
    share=connectivity.by_loss(),
    pauses=connectivity.when_worse(3, loss=True),
  )
  tree, key = random_tree(3), jax.random.key(3)

  def spoil(call, gradients, masks):
    if call in (10, 11):
      name = "conv-1/kernel"
      inactive = tuple(np.argwhere(~masks[name])[0])
      gradients[name][inactive] = np.nan

  updates = [5, 12, *range(15, STEPS, EPOCH)]
  changed = run_side_by_side(
    oracle_run(case, tree, key),
    LibraryRun(case, tree, key),
    3,
    spoil,
    compare=restarts_at(updates),
    extra=lambda call: extra_args(case, call),
  )
  # Then the losses of the seventh, eighth and twelfth epoch are worse.
  assert changed == [call for call in updates if call not in (35, 40, 60)]


def test_sparse_momentum_is_careful_below_a_fifth_and_not_at_it():
  values = np.random.default_rng(0)
  tree = {
    f"{i}": values.normal(size=shape).astype(np.float32)
    for i, shape in enumerate([(4, 5), (5, 6), (5, 8)])
  }
  case, key = snfs("snfs at a fifth", 0.2), jax.random.key(4)
  library = LibraryRun(case, tree, key)
  assert [int(mask.sum()) for mask in library.masks.values()] == [16, 24, 32]
  changed = run_side_by_side(oracle_run(case, tree, key), library, 4)
  assert len(changed) >= case.changes


@pytest.mark.parametrize("plane", ["out", "hw", "flat"])
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (9, 11)])
def test_neighbors_rank_as_in_the_oracle(plane, shape):
  mask = np.random.default_rng(1).random(shape) < 0.06
  bits = ranking.random_bits(jax.random.key(6), 7, 2, ranking.REGROW, shape)
  key = jax.random.key(6)
  for number in (7, 2, ranking.REGROW):
    key = jax.random.fold_in(key, number)
  weights = jnp.zeros(shape)
  leaf = sparsejax.Leaf(weights, weights, jnp.asarray(mask), {}, key)
  for criterion, function in [
    (sparsejax.criteria.near_active, growth.rings),
    (sparsejax.criteria.most_active_neighbors, growth.neighbor_counts),
  ]:
    ranks = growth.neighbor_ranks(
      mask, function, {"out": "io"}.get(plane, plane), bits
    )
    found = np.asarray(criterion(plane)(leaf))
    np.testing.assert_array_equal(found[~mask], ranks[~mask])


@pytest.mark.parametrize("layers", [1, 3, 7])
def test_regrowth_is_shared_as_in_the_oracle(layers):
  values = np.random.default_rng(layers)
  shared = jax.jit(sparse_redistribution.by_shares)
  split = jax.jit(sparse_redistribution.in_proportion)
  for _ in range(200):
    free = values.integers(0, values.choice([3, 10, 1000]), layers)
    total = int(values.integers(0, free.sum() + 3))
    survivors = values.integers(0, values.choice([2, 10, 1000]), layers)
    means = values.random(layers) ** values.choice([0.5, 4, 20])
    shares = means / means.sum()
    with jax.enable_x64(True):
      exact = jnp.asarray(shares, jnp.float64)
    limits, requested = jnp.asarray(free, jnp.int32), jnp.int32(total)
    assert shared(exact, requested, limits).tolist() == (
      redistribution.share_regrowth(shares.tolist(), total, free.tolist())
    )
    left = jnp.asarray(survivors, jnp.int32)
    assert split(left, requested, limits).tolist() == (
      redistribution.share_by_survivors(
        survivors.tolist(), total, free.tolist()
      )
    )


@tiers.SLOW
def test_accset_settles_where_its_recursion_does_in_the_library():
  # Biases and the output layer are dense, as in the papers' network.
  params = {
    "hidden": {"kernel": jax.random.normal(jax.random.key(1), (80, 60))},
    "output": {"kernel": jax.random.normal(jax.random.key(2), (60, 10))},
  }
  tx = sparsejax.sparsify(
    optax.sgd(0.01, momentum=0.9),
    sparsejax.accset(sparsity=0.6, steps_per_epoch=2, total_steps=60),
    key=jax.random.key(0),
    overrides={"output/*": "dense"},
  )
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  first = int(state.masks["hidden"]["kernel"].sum())
  assert first == 1920

  @jax.jit
  def step(params, state, key):
    grads = jax.tree.map(lambda p: p + jax.random.normal(key, p.shape), params)
    updates, state = tx.update(grads, state, params, metric=jnp.float32(0.65))
    return optax.apply_updates(params, updates), state

  for key in jax.random.split(jax.random.key(3), 60):
    params, state = step(params, state, key)
  last = int(state.masks["hidden"]["kernel"].sum())
  assert last / first == pytest.approx(0.642202, rel=0.01)
  sparsejax.assert_sparse(params, state)
