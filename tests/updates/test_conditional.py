"""Under `vmap`, a branch is computed only if some copy asks for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiers
from helpers.side_by_side import ROUND_EACH_OPERATION

import sparsejax
from sparsejax.updates import conditional


def doubled(predicate, x, calls):
  def double():
    jax.debug.callback(lambda: calls.append(1))
    return {"x": 2 * x, "is_new": jnp.asarray(True)}

  return conditional.cond(
    predicate, double, lambda: {"x": x, "is_new": jnp.asarray(False)}
  )


@pytest.mark.parametrize("asked", [(), (1,), (0, 2, 3)])
@pytest.mark.parametrize("inside", [False, True])
def test_a_branch_is_computed_if_any_copy_asks(asked, inside):
  calls = []
  predicate = jnp.isin(jnp.arange(4), jnp.array(asked, jnp.int32))
  x = jnp.arange(8.0).reshape(4, 2)
  each = functools.partial(doubled, calls=calls)
  both = jax.vmap(jax.jit(each)) if inside else jax.jit(jax.vmap(each))
  found = jax.block_until_ready(both(predicate, x))
  jax.effects_barrier()
  assert bool(calls) == bool(asked)
  np.testing.assert_array_equal(found["is_new"], predicate)
  wanted = np.where(predicate[:, None], 2 * x, x)
  np.testing.assert_array_equal(found["x"], wanted)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_nested_copies(axes):
  asked = np.array([[False, True], [False, False], [True, True]])
  values = np.arange(6.0).reshape(3, 2)
  given = [
    jnp.asarray(x if axis == 0 else x[0])
    for x, axis in zip((asked, values), axes, strict=True)
  ]
  calls = []
  each = functools.partial(doubled, calls=calls)
  nested = jax.jit(jax.vmap(jax.vmap(each), in_axes=axes))
  found = nested(*given)
  asked, values = np.broadcast_arrays(*given)
  asked = np.broadcast_to(asked, (3, 2))
  np.testing.assert_array_equal(found["is_new"], asked)
  wanted = np.where(asked, 2 * values, values)
  np.testing.assert_array_equal(found["x"], wanted)
  calls.clear()
  jax.block_until_ready(nested(given[0] & False, given[1]))
  jax.effects_barrier()
  assert not calls


def test_a_known_predicate_calls_one_branch():
  assert conditional.cond(jnp.asarray(True), lambda: 1, lambda: 1 / 0) == 1
  with pytest.raises(ZeroDivisionError):
    conditional.cond(jnp.asarray(False), lambda: 1, lambda: 1 / 0)


def branches(jaxpr):
  """Returns the number of conditionals with a branch that searches."""
  found = 0
  for eqn in jaxpr.eqns:
    inner = [x for x in jax.tree.leaves(eqn.params) if hasattr(x, "jaxpr")]
    if eqn.primitive.name == "cond":
      found += any("while" in str(x) for x in inner)
      continue
    found += sum(branches(x.jaxpr) for x in inner)
  return found


@pytest.mark.parametrize(
  "method",
  tiers.every(
    2,
    [
      sparsejax.optg(0.8, steps_per_epoch=3, epochs=3, score_learning_rate=0.1),
      sparsejax.granet(
        0.8, initial_sparsity=0.5, end_step=6, every_steps=3, total_steps=9
      ),
    ],
  ),
  ids=["optg", "granet"],
)
def test_networks_side_by_side_have_the_masks_of_each_alone(method):
  """Also where they are at different steps of the schedule."""
  tx = sparsejax.sparsify(
    optax.sgd(0.1, momentum=0.9), method, key=jax.random.key(0)
  )

  def random(*seed):
    rng = np.random.default_rng(seed)
    return {"kernel": jnp.asarray(rng.normal(size=(12, 10)), jnp.float32)}

  def step(params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  stack = lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
  alone = jax.jit(step, compiler_options=ROUND_EACH_OPERATION)
  together = jax.jit(jax.vmap(step), compiler_options=ROUND_EACH_OPERATION)
  runs = []
  for copy in range(3):
    params = random(0, copy)
    state = tx.init(params)
    params = sparsejax.apply_masks(params, state)
    for number in range(copy):  # Copy i is i steps ahead.
      params, state = alone(params, state, random(1, number))
    runs.append((params, state))
  carry = stack(*runs)
  traced = jax.make_jaxpr(jax.vmap(step))(*carry, stack(*[random(1)] * 3))
  assert branches(traced.jaxpr) == 1
  for number in range(9):
    grads = [random(2, number, copy) for copy in range(3)]
    carry = together(*carry, stack(*grads))
    runs = [alone(*run, g) for run, g in zip(runs, grads, strict=True)]
    for copy, (params, state) in enumerate(runs):
      found = jax.tree.map(lambda x, i=copy: x[i], carry)
      np.testing.assert_array_equal(
        found[1].masks["kernel"], state.masks["kernel"]
      )
      np.testing.assert_allclose(
        found[0]["kernel"], params["kernel"], rtol=1e-6, atol=1e-7
      )
