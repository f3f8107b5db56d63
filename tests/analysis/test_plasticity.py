"""Pruning once against numpy, and measures in a loop of one's own."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiers
from oracles import network, plasticity as oracle

import sparsejax
from sparsejax.analysis import plasticity
from sparsejax.components import criteria

UNIFORM = sparsejax.layerwise(sparsejax.uniform)
SCOPES = {
  "global": (sparsejax.global_scope, oracle.prune_jointly),
  "uniform": (UNIFORM, oracle.prune_in_layers),
}


ALWAYS = ((0.2, "global", True), (0.98, "uniform", True))


def sparse_network(seed=0):
  """A network on a coarse grid, so that there are ties, and its gradient."""
  rng = np.random.default_rng(seed)

  def grid(*shape):
    return jnp.asarray(rng.integers(-9, 10, shape) / 8, jnp.float32)

  params = {
    "a": {"kernel": grid(6, 7), "bias": grid(7)},
    "b": {"kernel": grid(7, 5)},
  }
  masks = {
    "a": {
      "kernel": jnp.asarray(rng.random((6, 7)) < 0.5),
      "bias": optax.MaskedNode(),
    },
    "b": {"kernel": jnp.asarray(rng.random((7, 5)) < 0.5)},
  }
  params = jax.tree.map(
    lambda m, p: p if isinstance(m, optax.MaskedNode) else jnp.where(m, p, 0),
    masks,
    params,
    is_leaf=lambda x: isinstance(x, optax.MaskedNode),
  )
  return params, masks, jax.tree.map(lambda p: grid(*p.shape), params)


def by_numpy(params, masks, grads, rate, *, scope, score, regrows, key):
  """Returns the kernels and masks that the oracle finds, in tree order."""
  names = ("a/bias", "a/kernel", "b/kernel")
  flags = {"a/kernel": masks["a"]["kernel"], "b/kernel": masks["b"]["kernel"]}
  leaves = [
    network.Leaf(
      name,
      index,
      np.array(weights),
      np.array(flags[name]) if name in flags else None,
    )
    for index, (name, weights) in enumerate(
      zip(names, jax.tree.leaves(params), strict=True)
    )
  ]
  oracle.prune_once(
    leaves,
    list(map(np.asarray, jax.tree.leaves(grads))),
    1,
    rate,
    prune=SCOPES[scope][1],
    score=score,
    regrows=regrows,
    key=key,
  )
  return leaves[1:]


@pytest.mark.parametrize(
  ("rate", "scope", "regrows"),
  tiers.some(
    itertools.product((0.0, 0.2, 0.5, 0.98), SCOPES, (False, True)),
    lambda case: case in ALWAYS,
  ),
)
def test_prune_once_equals_numpy(rate, scope, regrows):
  key = jax.random.key(7)
  regrow_by = criteria.gradient_magnitude if regrows else None
  for seed in range(3):
    params, masks, grads = sparse_network(seed)
    found = plasticity.prune_once(
      params,
      masks,
      rate,
      grads=grads,
      key=key,
      scope=SCOPES[scope][0],
      regrow_by=regrow_by,
    )
    expected = by_numpy(
      params,
      masks,
      grads,
      rate,
      scope=scope,
      score=oracle.by_magnitude,
      regrows=regrows,
      key=key,
    )
    for leaf in expected:
      name = leaf.name.split("/")[0]
      np.testing.assert_array_equal(found.masks[name]["kernel"], leaf.mask)
      np.testing.assert_array_equal(
        found.params[name]["kernel"], leaf.sparse_weights
      )
    np.testing.assert_array_equal(
      found.params["a"]["bias"], params["a"]["bias"]
    )


def test_worked_example():
  """A rate of 0.5 of 6 active weights, then regrowth of as many per layer."""
  params = {
    "a": jnp.array([[4.0, -1.0, 0.0], [0.5, 0.0, 3.0]]),
    "b": jnp.array([[0.25, 2.0], [0.0, 0.0]]),
  }
  masks = jax.tree.map(lambda p: p != 0, params)
  grads = {
    "a": jnp.array([[9.0, 1.0, -7.0], [5.0, 2.0, 9.0]]),
    "b": jnp.array([[3.0, 9.0], [-4.0, 1.0]]),
  }
  pruned = plasticity.prune_once(params, masks, 0.5)
  assert pruned.params["a"].tolist() == [[4, 0, 0], [0, 0, 3]]
  assert pruned.params["b"].tolist() == [[0, 2], [0, 0]]
  regrown = plasticity.prune_once(
    params,
    masks,
    0.5,
    grads=grads,
    key=jax.random.key(0),
    regrow_by=criteria.gradient_magnitude,
  )
  assert regrown.params["a"].tolist() == [[4, 0, 0], [0, 0, 3]]
  assert regrown.masks["a"].astype(int).tolist() == [[1, 0, 1], [1, 0, 1]]
  assert regrown.masks["b"].astype(int).tolist() == [[0, 1], [1, 0]]


def loss(scale, params, x):
  return jnp.sum(scale * jnp.tanh(x @ params["kernel"]) ** 2)


def test_gradient_flow_needs_a_second_derivative():
  rng = np.random.default_rng(0)
  params = {"kernel": jnp.asarray(rng.normal(size=(6, 5)), jnp.float32)}
  masks = {"kernel": jnp.asarray(rng.random((6, 5)) < 0.7)}
  params = {"kernel": jnp.where(masks["kernel"], params["kernel"], 0)}
  x = jnp.asarray(rng.normal(size=(8, 6)), jnp.float32)
  gradient = jax.grad(functools.partial(loss, 0.5))
  grads = gradient(params, x)
  options = {"grads": grads, "criterion": criteria.gradient_flow}
  with pytest.raises(ValueError, match="`hvp` must be given to `update`"):
    plasticity.prune_once(params, masks, 0.5, **options)
  found = plasticity.prune_once(
    params,
    masks,
    0.5,
    hvp=lambda v: jax.jvp(lambda p: gradient(p, x), (params,), (v,))[1],
    **options,
  )
  # The Hessian, column by column.
  with jax.enable_x64(True):
    flat = np.asarray(params["kernel"], np.float64).ravel()
    whole = jax.hessian(
      lambda w: loss(0.5, {"kernel": w.reshape(6, 5)}, x.astype(jnp.float64))
    )(jnp.asarray(flat))
    direction = np.where(masks["kernel"], grads["kernel"], 0).ravel()
    score = flat * (np.asarray(whole) @ direction)
  active = np.flatnonzero(np.asarray(masks["kernel"]))
  keep = len(active) // 2
  best = active[np.argsort(-score[active], kind="stable")[:keep]]
  np.testing.assert_array_equal(
    np.flatnonzero(np.asarray(found.masks["kernel"])), np.sort(best)
  )


def test_gradient_flow_in_a_loop_prunes_as_its_definition_says():
  params = {"kernel": jnp.arange(1.0, 13.0).reshape(3, 4) / 6}
  x = jnp.asarray(np.random.default_rng(1).normal(size=(8, 3)), jnp.float32)
  method = sparsejax.one_shot(0.5, at_step=2, criterion=criteria.gradient_flow)
  tx = sparsejax.sparsify(optax.sgd(0.01), method)
  state = tx.init(params)

  @jax.jit
  def step(params, state):
    gradient = jax.grad(lambda p: loss(1.0, p, x))
    grads = gradient(params)
    return tx.update(
      grads,
      state,
      params,
      hvp=lambda v: jax.jvp(gradient, (params,), (v,))[1],
    )

  for _ in range(2):
    before = params
    updates, state = step(params, state)
    params = optax.apply_updates(params, updates)
  moved = jax.tree.map(
    lambda p, g: p - 0.01 * g,
    before,
    jax.grad(lambda p: loss(1.0, p, x))(before),
  )
  # Weights after the step, derivatives before it.
  gradient = jax.grad(lambda p: loss(1.0, p, x))
  product = jax.jvp(gradient, (before,), (gradient(before),))[1]
  score = np.asarray(moved["kernel"] * product["kernel"]).ravel()
  expected = np.sort(np.argsort(-score, kind="stable")[:6])
  np.testing.assert_array_equal(
    np.flatnonzero(np.asarray(params["kernel"])), expected
  )


def test_bad_arguments_say_what_to_do():
  params, masks, _ = sparse_network()
  with pytest.raises(ValueError, match="`rate` must be a share in"):
    plasticity.prune_once(params, masks, 50.0)
  with pytest.raises(ValueError, match="`grads` must be given"):
    plasticity.prune_once(params, masks, 0.5, criterion=criteria.snip)
  with pytest.raises(ValueError, match="Either `sparsity` or `rate`"):
    sparsejax.one_shot(at_step=3)
  with pytest.raises(ValueError, match="`regrow_by` must be None"):
    sparsejax.one_shot(0.5, at_step=3, regrow_by=criteria.gradient_magnitude)


def test_measures_follow_a_loop_of_the_user():
  params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
  masks = jax.tree.map(lambda p: p != 0, params)
  seen = []

  def train(pruned):
    seen.append(pruned)
    return jax.tree.map(
      lambda p, m: jnp.where(m, p + 1, 0), pruned.params, pruned.masks
    )

  measured = plasticity.measure(
    params,
    masks,
    0.5,
    train=train,
    evaluate=lambda params: float(params["kernel"].sum()),
  )
  assert measured == (10.0, 7.0, 9.0)
  assert measured.plasticity == -1.0
  assert measured.final_gap(8.5) == 0.5
  assert int(seen[0].masks["kernel"].sum()) == 2


# Filters of a layer -> how many are inactive at a sparsity; how many of those
# that are left a rate prunes.
FILTERS = (16, 32, 64)
INACTIVE = {0.0: (0, 0, 0), 0.1: (1, 3, 6), 0.5: (8, 16, 32), 0.7: (11, 22, 44)}
PRUNED = {
  (0.0, 0.1): (1, 3, 6),
  (0.0, 0.5): (8, 16, 32),
  (0.0, 0.7): (11, 22, 44),
  (0.5, 0.3): (2, 4, 9),
  (0.7, 0.5): (2, 5, 10),
}


@pytest.mark.parametrize("regrows", tiers.every(2, [True, False]))
def test_filters_have_the_worked_numbers_and_are_those_of_numpy(regrows):
  rng = np.random.default_rng(3)
  inputs = (3, *FILTERS)

  def grid():
    return {
      f"conv{i}": {
        "kernel": jnp.asarray(
          rng.integers(1, 99, (3, 3, inputs[i], n)) / 64, jnp.float32
        )
      }
      for i, n in enumerate(FILTERS)
    }

  dense, grads = grid(), grid()
  granularity = sparsejax.filters()
  for sparsity, inactive in INACTIVE.items():
    tx = sparsejax.sparsify(
      optax.sgd(0.1),
      sparsejax.static(
        sparsity,
        distribution=sparsejax.components.distributions.uniform_whole,
        granularity=granularity,
      ),
      key=jax.random.key(4),
    )
    state = tx.init(dense)
    masks = sparsejax.get_masks(state)
    params = sparsejax.apply_masks(dense, state)
    dead = [
      int((~mask.any(axis=(0, 1, 2))).sum()) for mask in jax.tree.leaves(masks)
    ]
    assert tuple(dead) == inactive
    for rate in [rate for of, rate in PRUNED if of == sparsity]:
      found = plasticity.prune_once(
        params,
        masks,
        rate,
        grads=grads,
        key=jax.random.key(5),
        scope=UNIFORM,
        regrow_by=criteria.gradient_magnitude if regrows else None,
        round_up=False,
        granularity=granularity,
      )
      pruned = []
      for i, name in enumerate(params):
        leaf = network.Leaf(
          name,
          i,
          np.array(params[name]["kernel"]),
          np.array(masks[name]["kernel"]),
        )
        before = leaf.active
        oracle.prune_filters(
          leaf, np.asarray(grads[name]["kernel"]), rate, regrows=regrows
        )
        np.testing.assert_array_equal(found.masks[name]["kernel"], leaf.mask)
        np.testing.assert_array_equal(
          found.params[name]["kernel"], leaf.sparse_weights
        )
        pruned.append((before - leaf.active) // (9 * inputs[i]))
      expected = (0, 0, 0) if regrows else PRUNED[sparsity, rate]
      assert tuple(pruned) == expected
