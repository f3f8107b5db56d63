"""Pruning at initialization against differences of the loss, and its laws."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiers
from oracles import at_init as oracle, ranking

import sparsejax
from sparsejax import at_init
from sparsejax.components import (
  counts as counting,
  distributions,
  leaves,
  trees,
)

SIZES = (4, 5, 3)
INPUTS = np.random.default_rng(1).normal(size=(2, 6, SIZES[0]))
LABELS = np.random.default_rng(2).integers(0, SIZES[-1], (2, 6))
BATCHES = {
  "x": jnp.asarray(INPUTS, jnp.float32),
  "y": jnp.asarray(LABELS, jnp.int32),
}


def float64_weights(seed=0, sizes=SIZES):
  random = np.random.default_rng(seed)
  # Rounded to float32, so that both sides have the same network.
  return [
    (
      random.normal(size=(rows, columns)).astype(np.float32).astype(float),
      (0.1 * random.normal(size=columns)).astype(np.float32).astype(float),
    )
    for rows, columns in zip(sizes, sizes[1:], strict=False)
  ]


def as_params(weights):
  return {
    f"layer_{number}": {
      "kernel": jnp.asarray(kernel, jnp.float32),
      "bias": jnp.asarray(bias, jnp.float32),
    }
    for number, (kernel, bias) in enumerate(weights)
  }


def logits(params, x, activation):
  for number, layer in enumerate(params.values()):
    x = x @ layer["kernel"] + layer["bias"]
    x = activation(x) if number + 1 < len(params) else x
  return x


def loss(params, batch, temperature=1.0):
  found = logits(params, batch["x"], jnp.tanh) / temperature
  return optax.softmax_cross_entropy_with_integer_labels(
    found, batch["y"]
  ).mean()


def flow(params, x):
  return logits(params, x, jax.nn.relu)


def oracle_loss(weights, temperature=1.0):
  return sum(
    oracle.cross_entropy(weights, x, y, temperature)
    for x, y in zip(INPUTS, LABELS, strict=True)
  )


def score(criterion, loss_fn, params, batches, key):
  """Scores a dense network."""
  layout = leaves.find_layout(params, None, None)
  masks = layout.masked_tree([jnp.ones(x.shape, bool) for x in layout.leaves])
  return criterion.score(at_init.Network(loss_fn, params, batches, masks, key))


def kernels(tree):
  return [layer["kernel"] for layer in tree.values()]


# A difference in float64 against autodiff in float32.
CLOSE = {"rtol": 2e-4, "atol": 1e-6}


def test_snip_is_the_change_of_the_loss():
  weights = float64_weights()
  scores = score(at_init.snip, loss, as_params(weights), BATCHES, None)
  want = oracle.snip(oracle_loss, weights)
  for got, expected in zip(kernels(scores), want, strict=True):
    np.testing.assert_allclose(got, expected, **CLOSE)


def test_taylor_is_the_squared_change_of_each_batch():
  weights = float64_weights()
  scores = score(at_init.taylor, loss, as_params(weights), BATCHES, None)
  each = [
    oracle.snip(lambda w, x=x, y=y: oracle.cross_entropy(w, x, y, 1.0), weights)
    for x, y in zip(INPUTS, LABELS, strict=True)
  ]
  for got, first, second in zip(kernels(scores), *each, strict=True):
    np.testing.assert_allclose(got, first**2 + second**2, **CLOSE)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_grasp_is_the_change_of_the_gradient_norm(temperature):
  weights = float64_weights(sizes=(3, 4, 2))
  x, y = INPUTS[:, :4, :3], LABELS[:, :4] % 2
  batches = {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(y, jnp.int32)}
  scores = score(
    at_init.grasp,
    lambda p, b: loss(p, b, temperature),
    as_params(weights),
    batches,
    None,
  )

  def total(at):  # The two halves are summed.
    return sum(
      oracle.cross_entropy(at, *half, temperature)
      for half in zip(x, y, strict=True)
    )

  want = oracle.grasp(total, weights)
  for got, expected in zip(kernels(scores), want, strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


def test_synflow_is_the_change_of_the_flow():
  weights = float64_weights()
  ones = jnp.ones((1, 1, SIZES[0]))
  scores = score(at_init.synflow, flow, as_params(weights), ones, None)
  want = oracle.synflow(weights, np.ones((1, SIZES[0])))
  largest = max(score.max() for score in want)
  biases = [abs(b) for _, b in weights]
  assert max(map(np.max, biases)) < largest  # The largest is of a kernel.
  top = max(float(jnp.max(leaf)) for leaf in jax.tree.leaves(scores))
  assert top == 1.0
  ratio = kernels(scores)[0] / want[0]
  for got, expected in zip(kernels(scores), want, strict=True):
    np.testing.assert_allclose(got, expected * ratio[0, 0], **CLOSE)
    assert got.dtype == jnp.float32


CASES = {
  "snip": (at_init.snip, loss, BATCHES, lambda w: oracle.snip(oracle_loss, w)),
  "synflow": (
    at_init.synflow,
    flow,
    jnp.ones((1, 1, SIZES[0])),
    lambda w: oracle.synflow(w, np.ones((1, SIZES[0]))),
  ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rounds", [1, 7])
def test_masks_equal_the_oracles_round_by_round(name, rounds):
  criterion, loss_fn, batches, score = CASES[name]
  weights = float64_weights(seed=3)
  found = sparsejax.prune_at_init(
    loss_fn,
    as_params(weights),
    batches,
    0.7,
    criterion=criterion._replace(rounds=rounds),
  )
  want = oracle.prune(score, weights, 0.7, rounds)
  for got, expected in zip(kernels(found), want, strict=True):
    np.testing.assert_array_equal(got, expected)


# Worked numbers


def test_worked_numbers_of_grasp():
  # Both official codes leave the bias out of the direction.
  params = {
    "kernel": jnp.array([[1.0, 2.0], [3.0, -1.0]]),
    "bias": jnp.array([0.5, -2.0]),
  }

  def cubed(p, x):
    return jnp.sum(jnp.tanh(x @ p["kernel"] + p["bias"]) ** 3)

  scores = score(at_init.grasp, cubed, params, jnp.array([[[0.3, -0.2]]]), None)
  np.testing.assert_allclose(
    scores["kernel"], [[0.0046, 0.0295], [-0.0092, 0.0098]], atol=5e-5
  )


def test_grasp_follows_the_flow_of_the_weights_that_compete():
  params = as_params(float64_weights())
  layout = leaves.find_layout(params, None, None)
  active = [jnp.abs(x) > 0.3 for x in layout.take(params)]
  masks = layout.masked_tree(active)
  network = at_init.Network(loss, trees.where(masks, params), BATCHES, masks)

  def norm(sparse):
    def summed(sparse):
      whole = layout.put(params, sparse)
      return jnp.sum(jax.vmap(lambda batch: loss(whole, batch))(BATCHES))

    grads = jax.grad(summed)(sparse)
    pairs = zip(active, grads, strict=True)
    return sum(jnp.sum(jnp.where(m, g, 0) ** 2) for m, g in pairs) / 2

  sparse = layout.take(network.params)
  want = [w * s for w, s in zip(sparse, jax.grad(norm)(sparse), strict=True)]
  found = layout.take(at_init.grasp.score(network))
  for one, other in zip(found, want, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_worked_numbers_of_snip():
  w, g = (
    jnp.array([[2, -0.1], [0.5, -0.4]]),
    jnp.array([[0.1, -0.5], [0.02, 0.3]]),
  )
  params = {"kernel": w}
  batch = g[None]
  scores = score(
    at_init.snip,
    lambda p, slope: jnp.sum(p["kernel"] * slope),
    params,
    batch,
    None,
  )["kernel"]
  np.testing.assert_allclose(scores, [[0.2, 0.05], [0.01, 0.12]], rtol=1e-6)
  shares = scores / scores.sum()
  np.testing.assert_allclose(
    shares, [[0.526316, 0.131579], [0.026316, 0.315789]], atol=1e-6
  )


def test_worked_shares_of_synflow():
  active = []

  def counting(network):
    left = jnp.sum(network.params["kernel"] != 0, dtype=jnp.int32)
    jax.debug.callback(lambda n: active.append(int(n)), left, ordered=True)
    return jax.tree.map(jnp.abs, network.params)

  found = sparsejax.prune_at_init(
    None,
    {"kernel": 1 + jnp.arange(1e4).reshape(100, 100)},
    None,
    0.9,
    criterion=at_init.synflow._replace(score=counting),
  )
  assert int(found["kernel"].sum()) == 1_000
  assert len(active) == 100
  assert [active[i] for i in (0, 1, 50)] == [10_000, 9_772, 3_162]


def test_worked_magnitudes():
  params = {
    "first": jnp.array([[3, -1], [0.5, 0.2]]),
    "second": jnp.array([[0.9, -4], [0.1, 0.3]]),
  }
  found = sparsejax.prune_at_init(
    None, params, None, 0.5, criterion=at_init.magnitude
  )
  for mask in found.values():
    np.testing.assert_array_equal(mask, [[True, True], [False, False]])


# Laws

CRITERIA = {
  "snip": at_init.snip,
  "taylor": at_init.taylor,
  "grasp": at_init.grasp,
  "synflow": at_init.synflow._replace(rounds=5),
  "magnitude": at_init.magnitude,
  "random": at_init.random,
}
SCOPES = {
  "erk": sparsejax.layerwise(sparsejax.erk),
  "alive": sparsejax.keep_alive(sparsejax.global_scope, 2),
}


@pytest.mark.parametrize(
  ("name", "scope"),
  [
    *((name, "global") for name in CRITERIA),
    *(("snip", scope) for scope in SCOPES),
    *tiers.every(9, [("synflow", scope) for scope in SCOPES]),
  ],
)
def test_counts_are_exact(name, scope):
  params = as_params(float64_weights())
  data = jnp.asarray(INPUTS, jnp.float32) if name == "synflow" else BATCHES
  found = sparsejax.prune_at_init(
    flow if name == "synflow" else loss,
    params,
    data,
    0.83,
    criterion=CRITERIA[name],
    scope=SCOPES.get(scope, sparsejax.global_scope),
    key=jax.random.key(4),
  )
  counts = [int(mask.sum()) for mask in kernels(found)]
  assert sum(counts) == counting.requested_count([20, 15], 0.83) == 5
  if scope == "erk":
    sparsities = distributions.erk({"a": (4, 5), "b": (5, 3)}, 0.83)
    want = counting.apportion([20, 15], list(sparsities.values()), 5)
    assert counts == want.tolist()
  if scope == "alive":
    assert min(counts) >= 2
  assert isinstance(found["layer_0"]["bias"], optax.MaskedNode)


def test_random_masks_are_those_of_sparsify():
  params = as_params(float64_weights(sizes=(20, 30, 10)))
  key = jax.random.key(9)
  method = sparsejax.static(0.8)
  state = sparsejax.sparsify(optax.sgd(0.1), method, key=key).init(params)
  found = sparsejax.prune_at_init(
    None,
    params,
    None,
    0.8,
    criterion=at_init.random,
    scope=sparsejax.layerwise(sparsejax.erk),
    key=key,
  )
  jax.tree.map(np.testing.assert_array_equal, found, state.masks)


def test_sparsify_starts_from_the_masks_and_preserves_them():
  params = as_params(float64_weights())
  found = sparsejax.prune_at_init(loss, params, BATCHES, 0.6)
  tx = sparsejax.sparsify(
    optax.sgd(0.1, momentum=0.9),
    sparsejax.static(0.6),
    key=jax.random.key(0),
    masks=found,
  )
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  batch = jax.tree.map(lambda x: x[0], BATCHES)

  @jax.jit
  def step(params, state):
    updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
    return optax.apply_updates(params, updates), state

  for _ in range(3):
    params, state = step(params, state)
  jax.tree.map(np.testing.assert_array_equal, found, state.masks)
  sparsejax.assert_sparse(params, state)
  assert sparsejax.summary(params, state).active == 14


def test_only_given_weights_compete():
  params = as_params(float64_weights())
  first = sparsejax.prune_at_init(loss, params, BATCHES, 0.5)
  second = sparsejax.prune_at_init(
    loss, params, BATCHES, 0.8, criterion=at_init.magnitude, masks=first
  )
  values = [
    np.where(m, np.abs(k), 0)
    for m, k in zip(kernels(first), kernels(params), strict=True)
  ]
  want = ranking.keep_top_over(
    values, 7, [np.asarray(m) for m in kernels(first)]
  )
  for got, expected in zip(kernels(second), want, strict=True):
    np.testing.assert_array_equal(got, expected)
  with pytest.raises(ValueError, match="requests 21 weights, but `masks` has"):
    sparsejax.prune_at_init(loss, params, BATCHES, 0.4, masks=first)


def test_it_runs_under_jit_and_from_an_iterator():
  params = as_params(float64_weights())
  plain = sparsejax.prune_at_init(loss, params, BATCHES, 0.6)
  inside = jax.jit(lambda p, b: sparsejax.prune_at_init(loss, p, b, 0.6))(
    params, BATCHES
  )
  one_by_one = (
    {"x": x, "y": y} for x, y in zip(*BATCHES.values(), strict=True)
  )
  streamed = sparsejax.prune_at_init(loss, params, one_by_one, 0.6)
  jax.tree.map(np.testing.assert_array_equal, plain, inside)
  jax.tree.map(np.testing.assert_array_equal, plain, streamed)


def test_half_precision_is_scored_in_float32():
  params = as_params(float64_weights())
  half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
  for criterion in CRITERIA.values():
    if criterion is not at_init.random:
      data = INPUTS.astype(np.float32)
      fn = lambda p, x: jnp.sum(flow(p, x)).astype(jnp.float32)  # noqa: E731
      scores = score(criterion, fn, half, jnp.asarray(data), None)
      assert {s.dtype for s in jax.tree.leaves(scores)} == {jnp.float32.dtype}


def test_synflow_does_not_overflow_in_deep_networks():
  depth, width = 60, 40
  shape = (depth, width, width)
  params = {"kernels": jax.random.normal(jax.random.key(0), shape) / 3}

  def deep(params, x):
    layer = lambda x, kernel: (jax.nn.relu(x @ kernel), None)  # noqa: E731
    return jax.lax.scan(layer, x, params["kernels"])[0]

  ones = jnp.ones((1, 1, width))
  assert not np.isfinite(np.sum(deep(jax.tree.map(jnp.abs, params), ones[0])))
  found = sparsejax.prune_at_init(
    deep,
    params,
    ones,
    0.99,
    criterion=at_init.synflow._replace(rounds=20),
  )
  counts = np.sum(found["kernels"], axis=(1, 2))
  assert counts.sum() == 960
  # Flow is conserved, so equal layers have similar counts: none collapses.
  assert counts.min() >= 8


def test_synflow_goes_through_max_pooling():
  """JAX lowers its gradient by tracing it again, in default types."""
  shapes = {"kernel": (3, 3, 1, 4), "out": (16, 3)}
  params = {
    name: jax.random.normal(jax.random.key(i), shape)
    for i, (name, shape) in enumerate(shapes.items())
  }

  def pooled(params, x):
    x = jax.lax.conv_general_dilated(
      x,
      params["kernel"],
      (1, 1),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = nn.max_pool(x, (2, 2), strides=(2, 2))
    return x.reshape(x.shape[0], -1) @ params["out"]

  found = sparsejax.prune_at_init(
    pooled,
    params,
    jnp.ones((1, 1, 4, 4, 1)),
    0.75,
    criterion=at_init.synflow._replace(rounds=3),
  )
  assert sum(int(m.sum()) for m in found.values()) == 21


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"sparsity": 90.0}, r"must be in \[0, 1\), got 90"),
    ({"criterion": at_init.snip._replace(rounds=0)}, "`rounds` must be at"),
    ({"criterion": at_init.random}, "`key` must be given"),
    ({"batches": None}, "`batches` must be given"),
    ({"batches": iter(())}, "yields none"),
    ({"batches": {"x": jnp.ones((2, 3)), "y": jnp.ones(3)}}, "Add one"),
    ({"select": "nothing"}, "matches no leaf"),
    ({"overrides": {"nothing": "dense"}}, "matches no leaf"),
  ],
)
def test_bad_arguments_are_refused(changes, message):
  given = {"batches": BATCHES, "sparsity": 0.9} | changes
  batches, sparsity = given.pop("batches"), given.pop("sparsity")
  params = as_params(float64_weights())
  with pytest.raises(ValueError, match=message):
    sparsejax.prune_at_init(loss, params, batches, sparsity, **given)


def test_scores_that_are_not_finite_are_refused():
  params = as_params(float64_weights())
  params["layer_1"]["kernel"] = params["layer_1"]["kernel"] * jnp.nan
  with pytest.raises(ValueError, match="not finite in .*layer_1/kernel"):
    sparsejax.prune_at_init(loss, params, BATCHES, 0.5)


def test_select_and_overrides_leave_leaves_dense():
  params = as_params(float64_weights())
  found = sparsejax.prune_at_init(
    loss, params, BATCHES, 0.5, select="*_0/kernel"
  )
  other = sparsejax.prune_at_init(
    loss, params, BATCHES, 0.5, overrides={"layer_1/*": "dense"}
  )
  jax.tree.map(np.testing.assert_array_equal, found, other)
  assert int(found["layer_0"]["kernel"].sum()) == 10
  assert isinstance(found["layer_1"]["kernel"], optax.MaskedNode)
