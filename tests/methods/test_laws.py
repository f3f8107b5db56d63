"""Laws that hold for every method with every optimizer.

Un-jitted, so that "moves as the inner optimizer moves it" is bit for bit.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiers

import sparsejax
from sparsejax.updates import orders

SHAPES = {
  "conv": {"kernel": (3, 3, 2, 5), "bias": (5,)},
  "dense": {"kernel": (13, 7), "bias": (7,)},
  "out": {"kernel": (7, 11)},
}

METHODS = {
  "dense": sparsejax.dense(),
  "static": sparsejax.static(0.8),
  "one_shot": sparsejax.one_shot(0.8, at_step=4),
  "gmp": sparsejax.gmp(0.8, end_step=10, every_steps=3),
  "gmp_kept": sparsejax.gmp(
    0.8, end_step=10, every_steps=3, storage=sparsejax.kept
  ),
  "gmp_uniform": sparsejax.gmp(
    0.8,
    end_step=2,  # smaller than the interval: one prune at the end
    every_steps=3,
    scope=sparsejax.layerwise(sparsejax.uniform),
  ),
  "granet": sparsejax.granet(0.8, end_step=10, every_steps=3, total_steps=12),
  "granet_from_half": sparsejax.granet(
    0.8,
    initial_sparsity=0.5,
    end_step=9,
    every_steps=3,
    total_steps=12,
    scope=sparsejax.layerwise(sparsejax.uniform),
  ),
  "rigl": sparsejax.rigl(0.8, end_step=10, every_steps=3),
  "rigl_itop": sparsejax.rigl_itop(0.8, every_steps=3, total_steps=12),
  "set": sparsejax.sparse_evolution(
    sparsity=0.8, every_steps=3, total_steps=12
  ),
  "set_epsilon": sparsejax.sparse_evolution(
    epsilon=2.0, every_steps=3, total_steps=12, by_sign=False
  ),
}

# Methods that keep the values of inactive weights.
KEPT = {
  "gmp_kept": METHODS["gmp_kept"],
  "optg": sparsejax.optg(
    0.8, steps_per_epoch=2, epochs=6, score_learning_rate=0.1
  ),
  "optg_bfloat16": sparsejax.optg(
    0.8,
    steps_per_epoch=2,
    epochs=6,
    score_learning_rate=optax.linear_schedule(0.1, 0.01, 12),
    score_momentum=0.0,
    score_dtype="bfloat16",
    scope=sparsejax.layerwise(sparsejax.erk),
  ),
  "supermask": sparsejax.supermask(0.8, score_learning_rate=0.1),
  "dpf": sparsejax.dpf(0.8, end_step=10, every_steps=3),
  "dnw": sparsejax.dnw(0.8),
  "top_kast": sparsejax.top_kast(0.8, backward_sparsity=0.5, every_steps=2),
  "sr_ste": sparsejax.sr_ste(sparsity=0.8),
  "sr_ste_2_4": sparsejax.sr_ste(n=1, m=2),
  "str": sparsejax.soft_threshold(
    initial_threshold=-1.0,
    threshold_learning_rate=0.1,
    threshold_weight_decay=0.01,
  ),
}

# Zeroed weights whose number or layer changes, or whose gradient is not plain.
MOVING = {
  "dynset": sparsejax.dynset(
    drives="accuracy",
    connectivity=2.0,
    lag=1,
    sparsity=0.8,
    steps_per_epoch=2,
    total_steps=12,
  ),
  "snfs": sparsejax.snfs(0.8, every_steps=3, total_steps=12),
  "snfs_own": sparsejax.snfs(0.8, every_steps=3, total_steps=12, momentum=0.9),
  "dsr": sparsejax.dsr(
    0.8, every_steps=3, end_step=12, prune_count=9, threshold=0.2
  ),
  "deep_r": sparsejax.deep_r(0.8, noise=1e-3),
  "weight_sparse": sparsejax.weight_sparse(
    0.05, end_step=4, every_steps=2, min_per_neuron=1
  ),
}
ALL = METHODS | KEPT | MOVING


def metric_at(step):
  """Returns an accuracy or a loss; methods without a metric ignore it.

  It rises and falls, so that `dynset` pauses and continues.
  """
  return 0.5 + 0.4 * np.sin(step)


LABELS = {
  "conv": {"kernel": "a", "bias": "b"},
  "dense": {"kernel": "b", "bias": "b"},
  "out": {"kernel": "a"},
}

OPTIMIZERS = {
  "sgd": lambda: optax.sgd(0.1),
  "momentum": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
  "adam": lambda: optax.adam(1e-2),
  "adamw": lambda: optax.adamw(1e-2, weight_decay=0.1),
  "lion": lambda: optax.lion(1e-2),
  "adafactor": lambda: optax.adafactor(1e-2, min_dim_size_to_factor=4),
  "adagrad": lambda: optax.adagrad(1e-2),
  "rmsprop": lambda: optax.rmsprop(1e-2, initial_scale=1.0),
  "rprop": lambda: optax.rprop(1e-2),
  "muon": lambda: optax.contrib.muon(1e-2),
  "clipped": lambda: optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.add_decayed_weights(1e-2),
    optax.sgd(0.1, momentum=0.9),
  ),
  "injected": lambda: optax.inject_hyperparams(optax.adam)(
    learning_rate=optax.linear_schedule(1e-2, 1e-3, 10)
  ),
  "multi_steps": lambda: optax.MultiSteps(optax.adam(1e-2), 2),
  "multi_transform": lambda: optax.multi_transform(
    {"a": optax.adam(1e-2), "b": optax.sgd(0.1, momentum=0.9)}, LABELS
  ),
  "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(1e-2), 3),
  "masked": lambda: optax.masked(
    optax.trace(0.9), jax.tree.map(lambda label: label == "a", LABELS)
  ),
}


def is_shape(x):
  return isinstance(x, tuple) and all(isinstance(n, int) for n in x)


def random_tree(seed, dtype=jnp.float32):
  """Returns a random tree of the test's shapes."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: jnp.asarray(rng.normal(size=shape), dtype),
    SHAPES,
    is_leaf=is_shape,
  )


def kernels(tree):
  """Returns {name: array} of the sparse leaves of a tree."""
  return {name: np.asarray(tree[name]["kernel"]) for name in SHAPES}


def initial_state(inner):
  """Returns the inner optimizer's state for zero weights."""
  return inner.init(jax.tree.map(jnp.zeros_like, random_tree(0)))


def check_inner_state(state, fresh, masks):
  """State of a weight's shape has its initial value at inactive weights."""
  by_shape = {mask.shape: mask for mask in masks.values()}
  pairs = zip(jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True)
  for stat, start in pairs:
    mask = by_shape.get(stat.shape)
    if mask is not None:
      np.testing.assert_array_equal(
        np.asarray(stat)[~mask], np.asarray(start)[~mask]
      )


@functools.cache
def compiled(optimizer):
  """Returns the optimizer with its update jitted, for all methods once.

  The code around it is not jitted, so that its results are added bit for bit.
  """
  inner = OPTIMIZERS[optimizer]()
  if isinstance(inner, optax.MultiSteps):
    inner = inner.gradient_transformation()
  inner = optax.with_extra_args_support(inner)
  return optax.GradientTransformationExtraArgs(
    inner.init, jax.jit(inner.update)
  )


@pytest.mark.parametrize(
  ("name", "optimizer"), tiers.pairs(METHODS, OPTIMIZERS)
)
def test_every_method_with_every_optimizer(name, optimizer):
  method, inner = METHODS[name], compiled(optimizer)
  is_kept = method.storage is sparsejax.kept
  tx = sparsejax.sparsify(inner, method, key=jax.random.key(3))
  params = random_tree(0)
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  fresh = initial_state(inner)
  for step in range(13):
    grads = random_tree(100 + step)
    before, old = params, kernels(sparsejax.get_masks(state))
    updates, new_state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    new = kernels(sparsejax.get_masks(new_state))
    sparsejax.assert_sparse(params, new_state)
    if not is_kept:
      check_inner_state(new_state.inner_state, fresh, new)
      for leaf in SHAPES:
        regrown = new[leaf] & ~old[leaf]
        assert not kernels(params)[leaf][regrown].any()
      spent = method.order is orders.update_instead_of_step and int(
        new_state.step
      ) == int(state.step)
      expected = before
      if not spent:
        masked = sparsejax.apply_masks(grads, state)
        alone, _ = inner.update(masked, state.inner_state, before)
        expected = optax.apply_updates(before, alone)
      for leaf in SHAPES:
        sparse_weights, moved = kernels(params)[leaf], kernels(expected)[leaf]
        survives = new[leaf] & old[leaf]
        same = sparse_weights[survives] == moved[survives]
        if int(new_state.last_update) == int(state.last_update):
          assert same.all()
        else:
          # A weight that is pruned and regrown in one update is 0.
          assert (same | (sparse_weights[survives] == 0)).all()
      np.testing.assert_array_equal(
        params["conv"]["bias"], expected["conv"]["bias"]
      )
    state = new_state
  result = sparsejax.summary(params, state)
  assert result.active == result.requested
  if method.target_sparsity is not None:
    total = sum(m.size for m in new.values())
    assert result.active == int(total * (1 - method.target_sparsity) + 1e-6)


def sparse_adam(name, seed):
  return sparsejax.sparsify(
    optax.adam(1e-2), ALL[name], key=jax.random.key(seed)
  )


def run_sparse(tx, steps, jit):
  """Trains and returns the summary; the network is sparse at every step."""
  update = jax.jit(tx.update) if jit else tx.update
  params = random_tree(0)
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  for step in range(steps):
    updates, state = update(
      random_tree(100 + step), state, params, metric=metric_at(step)
    )
    params = optax.apply_updates(params, updates)
    sparsejax.assert_sparse(params, state)
  counted = sparsejax.summary(params, state)
  assert counted.active == counted.requested
  return counted


@pytest.mark.parametrize(
  ("name", "optimizer"), tiers.pairs(MOVING, ["momentum", "muon"])
)
def test_moving_and_metric_methods_have_the_requested_counts(name, optimizer):
  """Counts are those requested; inactive weights are at their first state."""
  method, inner = MOVING[name], compiled(optimizer)
  tx = sparsejax.sparsify(inner, method, key=jax.random.key(3))
  params = random_tree(0)
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  fresh, regrown = initial_state(inner), 0
  for step in range(9):
    old = kernels(sparsejax.get_masks(state))
    updates, state = tx.update(
      random_tree(100 + step), state, params, metric=metric_at(step)
    )
    params = optax.apply_updates(params, updates)
    sparsejax.assert_sparse(params, state)
    counted = sparsejax.summary(params, state)
    assert counted.active == counted.requested
    new = kernels(sparsejax.get_masks(state))
    if not method.storage.keeps_state:
      check_inner_state(state.inner_state, fresh, new)
    for leaf in SHAPES:
      new_weights = kernels(params)[leaf][new[leaf] & ~old[leaf]]
      regrown += new_weights.size
      # Masks first, or all weights: the step moves regrown ones right away.
      moved = method.metric is not None or method.storage.keeps_values
      assert (new_weights != 0).all() == moved or not new_weights.size
  # A step of Muon from 0 is smaller than all active weights.
  assert regrown or (name, optimizer) == ("weight_sparse", "muon")
  if method.target_sparsity is not None:
    requested = int(counted.total * (1 - method.target_sparsity) + 1e-6)
    assert counted.active == requested


@pytest.mark.parametrize(
  ("name", "optimizer"),
  tiers.pairs(KEPT, ["momentum", "adamw", "clipped", "muon"]),
)
def test_active_weights_have_their_latent_values(name, optimizer):
  """Also regrown ones; inactive weights still move."""
  method = KEPT[name]
  tx = sparsejax.sparsify(compiled(optimizer), method, key=jax.random.key(3))
  params = random_tree(0)
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  regrown = 0
  for step in range(13):
    old = kernels(sparsejax.get_masks(state))
    updates, state = tx.update(random_tree(100 + step), state, params)
    params = optax.apply_updates(params, updates)
    sparsejax.assert_sparse(params, state)
    new, sparse_weights = kernels(sparsejax.get_masks(state)), kernels(params)
    for leaf, latent in kernels(state.latent).items():
      if name == "str":
        s = state.accumulators["threshold"].values[leaf]["kernel"]
        size = np.maximum(np.abs(latent) - np.asarray(jax.nn.sigmoid(s)), 0)
        np.testing.assert_allclose(
          sparse_weights[leaf], np.sign(latent) * size, atol=1e-6
        )
      else:
        expected = np.where(new[leaf], latent, 0)
        np.testing.assert_array_equal(sparse_weights[leaf], expected)
      regrown += int((new[leaf] & ~old[leaf]).sum())
  counted = sparsejax.summary(params, state)
  assert counted.active == counted.requested < counted.total
  # Inactive weights that hardly move are seldom regrown.
  assert regrown or name in ("gmp_kept", "str")


@pytest.mark.parametrize("name", tiers.every(12, list(ALL)))
def test_inside_a_chain_and_multi_transform(name):
  """Masks of several states, and of a state for some leaves, are found."""
  some = optax.multi_transform(
    {"a": sparse_adam(name, 1), "b": optax.sgd(0.1)}, LABELS
  )
  names = [x.name for x in run_sparse(some, 13, jit=False).layers]
  assert names == ["conv/kernel", "out/kernel"]
  both = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.multi_transform(
      {"a": sparse_adam(name, 1), "b": sparse_adam(name, 2)}, LABELS
    ),
  )
  names = [x.name for x in run_sparse(both, 13, jit=False).layers]
  assert names == ["conv/kernel", "dense/kernel", "out/kernel"]


@pytest.mark.parametrize("name", tiers.every(10, list(ALL)))
def test_inside_multi_steps_and_apply_if_finite(name):
  """Under accumulation a step of the method is a real step."""
  tx = optax.MultiSteps(optax.apply_if_finite(sparse_adam(name, 5), 2), 2)
  counted = run_sparse(tx.gradient_transformation(), 26, jit=True)
  target = ALL[name].target_sparsity
  if target is not None:
    assert counted.active == int(counted.total * (1 - target) + 1e-6)


@pytest.mark.parametrize("name", tiers.every(4, list(ALL)))
def test_one_compilation_under_scan_donated_in_bfloat16(name):
  """A whole schedule runs in one compilation, with everything donated."""
  tx = sparsejax.sparsify(
    optax.sgd(0.1, momentum=0.9), ALL[name], key=jax.random.key(3)
  )
  params = random_tree(0, jnp.bfloat16)
  abstract = jax.eval_shape(tx.init, params)
  tx.init(params)
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  kinds = jax.tree.map(lambda x: (x.shape, x.dtype), (params, state))
  assert kinds[1] == jax.tree.map(lambda x: (x.shape, x.dtype), abstract)

  def body(carry, grads):
    params, state = carry
    updates, state = tx.update(
      grads, state, params, metric=grads["dense"]["bias"][0]
    )
    params = optax.apply_updates(params, updates)
    masks = sparsejax.get_masks(state)
    nonzero = sum(
      jnp.sum(~masks[name]["kernel"] & (params[name]["kernel"] != 0))
      for name in SHAPES
    )
    return (params, state), nonzero

  step = jax.jit(
    lambda carry, grads: jax.lax.scan(body, carry, grads), donate_argnums=0
  )
  for start in (0, 7):
    grads = [
      random_tree(100 + i, jnp.bfloat16) for i in range(start, start + 7)
    ]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *grads)
    (params, state), nonzero = step((params, state), stacked)
    assert not nonzero.any()
  assert step._cache_size() == 1
  assert kinds == jax.tree.map(lambda x: (x.shape, x.dtype), (params, state))
  counted = sparsejax.summary(params, state)
  assert counted.active == counted.requested
