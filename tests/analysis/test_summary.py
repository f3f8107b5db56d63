"""`summary` tells of the parameters that it is given, whatever holds them."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax

METHOD = sparsejax.static(0.9)


def network(seed=0):
  keys = jax.random.split(jax.random.key(seed), 2)
  return {
    "hidden": {"kernel": jax.random.normal(keys[0], (20, 30))},
    "out": {
      "kernel": jax.random.normal(keys[1], (30, 10)),
      "bias": jnp.ones(10),
    },
  }


def sparse(inner=None, method=METHOD):
  return sparsejax.sparsify(
    inner or optax.sgd(0.1), method, key=jax.random.key(0)
  )


def step(tx, params, state):
  updates, state = tx.update(network(1), state, params)
  return optax.apply_updates(params, updates), state


@pytest.mark.parametrize(
  "after", [optax.scale(-1e-2), optax.add_decayed_weights(0.1), optax.clip(0.1)]
)
def test_what_moves_weights_behind_sparsify_is_counted(after):
  tx = optax.chain(sparse(), after)
  params = network()
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  for _ in range(2):  # The first step of some leaves zeros as they are.
    params, state = step(tx, params, state)
  params = jax.tree.map(lambda p: p + 0.0, params)
  counted = sparsejax.summary(params, state)
  masks = sparsejax.get_masks(state)
  moved = sum(
    int(
      (np.asarray(params[name]["kernel"]) * ~masks[name]["kernel"] != 0).sum()
    )
    for name in ("hidden", "out")
  )
  assert counted.inactive_nonzero == moved
  if moved:
    assert counted.sparsity == 1 - (counted.active + moved) / 900
    assert "inactive weights are not 0" in counted.warnings[0]
    assert "inactive, not 0" in str(counted)
  else:
    assert not counted.warnings


def test_dense_parameters_are_not_called_sparse():
  params = network()
  state = sparse().init(params)
  before = sparsejax.summary(params, state)
  assert before.sparsity == 0 and before.inactive_nonzero == 810
  assert "is 0.00% and not 90.00%" in before.warnings[0]
  after = sparsejax.summary(sparsejax.apply_masks(params, state), state)
  assert after.sparsity == 0.9 and not after.warnings
  assert "inactive, not 0" not in str(after)


def test_shapes_alone_are_counted_by_their_masks():
  params = network()
  state = sparse().init(params)
  shapes = jax.eval_shape(lambda: params)
  assert sparsejax.summary(shapes, state).sparsity == 0.9


def test_what_was_counted_once_is_not_compiled_again(caplog):
  """Outside jit, as in a loop that checks the weights after every epoch."""
  params = network()
  state = sparse().init(params)
  params = sparsejax.apply_masks(params, state)

  def count():
    caplog.clear()
    sparsejax.assert_sparse(params, state)
    sparsejax.summary(params, state)
    sparsejax.stats(state)
    return [x.message for x in caplog.records if "Compiling" in x.message]

  jax.clear_caches()
  with jax.log_compiles():
    assert count()
    assert not count()


def test_an_average_of_sparse_networks_is_counted_as_it_is():
  params, other = network(), network(1)
  state = sparse().init(params)
  average = jax.tree.map(lambda a, b: (a + b) / 2, params, other)
  assert sparsejax.summary(average, state).inactive_nonzero == 810
  masked = sparsejax.apply_masks(average, state)
  assert sparsejax.summary(masked, state).inactive_nonzero == 0


def test_networks_under_vmap_are_counted_one_by_one():
  params = jax.vmap(lambda i: jax.tree.map(lambda p: p + i, network()))(
    jnp.arange(3.0)
  )
  tx = sparse()
  state = jax.vmap(tx.init)(params)
  params = jax.vmap(sparsejax.apply_masks)(params, state)
  counted = sparsejax.summary(params, state)
  assert counted.sparsity == 0.9 and counted.total == 2700
  assert [x.name for x in counted.layers][:3] == [
    "0: hidden/kernel",
    "0: out/kernel",
    "1: hidden/kernel",
  ]
  assert counted.parameters == 3 * 910
  sparsejax.assert_sparse(params, state)


@pytest.mark.parametrize("prefix", [False, True])
def test_multi_transform_with_labels_of_subtrees(prefix):
  labels = {"hidden": "sparse", "out": "dense"}
  if not prefix:
    labels = {
      "hidden": {"kernel": "sparse"},
      "out": {"kernel": "dense", "bias": "dense"},
    }
  tx = optax.multi_transform(
    {"sparse": sparse(), "dense": optax.sgd(0.1)}, labels
  )
  params = network()
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  params, state = step(tx, params, state)
  counted = sparsejax.summary(params, state)
  assert [x.name for x in counted.layers] == ["hidden/kernel"]
  assert counted.active == 60 and counted.parameters == 910
  assert [x.name for x in counted.dense] == ["out/kernel"]
  sparsejax.assert_sparse(params, state)


def test_two_sparse_states_with_labels_of_subtrees():
  tx = optax.multi_transform(
    {"a": sparse(), "b": sparse(method=sparsejax.static(0.5))},
    {"hidden": "a", "out": "b"},
  )
  params = network()
  state = tx.init(params)
  masks = sparsejax.get_masks(state)
  assert int(masks["hidden"]["kernel"].sum()) == 60
  assert int(masks["out"]["kernel"].sum()) == 150
  params = sparsejax.apply_masks(params, state)
  assert sparsejax.summary(params, state).active == 210


class Net(nnx.Module):
  """Layers, and state that is no parameter."""

  def __init__(self, rngs):
    self.hidden = nnx.Linear(20, 30, rngs=rngs)
    self.norm = nnx.BatchNorm(30, rngs=rngs)
    self.drop = nnx.Dropout(0.1, rngs=rngs)
    self.out = nnx.Linear(30, 10, rngs=rngs)

  def __call__(self, x):
    return self.out(self.drop(nnx.relu(self.norm(self.hidden(x)))))


def test_models_and_optimizers_of_nnx_as_they_are():
  model = Net(nnx.Rngs(0))
  optimizer = nnx.Optimizer(
    model,
    sparse(optax.adam(0.01), sparsejax.rigl(0.9, end_step=9, every_steps=2)),
    wrt=nnx.Param,
  )
  params = nnx.state(model, nnx.Param)
  nnx.update(model, sparsejax.apply_masks(params, optimizer))
  sparsejax.assert_sparse(model, optimizer)

  @nnx.jit
  def train_step(model, optimizer, x):
    grads = nnx.grad(lambda model: jnp.mean(model(x) ** 2))(model)
    optimizer.update(model, grads)

  for seed in range(3):
    x = jax.random.normal(jax.random.key(seed), (8, 20))
    train_step(model, optimizer, x)
  sparsejax.assert_sparse(model, optimizer)
  counted = sparsejax.summary(model, optimizer)
  assert counted.active == 90 and counted.inactive_nonzero == 0
  assert [x.name for x in counted.layers] == ["hidden/kernel", "out/kernel"]
  assert counted.parameters == 20 * 30 + 30 + 2 * 30 + 30 * 10 + 10
  for holder in (optimizer, optimizer.opt_state):
    assert sparsejax.summary(nnx.state(model, nnx.Param), holder) == counted
  masks = sparsejax.get_masks(optimizer)
  assert masks["hidden"]["kernel"].dtype == bool
  frozen = sparsejax.freeze(optimizer)
  for seed in range(4):
    train_step(model, frozen, jax.random.normal(jax.random.key(seed), (8, 20)))
  after = sparsejax.get_masks(frozen)
  chex.assert_trees_all_equal(after["hidden"], masks["hidden"])


def test_a_copy_of_an_nnx_model_is_sparse():
  model = Net(nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, sparse(), wrt=nnx.Param)
  copy = sparsejax.apply_masks(model, optimizer)
  assert isinstance(copy, Net)
  assert sparsejax.summary(copy, optimizer).sparsity == 0.9
  assert sparsejax.summary(model, optimizer).sparsity == 0


def test_whole_modules_of_equinox():
  model = eqx.nn.MLP(20, 10, 30, 1, key=jax.random.key(0))
  tx = sparse()
  state = tx.init(eqx.filter(model, eqx.is_inexact_array))
  masked = sparsejax.apply_masks(model, state)
  assert masked.activation is model.activation
  sparsejax.assert_sparse(masked, state)
  counted = sparsejax.summary(masked, state)
  assert counted.sparsity == 0.9
  assert [x.name for x in counted.layers] == [
    "layers/0/weight",
    "layers/1/weight",
  ]


def test_parameters_of_another_network_are_refused():
  state = sparse().init(network())
  with pytest.raises(ValueError, match="no leaf for hidden/kernel"):
    sparsejax.summary({"out": network()["out"]}, state)
  wrong = network() | {"hidden": {"kernel": jnp.ones((3, 3))}}
  with pytest.raises(ValueError, match=r"shape \(20, 30\) at 'hidden/kernel'"):
    sparsejax.apply_masks(wrong, state)


def test_stacked_layers_that_are_counted_as_one_are_noted():
  params = {
    "blocks": {"kernel": jnp.ones((4, 8, 6)), "bias": jnp.ones((4, 6))},
    "query": {"kernel": jnp.ones((8, 2, 4)), "bias": jnp.ones((2, 4))},
  }
  noted = sparsejax.summary(params, sparse().init(params)).notes
  assert len(noted) == 1 and "blocks/kernel looks like 4 stacked" in noted[0]
  assert "{'blocks/kernel': sparsejax.Override(axis=0)}" in noted[0]
  tx = sparsejax.sparsify(
    optax.sgd(0.1),
    METHOD,
    key=jax.random.key(0),
    overrides={"blocks/kernel": sparsejax.Override(axis=0)},
  )
  assert not sparsejax.summary(params, tx.init(params)).notes


@pytest.mark.parametrize(
  "method",
  [
    sparsejax.rigl(0.9, end_step=9, every_steps=2),
    sparsejax.static(0.9),
    sparsejax.sparse_evolution(0.9, every_steps=2, total_steps=9),
  ],
  ids=repr,
)
def test_a_new_method_on_an_old_state_is_told_what_it_does_not_reach(method):
  params = network()
  old = sparse(method=sparsejax.rigl(0.5, end_step=9, every_steps=2))
  state = old.init(params)
  params = sparsejax.apply_masks(params, state)
  params, state = step(old, params, state)
  assert not sparsejax.summary(params, state).warnings
  new = sparse(method=method)
  params, state = step(new, params, state)
  counted = sparsejax.summary(params, state)
  assert counted.active == 450 and counted.requested == 90
  assert "90 weights were requested, 450 are active" in counted.warnings[0]
  assert int(sparsejax.stats(state)["requested"]) == 90
  # The way out: prune to the new sparsity, and keep the rest of the state.
  prune = sparse(method=sparsejax.one_shot(0.9, at_step=0))
  masks = sparsejax.get_masks(prune.init(params))
  new = sparsejax.sparsify(
    optax.sgd(0.1), method, key=jax.random.key(2), masks=masks
  )
  fresh = new.init(params)
  state = fresh._replace(step=state.step, inner_state=state.inner_state)
  params = sparsejax.apply_masks(params, state)
  params, state = step(new, params, state)
  counted = sparsejax.summary(params, state)
  assert counted.active == counted.requested == 90 and not counted.warnings
