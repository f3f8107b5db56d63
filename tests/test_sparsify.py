"""What `sparsify` accepts, refuses and preserves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiers

import sparsejax
from sparsejax.analysis import flops


def network(seed=0):
  keys = jax.random.split(jax.random.key(seed), 3)
  return {
    "stem": {"kernel": jax.random.normal(keys[0], (3, 3, 2, 8))},
    "body": {
      "kernel": jax.random.normal(keys[1], (16, 20)),
      "bias": jnp.zeros(20),
    },
    "head": {"kernel": jax.random.normal(keys[2], (20, 10))},
  }


def counts(params, state):
  return {x.name: x.active for x in sparsejax.summary(params, state).layers}


def train(tx, params, steps, state=None, seed=100):
  state = tx.init(params) if state is None else state
  params = sparsejax.apply_masks(params, state)
  update = jax.jit(tx.update)
  for i in range(steps):
    updates, state = update(network(seed + i), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


GMP = dict(end_step=6, every_steps=2)


def test_params_are_required():
  tx = sparsejax.sparsify(optax.sgd(0.1), sparsejax.dense())
  params = network()
  with pytest.raises(ValueError, match="`params` must be given to `update`"):
    tx.update(params, tx.init(params))


@pytest.mark.parametrize(
  "method",
  [
    sparsejax.static(0.9),
    sparsejax.granet(0.9, **GMP, total_steps=9),
    sparsejax.rigl(0.9, end_step=9),
    sparsejax.gmp(0.9, initial_sparsity=0.5, **GMP),
  ],
)
def test_a_random_method_needs_a_key(method):
  tx = sparsejax.sparsify(optax.sgd(0.1), method)
  with pytest.raises(ValueError, match="`key` must be given, got None"):
    tx.init(network())


@pytest.mark.parametrize(
  "method", [sparsejax.gmp(0.9, **GMP), sparsejax.one_shot(0.9, at_step=3)]
)
def test_a_deterministic_method_needs_no_key(method):
  tx = sparsejax.sparsify(optax.sgd(0.1), method)
  params, state = train(tx, network(), 7)
  assert sparsejax.summary(params, state).active == 66


def test_raw_and_typed_keys_give_the_same_masks():
  first = [
    sparsejax.sparsify(optax.sgd(0.1), sparsejax.static(0.9), key=key).init(
      network()
    )
    for key in (jax.random.key(3), jax.random.PRNGKey(3))
  ]
  chex.assert_trees_all_equal(first[0].masks, first[1].masks)


@pytest.mark.parametrize("impl", tiers.every(2, ["rbg", "unsafe_rbg"]))
def test_other_generators_work(impl):
  key = jax.random.key(0, impl=impl)
  method = sparsejax.sparse_evolution(
    sparsity=0.9, every_steps=2, total_steps=9
  )
  tx = sparsejax.sparsify(optax.sgd(0.1), method, key=key)
  params, state = train(tx, network(), 5)
  assert sparsejax.summary(params, state).active == 66


@pytest.mark.parametrize(
  ("select", "names"),
  [
    ("head/*", ["head/kernel"]),
    (["stem/*", "head/*"], ["head/kernel", "stem/kernel"]),
    (lambda name, leaf: leaf.ndim == 4, ["stem/kernel"]),
    (
      {
        "stem": {"kernel": False},
        "body": {"kernel": True, "bias": False},
        "head": {"kernel": False},
      },
      ["body/kernel"],
    ),
  ],
)
def test_select(select, names):
  tx = sparsejax.sparsify(
    optax.sgd(0.1), sparsejax.dense(), select=select, key=jax.random.key(0)
  )
  params = network()
  layers = sparsejax.summary(params, tx.init(params)).layers
  assert [x.name for x in layers] == names


@pytest.mark.parametrize(
  ("kwargs", "text"),
  [
    (dict(select="haed/*"), r"'haed/\*', which matches no leaf.*body/bias"),
    (dict(select=lambda n, x: False), "`select` matches no leaf.*head/kernel"),
    (dict(select=3), "`select` must be None, a glob"),
    (dict(overrides={"tail*": "dense"}), "`overrides` has the glob 'tail"),
    (dict(overrides={"head*": "sparse"}), "must be 'dense', a sparsity or"),
    (dict(overrides={"head*": 50.0}), r"must be in \[0, 1\), got 50.*0.5"),
    (
      dict(overrides={"head*": sparsejax.Override(axis=2)}),
      r"`axis` .* must be a dimension of shape \(20, 10\), got 2",
    ),
    (dict(overrides={"*kernel": 0.1}), "have 597 .*Change either"),
    (dict(masks={"a": jnp.ones(3)}), "`masks` is not a tree like `params`"),
  ],
)
def test_errors_name_the_argument_and_the_remedy(kwargs, text):
  tx = sparsejax.sparsify(
    optax.sgd(0.1), sparsejax.static(0.9), key=jax.random.key(0), **kwargs
  )
  with pytest.raises(ValueError, match=text):
    tx.init(network())


def test_masks_and_select_exclude_each_other():
  with pytest.raises(ValueError, match="`select` must be None where `masks`"):
    sparsejax.sparsify(
      optax.sgd(0.1), sparsejax.dense(), masks={}, select="head/*"
    )


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: sparsejax.static(90.0), r"got 90.0. Give a fraction: 0.9"),
    (lambda: sparsejax.static(-0.1), r"`sparsity` must be in \[0, 1\)"),
    (
      lambda: sparsejax.gmp(0.5, initial_sparsity=0.9, **GMP),
      "`initial_sparsity` must not exceed `sparsity`",
    ),
    (
      lambda: sparsejax.gmp(0.5, end_step=-1, every_steps=2),
      "`end_step` must be a whole number of optimizer steps, at least 1",
    ),
    (
      lambda: sparsejax.gmp(0.5, begin_step=6, end_step=6, every_steps=2),
      "`begin_step` must be below `end_step`",
    ),
    (
      lambda: sparsejax.rigl(0.5, end_step=9, regrow_fraction=1.5),
      r"`regrow_fraction` must be a share in \[0, 1\], got 1.5",
    ),
    (
      lambda: sparsejax.sparse_evolution(every_steps=1, total_steps=2),
      "`sparsity` or `epsilon` must be given",
    ),
    (
      lambda: sparsejax.sparse_evolution(
        epsilon=0.0, every_steps=1, total_steps=2
      ),
      "`epsilon` must be above 0",
    ),
  ],
)
def test_numbers_are_checked_by_the_factory(make, text):
  with pytest.raises(ValueError, match=text):
    make()


def test_overrides_fix_layers_and_the_rest_compensates():
  for scope in (
    sparsejax.global_scope,
    sparsejax.layerwise(sparsejax.uniform),
    sparsejax.layerwise(sparsejax.erk),
  ):
    tx = sparsejax.sparsify(
      optax.sgd(0.1),
      sparsejax.gmp(0.9, **GMP, scope=scope),
      overrides={"head*": 0.8, "stem*": "dense"},
    )
    params, state = train(tx, network(), 7)
    found = counts(params, state)
    assert found == {"body/kernel": 12, "head/kernel": 40}
    assert state.masks["stem"]["kernel"] == optax.MaskedNode()
    result = sparsejax.summary(params, state)
    assert (result.active, result.requested, result.total) == (52, 52, 520)


def test_each_slice_along_an_axis_is_a_layer():
  params = {
    "experts": {"kernel": jax.random.normal(jax.random.key(0), (5, 8, 6))}
  }
  tx = sparsejax.sparsify(
    optax.sgd(0.1),
    sparsejax.granet(
      0.75,
      initial_sparsity=0.5,
      end_step=4,
      every_steps=2,
      total_steps=8,
      scope=sparsejax.layerwise(sparsejax.uniform),
    ),
    key=jax.random.key(1),
    overrides={"experts*": sparsejax.Override(axis=1)},
  )
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  for i in range(6):
    grads = jax.tree.map(
      lambda x, i=i: jax.random.normal(jax.random.key(i), x.shape), params
    )
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  layers = sparsejax.summary(params, state).layers
  assert [x.name for x in layers] == [f"experts/kernel[{i}]" for i in range(8)]
  active = np.asarray(state.masks["experts"]["kernel"]).sum((0, 2))
  assert [x.active for x in layers] == active.tolist()
  assert active.sum() == 60 and set(active) <= {7, 8}


@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_min_active_per_layer(scope):
  scope = {
    "global": sparsejax.global_scope,
    "uniform": sparsejax.layerwise(sparsejax.uniform),
  }[scope]
  params = network()
  params["head"]["kernel"] *= 1e-6  # would be pruned entirely
  grads = jax.tree.map(jnp.zeros_like, params)
  bounded = sparsejax.keep_alive(scope, 3)
  tx = sparsejax.sparsify(
    optax.sgd(0.0), sparsejax.one_shot(0.98, at_step=1, scope=bounded)
  )
  state = tx.init(params)
  _, state = tx.update(grads, state, params)
  result = sparsejax.summary(params, state)
  assert result.active == result.requested == 13
  assert min(x.active for x in result.layers) >= 3
  with pytest.raises(ValueError, match="`min_active_per_layer` of 9 needs"):
    sparsejax.sparsify(
      optax.sgd(0.0),
      sparsejax.one_shot(0.98, at_step=1, scope=sparsejax.keep_alive(scope, 9)),
    ).init(params)


def test_summary_warns_about_an_empty_layer():
  params = network()
  params["head"]["kernel"] *= 1e-6
  tx = sparsejax.sparsify(optax.sgd(0.0), sparsejax.one_shot(0.9, at_step=1))
  state = tx.init(params)
  _, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
  result = sparsejax.summary(params, state)
  assert any("head/kernel has no active weight" in w for w in result.warnings)


def test_start_from_given_masks_and_from_a_sparse_network():
  method = sparsejax.static(0.9)
  tx = sparsejax.sparsify(optax.sgd(0.1), method, key=jax.random.key(0))
  params, state = train(tx, network(), 3)
  masks = sparsejax.get_masks(state)
  chex.assert_trees_all_equal(masks, sparsejax.masks_from_params(params))
  again = sparsejax.sparsify(
    optax.sgd(0.1),
    sparsejax.rigl_itop(0.9, every_steps=2, total_steps=9),
    key=jax.random.key(5),
    masks=masks,
  )
  chex.assert_trees_all_equal(again.init(params).masks, masks)
  params, state = train(again, params, 5)
  result = sparsejax.summary(params, state)
  assert result.active == result.requested == 66
  assert state.masks["body"]["kernel"].sum() == masks["body"]["kernel"].sum()
  some = {**masks, "head": {"kernel": None}}
  tx = sparsejax.sparsify(optax.sgd(0.1), sparsejax.dense(), masks=some)
  assert list(counts(params, tx.init(params))) == ["body/kernel", "stem/kernel"]


def test_frozen_masks_stay_while_weights_move():
  method = sparsejax.granet(0.9, **GMP, total_steps=50)
  tx = sparsejax.sparsify(optax.sgd(0.1), method, key=jax.random.key(0))
  params, state = train(tx, network(), 4)
  masks = sparsejax.get_masks(state)
  tuned, frozen = train(tx, params, 6, state=sparsejax.freeze(state))
  chex.assert_trees_all_equal(sparsejax.get_masks(frozen), masks)
  assert (tuned["body"]["kernel"] != params["body"]["kernel"]).any()
  _, free = train(tx, params, 6, state=state)
  changed = free.masks["body"]["kernel"] != masks["body"]["kernel"]
  assert changed.any()


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("where", ["gradient", "value"])
def test_an_update_with_non_finite_numbers_is_postponed(bad, where):
  method = sparsejax.one_shot(0.9, at_step=2)
  inner = optax.with_extra_args_support(optax.set_to_zero())
  tx = sparsejax.sparsify(inner, method)
  params = network()
  state = tx.init(params)
  for step in range(1, 5):
    grads = network(step)
    value = 1.0
    if step in (2, 3) and where == "value":
      value = bad
    elif step in (2, 3):
      grads["head"]["kernel"] = grads["head"]["kernel"].at[0, 0].set(bad)
    _, state = tx.update(grads, state, params, value=value)
    active = sparsejax.summary(params, state).active
    assert active == (664 if step < 4 else 66)
  assert int(state.last_update) == 4


def test_extra_arguments_reach_the_inner_optimizer():
  def update(updates, state, params=None, *, scale, **extra):
    del params, extra
    return jax.tree.map(lambda u: u * scale, updates), state

  inner = optax.GradientTransformationExtraArgs(lambda p: (), update)
  tx = sparsejax.sparsify(inner, sparsejax.dense())
  params = network()
  updates, _ = tx.update(params, tx.init(params), params, scale=3.0)
  chex.assert_trees_all_equal(updates, jax.tree.map(lambda x: x * 3.0, params))


def test_get_masks_needs_a_sparse_state():
  with pytest.raises(ValueError, match="no `SparseState`.*Wrap the optimizer"):
    sparsejax.get_masks(optax.sgd(0.1).init(network()))


def test_assert_sparse_finds_inactive_weights_that_moved():
  tx = optax.chain(
    sparsejax.sparsify(
      optax.sgd(0.1), sparsejax.static(0.9), key=jax.random.key(0)
    ),
    optax.add_decayed_weights(0.1),
    optax.add_noise(0.1, 0.1, key=jax.random.key(1)),
  )
  params = network()
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  sparsejax.assert_sparse(params, state)
  updates, state = tx.update(network(1), state, params)
  params = optax.apply_updates(params, updates)
  with pytest.raises(AssertionError, match="body/kernel .*last in the chain"):
    sparsejax.assert_sparse(params, state)


def test_trees_without_arrays_and_map_params():
  """`optax.tree.map_params` calls init on a placeholder."""
  tx = sparsejax.sparsify(
    optax.adam(0.1), sparsejax.static(0.9), key=jax.random.key(0)
  )
  assert not jax.tree.leaves(tx.init({}).masks)
  params = network()
  state = tx.init(params)
  specs = optax.tree.map_params(
    tx, lambda x: x.ndim, state, transform_non_params=lambda x: None
  )
  assert specs.inner_state[0].mu["head"]["kernel"] == 2
  assert specs.masks["stem"]["kernel"] == 4
  assert specs.step is None


def test_stats_count_inside_jit():
  method = sparsejax.track_ever_active(
    sparsejax.rigl(0.9, end_step=9, every_steps=2)
  )
  tx = sparsejax.sparsify(optax.sgd(0.1), method, key=jax.random.key(0))
  params, state = train(tx, network(), 6)
  found = jax.jit(sparsejax.stats)(state)
  result = sparsejax.summary(params, state)
  assert int(found["active"]) == result.active == 66
  assert int(found["requested"]) == 66 and int(found["total"]) == 664
  assert int(found["step"]) == 4 and int(found["last_update"]) == 2
  assert int(found["ever_active"]) / 664 == result.itop_rate > 0.1
  assert all(x.dtype == jnp.int32 for x in found.values())


def test_summary_prints_a_table_with_flops():
  params = network()
  tx = sparsejax.sparsify(optax.sgd(0.1), sparsejax.one_shot(0.5, at_step=9))
  result = sparsejax.summary(
    params, tx.init(params), costs={"head/kernel": 200.0, "body/kernel": 320.0}
  )
  assert result.flops == 2 * result.dense_macs == 1040
  text = str(result)
  assert "head/kernel" in text and "20x10" in text
  assert text.splitlines()[5].split() == [
    "total",
    "664",
    "664",
    "664",
    "0.0000%",
  ]
  with pytest.raises(ValueError, match="`costs` names .'tail'"):
    sparsejax.summary(params, tx.init(params), costs={"tail": 1.0})


def test_summary_counts_macs_that_no_mask_reduces():
  params = network()
  tx = sparsejax.sparsify(
    optax.sgd(0.1),
    sparsejax.static(0.5),
    key=jax.random.key(0),
    overrides={"head/*": "dense"},
  )
  state = tx.init(params)
  table = flops.Costs({"head/kernel": 200, "body/kernel": 320}, others=30)
  result = sparsejax.summary(params, state, costs=table)
  assert [x.macs for x in result.layers if x.name == "body/kernel"] == [320]
  assert result.other_macs == 200 + 30
  assert result.dense_macs == table.dense == 550
  density = {x.name: x.active / x.total for x in result.layers}
  assert result.macs == 230 + 320 * density["body/kernel"] < 400
  assert result.flops == 2 * result.macs
  bare = sparsejax.summary(params, state)
  assert bare.macs is bare.flops is bare.dense_macs is None


@pytest.mark.parametrize("masks_first", tiers.every(2, [True, False]))
def test_set_can_reset_the_optimizer_state_of_all_weights(masks_first):
  method = sparsejax.sparse_evolution(
    sparsity=0.5,
    every_steps=3,
    total_steps=9,
    masks_first=masks_first,
    reset_optimizer=True,
  )
  inner = optax.chain(
    optax.trace(0.9), optax.scale_by_schedule(lambda count: -0.1 / (1 + count))
  )
  tx = sparsejax.sparsify(inner, method, key=jax.random.key(0))
  params = {"kernel": jnp.linspace(-1, 1, 40).reshape(5, 8), "b": jnp.ones(8)}
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  grads = jax.tree.map(lambda x: jnp.full_like(x, 0.5), params)
  for call in range(1, 6):
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    trace = optax.tree.get(state.inner_state, "trace")
    restarted = call == (4 if masks_first else 3)
    if restarted:
      expected = 0.5 if masks_first else 0.0
      np.testing.assert_array_equal(trace["b"], expected)
      mask = sparsejax.get_masks(state)["kernel"]
      np.testing.assert_array_equal(
        trace["kernel"], jnp.where(mask, expected, 0)
      )
  assert int(optax.tree.get(state.inner_state, "count")) == 5


def test_requested_counts_at_step_0_are_those_of_the_first_masks():
  # ERK first, a uniform sparsity from the first mask update on.
  method = sparsejax.gmp(
    0.8,
    initial_sparsity=0.5,
    end_step=9,
    every_steps=3,
    scope=sparsejax.layerwise(sparsejax.uniform),
  )
  tx = sparsejax.sparsify(optax.sgd(0.1), method, key=jax.random.key(0))
  params = {"a": jnp.ones((6, 40)), "c": jnp.ones((9, 9))}
  state = tx.init(params)
  counted = sparsejax.summary(sparsejax.apply_masks(params, state), state)
  assert [x.requested for x in counted.layers] == [
    x.active for x in counted.layers
  ]
  assert counted.layers[0].sparsity != counted.layers[1].sparsity


BETWEEN = {
  "optg": sparsejax.optg(
    0.8, steps_per_epoch=3, epochs=4, score_learning_rate=0.1
  ),
  "dynset": sparsejax.dynset(sparsity=0.5, steps_per_epoch=3, total_steps=12),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_masks_are_updated_between_steps_where_an_update_is_due(name):
  tx = sparsejax.sparsify(optax.adam(0.1), BETWEEN[name], key=jax.random.key(0))
  params = {"kernel": jnp.linspace(-1, 1, 40).reshape(5, 8)}
  outer = optax.chain(optax.clip(1.0), tx)  # The state is found inside.
  state = outer.init(params)
  params = sparsejax.apply_masks(params, state)
  update_masks = jax.jit(tx.update_masks)
  for step in range(7):
    before = (params, state)
    params, state = update_masks(params, state, metric=0.1)
    again = update_masks(params, state, metric=0.1)
    changed = (
      sparsejax.stats(state)["last_update"]
      != sparsejax.stats(before[1])["last_update"]
    )
    assert bool(changed) == (step in (3, 6))
    jax.tree.map(np.testing.assert_array_equal, again, (params, state))
    if not changed:
      jax.tree.map(np.testing.assert_array_equal, before, (params, state))
    sparsejax.assert_sparse(params, state)
    grads = {"kernel": jnp.cos(9 * params["kernel"] + step)}
    updates, new_state = outer.update(grads, state, params, metric=0.1)
    jax.tree.map(  # The step has nothing left to update.
      np.testing.assert_array_equal,
      sparsejax.get_masks(state),
      sparsejax.get_masks(new_state),
    )
    params, state = optax.apply_updates(params, updates), new_state


def test_masks_that_need_a_gradient_are_not_updated_between_steps():
  params = {"kernel": jnp.ones((5, 8))}
  tx = sparsejax.sparsify(
    optax.sgd(0.1),
    sparsejax.granet(0.5, end_step=6, every_steps=3, total_steps=12),
    key=jax.random.key(0),
  )
  with pytest.raises(ValueError, match="mask updates read no gradient"):
    tx.update_masks(params, tx.init(params))


def test_masks_between_steps_need_their_metric_and_one_state():
  params = {"a": jnp.ones((5, 8)), "c": jnp.ones((5, 8))}
  tx = sparsejax.sparsify(
    optax.sgd(0.1), BETWEEN["dynset"], key=jax.random.key(0)
  )
  with pytest.raises(ValueError, match="`metric` must be given"):
    tx.update_masks(params, tx.init(params))
  both = optax.partition({1: tx, 2: tx}, {"a": 1, "c": 2})
  with pytest.raises(ValueError, match="must hold one `SparseState`, got 2"):
    tx.update_masks(params, both.init(params), metric=0.5)
