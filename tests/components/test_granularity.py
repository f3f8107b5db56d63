"""Filters, blocks, N:M and minima: worked numbers, counts, coupled channels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiers
from hypothesis import given, settings, strategies as st
from oracles import structured

import sparsejax
from sparsejax.analysis.coupling import coupling
from sparsejax.components import ranking
from sparsejax.state import unit_masks

WHOLE = sparsejax.layerwise(sparsejax.uniform_whole)
RUN = {"every_steps": 2, "total_steps": 8}


def random_tree(shapes, seed):
  rng = np.random.default_rng(seed)
  return {
    name: {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32)}
    for name, shape in shapes.items()
  }


def train(method, shapes, steps=8, seed=0, jit=True, params=None):
  """Trains on random gradients; returns the parameters and the state."""
  tx = sparsejax.sparsify(
    optax.sgd(0.1, momentum=0.9), method, key=jax.random.key(seed)
  )
  params = random_tree(shapes, seed) if params is None else params
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  update = jax.jit(tx.update) if jit else tx.update
  for step in range(steps):
    rng = np.random.default_rng([seed, step])
    grads = jax.tree.map(
      lambda x, rng=rng: jnp.asarray(rng.normal(size=x.shape), x.dtype), params
    )
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    sparsejax.assert_sparse(params, state)
  return params, state


def masks_of(state):
  return {name: np.asarray(x["kernel"]) for name, x in state.masks.items()}


# Worked numbers


FILTERS = {"a": (3, 3, 3, 16), "b": (3, 3, 16, 32), "c": (3, 3, 32, 64)}


@pytest.mark.parametrize(
  ("sparsity", "pruned"),
  [(0.1, [1, 3, 6]), (0.5, [8, 16, 32]), (0.7, [11, 22, 44])],
)
def test_random_filters_of_layers_with_16_32_and_64(sparsity, pruned):
  method = sparsejax.static(
    sparsity,
    distribution=sparsejax.uniform_whole,
    granularity=sparsejax.filters(),
  )
  _, state = train(method, FILTERS, steps=0)
  inactive = [
    int((~mask.any(axis=(0, 1, 2))).sum()) for mask in masks_of(state).values()
  ]
  assert inactive == pruned
  whole = [mask.all(axis=(0, 1, 2)).sum() for mask in masks_of(state).values()]
  assert [16, 32, 64] == [n + k for n, k in zip(whole, pruned, strict=True)]


def test_filters_are_pruned_by_their_l1_norm():
  # Norms 4, 2, 3 and 1; the largest single weight is in the last filter but
  # one.
  kernel = jnp.asarray([[2.0, 1, 0, -1], [-2, 1, 3, 0]])
  method = sparsejax.one_shot(0.5, at_step=1, granularity=sparsejax.filters())
  tx = sparsejax.sparsify(optax.sgd(0.0), method)
  params = {"kernel": kernel}
  _, state = tx.update(params, tx.init(params), params)
  assert state.masks["kernel"].tolist() == [[True, False, True, False]] * 2
  assert state.requested.tolist() == [0, 2]


def test_filters_are_regrown_by_the_sum_of_their_gradients():
  # RigL swaps one of two active filters: norms 1 and 5, sums of gradients
  # 1, 0, 6 and 8 although the largest single one is in the third.
  kernel = jnp.asarray([[1.0, 3, 0, 0], [0, 2, 0, 0]])
  gradient = jnp.asarray([[1.0, 0, 6, 4], [0, 0, 0, -4]])
  method = sparsejax.rigl(
    0.5,
    end_step=10,
    every_steps=5,
    regrow_fraction=0.5,
    granularity=sparsejax.filters(),
  )
  masks = {"kernel": kernel != 0}
  masks["kernel"] = jnp.broadcast_to(masks["kernel"].any(axis=0), (2, 4))
  tx = sparsejax.sparsify(
    optax.sgd(0.0), method, key=jax.random.key(0), masks=masks
  )
  params = {"kernel": kernel}
  updates, state = tx.update({"kernel": gradient}, tx.init(params), params)
  params = optax.apply_updates(params, updates)
  assert state.masks["kernel"].tolist() == [[False, True, False, True]] * 2
  assert params["kernel"].tolist() == [[0, 3, 0, 0], [0, 2, 0, 0]]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.7])
def test_one_prune_and_one_regeneration_equal_the_oracle(rate):
  params, grads = random_tree(FILTERS, 1), random_tree(FILTERS, 2)
  method = sparsejax.one_shot(
    rate, at_step=1, scope=WHOLE, granularity=sparsejax.filters()
  )
  tx = sparsejax.sparsify(optax.sgd(0.0), method)
  _, state = tx.update(grads, tx.init(params), params)
  for name, mask in masks_of(state).items():
    weights = np.asarray(params[name]["kernel"])
    active = np.ones(weights.shape[-1], bool)
    left = structured.prune_filters(weights, active, rate)
    np.testing.assert_array_equal(mask, np.broadcast_to(left, mask.shape))
    gradient = np.asarray(grads[name]["kernel"])
    grown = structured.regrow_filters(gradient, left, int((~left).sum()))
    assert (left | grown).all()


def test_two_of_four():
  kernel = jnp.asarray([[0.1, 0.5], [-0.4, 0.5], [0.3, -0.5], [0.2, 0.1]])
  method = sparsejax.one_shot(
    0.5, at_step=1, granularity=sparsejax.n_of_m(2, 4)
  )
  tx = sparsejax.sparsify(optax.sgd(0.0), method)
  params = {"kernel": kernel}
  _, state = tx.update(params, tx.init(params), params)
  assert state.masks["kernel"].T.astype(int).tolist() == [
    [0, 1, 1, 0],
    [1, 1, 0, 0],
  ]


# Laws


def methods_of(granularity, sparsity):
  """Every method that takes a granularity, by name."""
  more = {"granularity": granularity}
  return {
    "static": sparsejax.static(sparsity, **more),
    "one_shot": sparsejax.one_shot(sparsity, at_step=3, **more),
    "gmp": sparsejax.gmp(sparsity, end_step=6, every_steps=2, **more),
    "gmp_kept": sparsejax.gmp(
      sparsity, end_step=6, every_steps=2, storage=sparsejax.kept, **more
    ),
    "granet": sparsejax.granet(sparsity, end_step=6, **RUN, **more),
    "rigl": sparsejax.rigl(sparsity, end_step=8, every_steps=2, **more),
    "rigl_itop": sparsejax.rigl_itop(sparsity, **RUN, **more),
    "set": sparsejax.sparse_evolution(sparsity=sparsity, **RUN, **more),
  }


NAMES = tuple(methods_of(sparsejax.filters(), 0.5))
SHAPES = {"conv": (3, 2, 8, 6), "dense": (12, 10), "odd": (7, 5)}


def check_filters(mask):
  flat = mask.reshape(-1, mask.shape[-1])
  assert (flat.all(axis=0) | ~flat.any(axis=0)).all()


def check_blocks(mask, height, width):
  for tap in mask.reshape(-1, *mask.shape[-2:]):
    for i in range(0, tap.shape[0], height):
      for j in range(0, tap.shape[1], width):
        block = tap[i : i + height, j : j + width]
        assert block.all() or not block.any()


def check_cells(mask, n, m):
  for at in structured.cells(mask.shape, m) or ():
    assert mask[at].sum() == n
  if mask.shape[-2] % m:
    assert mask.all()


def check_lines(mask, rows, columns):
  assert mask.reshape(-1, mask.shape[-1]).sum(axis=0).min() >= columns
  by_row = np.moveaxis(mask, -2, 0).reshape(mask.shape[-2], -1)
  assert by_row.sum(axis=1).min() >= rows


GRANULARITIES = {
  "filters": (sparsejax.filters(), 0.5, check_filters),
  "blocks": (
    sparsejax.blocks(4, 3),
    0.6,
    functools.partial(check_blocks, height=4, width=3),
  ),
  "n_of_m": (
    sparsejax.n_of_m(1, 4),
    0.75,
    functools.partial(check_cells, n=1, m=4),
  ),
  "at_least": (
    sparsejax.at_least(rows=1, columns=2),
    0.6,
    functools.partial(check_lines, rows=1, columns=2),
  ),
}
# Each granularity with some method.
ALWAYS = [(i, NAMES[(2 * i + 4) % len(NAMES)]) for i in range(0, 4, 2)]
PAIRS = [
  pytest.param(
    granularity,
    name,
    marks=() if (i, name) in ALWAYS else tiers.SLOW,
  )
  for i, granularity in enumerate(GRANULARITIES)
  for name in NAMES
]


@pytest.mark.parametrize(("granularity", "name"), PAIRS)
def test_counts_are_exact_for_every_method(granularity, name):
  """In units, jitted and not; masks obey the granularity at the end."""
  how, sparsity, check = GRANULARITIES[granularity]
  method = methods_of(how, sparsity)[name]
  params, state = train(method, SHAPES)
  counted = sparsejax.summary(params, state)
  assert counted.active_units == counted.requested
  if granularity != "n_of_m":  # Leaves that are no multiple stay dense.
    expected = int(counted.total_units * (1 - sparsity) + 1e-6)
    assert counted.active_units == expected
  for mask in masks_of(state).values():
    check(mask)
  _, eager = train(method, SHAPES, jit=False)
  for a, b in zip(
    jax.tree.leaves(state.masks), jax.tree.leaves(eager.masks), strict=True
  ):
    np.testing.assert_array_equal(a, b)


@settings(max_examples=4, deadline=None)
@given(
  st.integers(1, 9),
  st.integers(1, 9),
  st.integers(2, 6),
  st.floats(0.0, 0.95),
  st.integers(0, 99),
)
def test_counts_of_random_blocks(rows, columns, size, sparsity, seed):
  shapes = {"a": (rows + 1, columns + 1), "b": (2, rows + 1, columns + 2)}
  method = sparsejax.static(
    sparsity,
    distribution=sparsejax.uniform,
    granularity=sparsejax.blocks(size, size - 1),
  )
  params, state = train(method, shapes, steps=0, seed=seed)
  counted = sparsejax.summary(params, state)
  expected = max(1, int(counted.total_units * (1 - sparsity) + 1e-6))
  assert counted.active_units == counted.requested == expected
  for mask in masks_of(state).values():
    check_blocks(mask, size, size - 1)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_places_and_highest_rank_as_sorting_does(data):
  n = data.draw(st.sampled_from([1, 6, 33]))
  few = st.lists(st.integers(0, 4), min_size=2 * n, max_size=2 * n)
  keys = [np.asarray(data.draw(few), np.uint32).reshape(n, 2) for _ in range(2)]
  found = np.asarray(ranking.places([jnp.asarray(k) for k in keys], axis=0))
  for column in range(2):
    order = sorted(
      range(n), key=lambda i, c=column: tuple(-int(k[i, c]) for k in keys)
    )
    assert found[order, column].tolist() == list(range(n))
  valid = keys[1] > 1
  count = data.draw(st.integers(0, n))
  kept = ranking.highest(
    jnp.asarray(keys[0]),
    jnp.full((1, 2), count, jnp.int32),
    jnp.asarray(valid),
    axes=(0,),
  )
  for column in range(2):
    ranked = [
      i
      for i in np.argsort(-keys[0][:, column].astype(int), kind="stable")
      if valid[i, column]
    ]
    assert np.flatnonzero(kept[:, column]).tolist() == sorted(ranked[:count])


@pytest.mark.parametrize("granularity", tiers.every(2, GRANULARITIES))
def test_resumed_equals_uninterrupted(granularity):
  how, sparsity, _ = GRANULARITIES[granularity]
  method = methods_of(how, sparsity)["granet"]
  tx = sparsejax.sparsify(optax.adam(1e-2), method, key=jax.random.key(0))
  update = jax.jit(tx.update)

  def steps(params, state, some):
    for step in some:
      updates, state = update(random_tree(SHAPES, step), state, params)
      params = optax.apply_updates(params, updates)
    return params, state

  params = random_tree(SHAPES, 99)
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  whole = steps(params, state, range(8))
  half = steps(params, state, range(3))
  saved = [np.asarray(x) for x in jax.tree.leaves(half)]
  restored = jax.tree.unflatten(
    jax.tree.structure(half), [jnp.asarray(x) for x in saved]
  )
  resumed = steps(*restored, range(3, 8))
  for a, b in zip(
    jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_stacked_layers_have_their_own_units():
  for how in (sparsejax.filters(), sparsejax.blocks(2, 2)):
    method = sparsejax.static(
      0.5, distribution=sparsejax.uniform, granularity=how
    )
    tx = sparsejax.sparsify(
      optax.sgd(0.1),
      method,
      key=jax.random.key(0),
      overrides={"a/kernel": sparsejax.Override(axis=0)},
    )
    params = random_tree({"a": (3, 4, 8)}, 0)
    counted = sparsejax.summary(params, tx.init(params))
    assert [x.active for x in counted.units] == [
      x.total // 2 for x in counted.units
    ]
    assert [x.name for x in counted.units] == [
      f"a/kernel[{i}]" for i in range(3)
    ]


# What cannot be


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: sparsejax.n_of_m(4, 4), "`n` must be in"),
    (lambda: sparsejax.blocks(0, 4), "`height` must be"),
    (lambda: sparsejax.at_least(), "`rows` or `columns` must be above 0"),
    (lambda: sparsejax.at_least(rows=-1), "`rows` must be"),
    (
      lambda: sparsejax.granet(
        0.9, end_step=6, **RUN, granularity=sparsejax.n_of_m(2, 4)
      ),
      "`sparsity` must be 0.5",
    ),
    (
      lambda: sparsejax.accset(
        sparsity=0.5,
        steps_per_epoch=2,
        total_steps=8,
        granularity=sparsejax.n_of_m(2, 4),
      ),
      "`sparsity` must be 0.5",
    ),
    (
      lambda: sparsejax.with_granularity(
        sparsejax.sr_ste(n=2, m=4), sparsejax.filters()
      ),
      "has a pattern",
    ),
  ],
)
def test_what_contradicts_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.parametrize(
  ("granularity", "shapes", "message"),
  [
    (sparsejax.at_least(rows=3, columns=3), {"a": (4, 4)}, "may need 16"),
    (sparsejax.blocks(2, 2), {"a": (4,)}, "needs matrices"),
  ],
)
def test_what_does_not_fit_is_refused_in_init(granularity, shapes, message):
  method = sparsejax.static(0.5, granularity=granularity)
  tx = sparsejax.sparsify(
    optax.sgd(0.1), method, key=jax.random.key(0), select="*"
  )
  with pytest.raises(ValueError, match=message):
    tx.init(random_tree(shapes, 0))


def test_given_masks_must_not_divide_a_unit():
  method = sparsejax.static(0.5, granularity=sparsejax.filters())
  masks = {"a": {"kernel": jnp.asarray([[True, False], [True, True]])}}
  tx = sparsejax.sparsify(
    optax.sgd(0.1), method, key=jax.random.key(0), masks=masks
  )
  with pytest.raises(ValueError, match="`masks` divide a unit of 'a/kernel'"):
    tx.init(random_tree({"a": (2, 2)}, 0))


# Channels that several leaves write


def residual(params, x):
  """Two layers that add to a stream, behind scales and biases."""
  stream = x @ params["in"]["kernel"]
  hidden = stream @ params["up"]["kernel"] * params["norm"]["scale"]
  hidden = jax.nn.relu(hidden + params["norm"]["bias"])
  stream += hidden @ params["down"]["kernel"] + params["down"]["bias"]
  return stream @ params["out"]["kernel"]


def residual_params(seed=0):
  params = random_tree(
    {"in": (5, 8), "up": (8, 12), "down": (12, 8), "out": (8, 3)}, seed
  )
  params["norm"] = {"scale": jnp.full(12, 2.0), "bias": jnp.full(12, 0.5)}
  params["down"]["bias"] = jnp.full(8, 0.25)
  return params


def residual_groups():
  return coupling(residual, residual_params(), jnp.ones((2, 5)))


def test_all_that_writes_a_channel_is_one_unit_and_the_rest_follows():
  granularity = sparsejax.filters(residual_groups())
  method = sparsejax.one_shot(
    0.5,
    at_step=1,
    scope=sparsejax.layerwise(sparsejax.uniform),
    granularity=granularity,
  )
  tx = sparsejax.sparsify(optax.sgd(0.0), method)
  params = residual_params()
  state = tx.init(params)
  assert isinstance(state.masks["out"]["kernel"], optax.MaskedNode)
  updates, state = tx.update(params, state, params)
  params = optax.apply_updates(params, updates)
  dense = residual_params()
  norms = {
    name: np.abs(dense[name]["kernel"]).sum(axis=0)
    for name in dense
    if "kernel" in dense[name]
  }
  stream = np.argsort(-(norms["in"] + norms["down"]))[:4]
  hidden = np.argsort(-norms["up"])[:6]
  for name, kept in (("in", stream), ("down", stream), ("up", hidden)):
    columns = np.flatnonzero(np.asarray(state.masks[name]["kernel"]).any(0))
    assert columns.tolist() == sorted(kept.tolist())
  assert np.flatnonzero(params["norm"]["scale"]).tolist() == sorted(hidden)
  assert np.flatnonzero(params["norm"]["bias"]).tolist() == sorted(hidden)
  assert np.flatnonzero(params["down"]["bias"]).tolist() == sorted(stream)
  counted = sparsejax.summary(params, state)
  assert [(x.name, x.active) for x in counted.units] == [
    ("down/kernel+1", 4),
    ("up/kernel", 6),
  ]
  assert counted.total == 5 * 8 + 8 * 12 + 12 * 8
  assert counted.requested == counted.active_units == 10


def test_followers_come_back_with_their_values_and_a_fresh_optimizer():
  """A regrown filter starts at 0 behind the scale that it had."""
  granularity = sparsejax.filters(residual_groups())
  method = sparsejax.sparse_evolution(
    sparsity=0.5, every_steps=2, total_steps=40, granularity=granularity
  )
  tx = sparsejax.sparsify(
    optax.sgd(1e-3, momentum=0.9), method, key=jax.random.key(0)
  )
  params = residual_params()
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  update, regrown = jax.jit(tx.update), 0
  for step in range(12):
    grads = jax.tree.map(lambda x: jnp.ones_like(x), params)
    old, held = state.followers, params
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    sparsejax.assert_sparse(params, state)
    was = np.asarray(old.masks["norm"]["scale"])
    now = np.asarray(state.followers.masks["norm"]["scale"])
    scale = np.asarray(params["norm"]["scale"])
    assert not scale[~now].any()
    back = now & ~was
    values = np.asarray(old.values["norm"]["scale"])
    np.testing.assert_array_equal(scale[back], values[back])
    trace = np.asarray(state.inner_state[0].trace["norm"]["scale"])
    assert not trace[back | ~now].any()
    moved = np.asarray(held["norm"]["scale"]) != scale
    assert (moved | ~(was & now)).all()
    regrown += int(back.sum())
    del step
  assert regrown


def test_uncoupled_filters_leave_the_outputs_of_the_network():
  granularity = sparsejax.filters(residual_groups(), coupled=False)
  method = sparsejax.static(
    0.5, distribution=sparsejax.uniform, granularity=granularity
  )
  tx = sparsejax.sparsify(optax.sgd(0.1), method, key=jax.random.key(0))
  state = tx.init(residual_params())
  assert state.followers == ()
  names = [name for each in state.units for name in each]
  assert names == ["down/kernel", "in/kernel", "up/kernel"]
  assert [int(x.sum()) for x in unit_masks(state)] == [4, 4, 6]


def test_groups_of_another_network_are_refused():
  method = sparsejax.static(
    0.5, granularity=sparsejax.filters(residual_groups())
  )
  tx = sparsejax.sparsify(optax.sgd(0.1), method, key=jax.random.key(0))
  with pytest.raises(ValueError, match="`groups` must be those of these"):
    tx.init(random_tree({"in": (5, 9)}, 0))
