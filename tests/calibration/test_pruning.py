"""Pruning with calibration: papers as oracles, counts, and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import calibrated, tiers
from hypothesis import given, settings, strategies as st
from oracles import calibration as oracle

import sparsejax
from sparsejax import calibration
from sparsejax.components import counts

SOLVERS = {
  "magnitude": calibration.magnitude,
  "wanda": calibration.wanda,
  "ria": calibration.ria,
  "sparsegpt": calibration.sparsegpt(),
}


def linear(params, x):
  return x @ params["kernel"]


def loss(params, batch):
  return jnp.mean((linear(params, batch["x"]) - batch["y"]) ** 2)


def draw(inputs, outputs, rows=64, seed=0):
  """Returns correlated inputs [T, I] and weights [I, O], in float32."""
  random = np.random.default_rng(seed)
  mixed = random.normal(size=(rows, inputs)) @ random.normal(
    size=(inputs, inputs)
  )
  scale = random.lognormal(size=inputs)
  weights = random.normal(size=(inputs, outputs))
  return (mixed * scale).astype(np.float32), weights.astype(np.float32)


def prune(x, weights, sparsity=None, **options):
  pruned = sparsejax.prune_with_calibration(
    linear, {"kernel": weights}, [x], sparsity, **options
  )
  return np.asarray(pruned.params["kernel"]), np.asarray(pruned.masks["kernel"])


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
@pytest.mark.parametrize("block", [4, 6, 128])
def test_sparsegpt_is_the_published_algorithm(sparsity, block):
  x, weights = draw(12, 10)
  solver = calibration.sparsegpt(block=block)
  got, mask = prune(x, weights, sparsity, solver=solver)
  total = counts.requested_count(120, sparsity)
  ends = [min(12, end) for end in range(block, 12 + block, block)]
  up_to = [total * end // 12 for end in ends]
  sizes = np.diff([0, *ends]) * 10
  pruned = sizes - np.diff([0, *up_to])
  want, gone = oracle.sparsegpt(
    weights.T.astype(float),
    x.astype(float),
    pruned,
    block=block,
    dampening=0.01,
  )
  np.testing.assert_array_equal(mask, ~gone.T)
  np.testing.assert_allclose(got, want.T, rtol=2e-3, atol=2e-3)
  assert mask.sum() == total


@pytest.mark.parametrize("n, m, block", [(2, 4, 4), (2, 4, 8), (1, 3, 128)])
def test_sparsegpt_takes_n_of_m(n, m, block):
  x, weights = draw(24, 5)
  got, mask = prune(
    x,
    weights,
    solver=calibration.sparsegpt(block=block),
    comparison=calibration.n_of_m(n, m),
  )
  want, gone = oracle.sparsegpt(
    weights.T.astype(float),
    x.astype(float),
    None,
    block=max(block // m * m, m),
    dampening=0.01,
    n_of_m=(n, m),
  )
  np.testing.assert_array_equal(mask, ~gone.T)
  np.testing.assert_allclose(got, want.T, rtol=2e-3, atol=2e-3)


def test_sparsegpt_leaves_inputs_that_are_always_zero_alone():
  x, weights = draw(12, 10)
  x[:, 5] = 0
  got, mask = prune(x, weights, 0.5, solver=calibration.sparsegpt(block=4))
  assert np.isfinite(got).all() and not got[5].any()
  assert mask.sum() == 60 and (got[~mask] == 0).all()


def highest(scores, count):
  return ~oracle.lowest(scores, scores.size - count)


def test_wanda_compares_the_weights_of_an_output():
  x, weights = draw(12, 10)
  _, mask = prune(x, weights, 0.5)
  scores = np.abs(weights) * np.linalg.norm(x.astype(float), axis=0)[:, None]
  want = np.stack([highest(column, 6) for column in scores.T], 1)
  np.testing.assert_array_equal(mask, want)


def test_wanda_worked_by_hand():
  """Inputs of norms 4, 1 and 2."""
  weights = np.array([[1, -1], [3, 6], [-1, 1]], np.float32)
  x = np.diag([4, 1, 2]).astype(np.float32)
  got, _ = prune(x, weights, 1 / 3)
  # Scores 4 3 2 and 4 6 2.
  np.testing.assert_array_equal(got, [[1, -1], [3, 6], [0, 0]])


def test_ria_is_the_formula_of_the_paper():
  x, weights = draw(12, 10)
  _, mask = prune(x, weights, 0.7, solver=calibration.ria)
  size = np.abs(weights.astype(float))
  shares = size / size.sum(0, keepdims=True) + size / size.sum(1, keepdims=True)
  norms = np.linalg.norm(x.astype(float), axis=0)
  np.testing.assert_array_equal(
    mask, highest(shares * norms[:, None] ** 0.5, 36)
  )


def test_taylor_and_fisher_square_the_gradients_of_batches_and_examples():
  x, weights = draw(6, 4, rows=16)
  random = np.random.default_rng(7)
  batches = [
    {"x": part, "y": random.normal(size=(8, 4)).astype(np.float32)}
    for part in np.split(x, 2)
  ]

  def gradient(batch):
    residual = batch["x"].astype(float) @ weights - batch["y"]
    return batch["x"].T @ residual * 2 / residual.size

  examples = [
    {name: values[i : i + 1] for name, values in batch.items()}
    for batch in batches
    for i in range(8)
  ]
  for solver, parts in (
    (calibration.taylor, batches),
    (calibration.fisher, examples),
  ):
    pruned = sparsejax.prune_with_calibration(
      loss, {"kernel": weights}, batches, 0.5, solver=solver
    )
    squares = sum(gradient(part) ** 2 for part in parts)
    want = highest(squares * weights.astype(float) ** 2, 12)
    np.testing.assert_array_equal(pruned.masks["kernel"], want)


def test_solvers_of_gradients_need_a_loss():
  x, weights = draw(4, 3)
  with pytest.raises(ValueError, match="`apply` must return the loss"):
    prune(x, weights, 0.5, solver=calibration.fisher)


COMPARISONS = {
  "0.5": {"sparsity": 0.5},
  "2:4": {"comparison": calibration.n_of_m(2, 4)},
}


@pytest.fixture(scope="module")
def network():
  """Returns apply, params, calibration and held-out batches."""
  matrices, _ = calibrated.draw()
  apply, params, _ = calibrated.plain(matrices, True)
  mixing = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
  random = np.random.default_rng(2)
  scale = np.exp(random.normal(size=8)).astype(np.float32)
  batches = [
    (random.normal(size=(128, 8)).astype(np.float32) @ mixing) * scale
    for _ in range(4)
  ]
  return apply, params, batches[:2], batches[2:]


@pytest.mark.parametrize("name", COMPARISONS)
def test_errors_on_held_out_batches(network, name):
  """SparseGPT <= Wanda <= magnitude, summed over the layers."""
  apply, params, batches, held_out = network
  inputs = calibration.calibrate(
    apply, params, held_out, statistic=calibration.GRAM
  )
  errors = {}
  for solver in ("sparsegpt", "wanda", "magnitude"):
    pruned = sparsejax.prune_with_calibration(
      apply, params, batches, solver=SOLVERS[solver], **COMPARISONS[name]
    )
    found = calibration.output_errors(inputs, params, pruned.params)
    errors[solver] = sum(found.values())
  assert 0 < errors["sparsegpt"] < errors["wanda"] < errors["magnitude"], errors


def test_errors_are_those_of_the_outputs(network):
  apply, params, batches, _ = network
  pruned = sparsejax.prune_with_calibration(apply, params, batches, 0.5)
  inputs = calibration.calibrate(
    apply, params, batches, statistic=calibration.GRAM
  )
  found = calibration.output_errors(inputs, params, pruned.params)
  x = np.concatenate(batches).astype(float)
  old, new = x @ params["first"], x @ np.asarray(pruned.params["first"])
  want = ((old - new) ** 2).sum() / (old**2).sum()
  np.testing.assert_allclose(found["first"], want, rtol=1e-4)


def test_a_block_follows_the_pruned_blocks_before_it(network):
  """With `sequential`, slice i sees what slices 0 to i - 1 put out."""
  apply, params, batches, _ = network
  prune = functools.partial(
    sparsejax.prune_with_calibration,
    apply,
    batches=batches,
    sparsity=0.5,
    solver=calibration.wanda,
  )
  found = prune(params, sequential=True).params
  # By hand: each matrix by its own inputs in the network pruned so far.
  wide = {name: np.asarray(p, float) for name, p in params.items()}
  x = np.concatenate(batches).astype(float)

  def pruned(x, matrix):
    scores = np.abs(matrix) * np.linalg.norm(x, axis=0)[:, None]
    kept = [highest(column, len(column) // 2) for column in scores.T]
    return np.where(np.stack(kept, 1), matrix, 0)

  first = pruned(x, wide["first"])
  x = np.tanh(x @ first)
  blocks = []
  for block in wide["blocks"]:
    blocks.append(pruned(x, block))
    x = np.tanh(x @ blocks[-1])
  want = {"first": first, "blocks": np.stack(blocks)}
  want["last"] = pruned(x, wide["last"])
  for name, matrix in want.items():
    np.testing.assert_allclose(found[name], matrix, rtol=1e-6)


@pytest.mark.parametrize(
  "solver", tiers.some(SOLVERS, lambda name: name == "sparsegpt")
)
def test_passes_change_no_mask(network, solver):
  apply, params, batches, _ = network
  whole, parts = (
    sparsejax.prune_with_calibration(
      apply, params, batches, 0.6, solver=SOLVERS[solver], max_bytes=max_bytes
    )
    for max_bytes in (2**30, 1100)
  )
  jax.tree.map(np.testing.assert_array_equal, whole.masks, parts.masks)


def test_masks_and_weights_go_into_fine_tuning(network):
  apply, params, batches, _ = network
  pruned = sparsejax.prune_with_calibration(
    apply, params, batches, 0.5, solver=calibration.sparsegpt()
  )
  tx = sparsejax.sparsify(
    optax.adam(1e-2), sparsejax.dense(), masks=pruned.masks
  )
  params, state = pruned.params, tx.init(pruned.params)
  sparsejax.assert_sparse(params, state)

  @jax.jit
  def step(params, state, x):
    grads = jax.grad(lambda p: jnp.mean(apply(p, x) ** 2))(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  for x in batches:
    params, state = step(params, state, x)
  sparsejax.assert_sparse(params, state)
  found = sparsejax.summary(params, state)
  assert found.active == counts.requested_count(found.total, 0.5)


def test_owl_keeps_more_where_outliers_are():
  random = np.random.default_rng(0)
  w = random.normal(size=(3, 16, 16)).astype(np.float32) / 4
  w[1, 3] *= 40  # Outliers.

  def apply(params, x):
    return [x @ matrix for matrix in params["w"]]

  x = random.normal(size=(64, 16)).astype(np.float32)
  pruned = sparsejax.prune_with_calibration(
    apply,
    {"w": w},
    [x],
    0.5,
    overrides={"w": sparsejax.Override(axis=0)},
    distribution=calibration.owl(outlier=5.0, spread=0.06),
  )
  kept = np.asarray(pruned.masks["w"]).sum((1, 2))
  # Densities 0 .12 0 shifted to a mean of 0.5: 0.46 0.58 0.46.
  assert kept.sum() == 384
  np.testing.assert_allclose(kept / 256, [0.46, 0.58, 0.46], atol=1 / 256)


def test_owl_gives_blocks_one_sparsity(network):
  apply, params, batches, _ = network
  pruned = sparsejax.prune_with_calibration(
    apply,
    params,
    batches,
    0.5,
    distribution=calibration.owl(block=lambda layer: "all"),
  )
  for mask in jax.tree.leaves(pruned.masks):
    assert abs(float(mask.mean()) - 0.5) < 0.01


CHOICES = {
  "layer": calibration.per_layer,
  "output": calibration.per_output,
  "2:4": calibration.n_of_m(2, 4),
}


@settings(max_examples=12, deadline=None)
@given(
  inputs=st.sampled_from([4, 7, 8, 20]),
  outputs=st.sampled_from([2, 5]),
  sparsity=st.floats(0, 0.95),
  solver=st.sampled_from(sorted(SOLVERS)),
  choice=st.sampled_from(sorted(CHOICES)),
  seed=st.integers(0, 3),
)
def test_counts_are_exact(inputs, outputs, sparsity, solver, choice, seed):
  x, weights = draw(inputs, outputs, seed=seed)
  by_pattern = choice == "2:4"
  got, mask = prune(
    x,
    weights,
    None if by_pattern else sparsity,
    solver=SOLVERS[solver]
    if solver != "sparsegpt"
    else calibration.sparsegpt(block=8),
    comparison=CHOICES[choice],
  )
  assert (got[~mask] == 0).all()
  total = counts.requested_count(weights.size, sparsity)
  if not by_pattern:
    assert mask.sum() == total
  if choice == "output":
    per_output = mask.sum(0)
    assert per_output.max() - per_output.min() <= 1
    assert (np.diff(per_output) <= 0).all()  # The first ones have one more.
  if by_pattern and inputs % 4 == 0:
    assert (mask.reshape(-1, 4, outputs).sum(1) == 2).all()
  elif by_pattern:
    assert mask.all()


def test_ties_go_to_the_lower_index():
  got, mask = prune(
    np.ones((3, 4), np.float32), np.ones((4, 2), np.float32), 0.5
  )
  np.testing.assert_array_equal(mask, [[1, 1], [1, 1], [0, 0], [0, 0]])
  _, mask = prune(
    np.ones((3, 4), np.float32),
    np.ones((4, 2), np.float32),
    0.6,
    solver=calibration.magnitude,
  )
  np.testing.assert_array_equal(mask, [[1, 1], [1, 0], [0, 0], [0, 0]])


ERRORS = {
  "`sparsity` must be given": {},
  "and not both": {"sparsity": 0.5, "comparison": calibration.n_of_m(2, 4)},
  r"`sparsity` must be in \[0, 1\)": {"sparsity": 50.0},
  "`max_bytes` must be at least 1": {"sparsity": 0.5, "max_bytes": 0},
  "matches no leaf": {"sparsity": 0.5, "select": "x"},
}


@pytest.mark.parametrize("message", ERRORS)
def test_arguments_that_cannot_work_are_refused(message):
  x, weights = draw(4, 3)
  with pytest.raises(ValueError, match=message):
    prune(x, weights, **ERRORS[message])


@pytest.mark.parametrize(
  "make",
  [
    lambda: calibration.sparsegpt(dampening=0.0),
    lambda: calibration.sparsegpt(block=0),
    lambda: calibration.owl(outlier=0.0),
    lambda: calibration.owl(spread=-1.0),
    lambda: calibration.n_of_m(4, 4),
  ],
)
def test_numbers_out_of_range_are_refused(make):
  with pytest.raises(ValueError, match="must be"):
    make()


def test_an_axis_that_divides_the_inputs_is_refused():
  x, weights = draw(4, 3)
  with pytest.raises(ValueError, match="`axis` of the override for 'kernel'"):
    prune(x, weights, 0.5, overrides={"kernel": sparsejax.Override(axis=0)})
