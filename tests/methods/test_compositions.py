"""Laws that hold for any composition of parts, not only for named methods.

More of them, on a quiet machine:

    python -m pytest tests/methods/test_compositions.py \
      --hypothesis-profile=many
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.side_by_side import ROUND_EACH_OPERATION
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

import sparsejax
from sparsejax.components import (
  accumulators,
  connectivity,
  counts,
  criteria,
  distributions,
  patterns,
  redistribution,
  schedules,
  scopes,
  storage,
)
from sparsejax.method import Criterion, Initial, Input, Method, Prune
from sparsejax.methods.compositions import prune_and_regrow, signs
from sparsejax.updates import orders

STEPS, RISES_UNTIL = 7, 4

weight_times_gradient = Criterion(
  lambda leaf: jnp.abs(
    leaf.weights.astype(jnp.float32) * leaf.gradient.astype(jnp.float32)
  ),
  reads=(Input.WEIGHTS, Input.GRADIENT),
)
PRUNE_BY = (
  criteria.magnitude,
  criteria.random,
  criteria.momentum,
  weight_times_gradient,
)
REGROW_BY = (
  *PRUNE_BY,
  criteria.gradient_magnitude,
  criteria.near_active(),
  criteria.most_active_neighbors("hw"),
  criteria.never_active_first,
)
LAYERWISE = tuple(
  scopes.layerwise(each)
  for each in (distributions.uniform, distributions.er, distributions.erk)
)
SCOPES = (
  scopes.global_scope,
  scopes.keep_alive(scopes.global_scope, 2),
  *LAYERWISE,
)
ZEROED = (
  storage.zeroed,
  storage.zeroed_with_momentum,
  storage.zeroed_with_noise(accumulators.first_signs, penalty=1e-3, noise=1e-2),
)
KEPT = (
  storage.kept,
  storage.kept_straight_through,
  storage.kept_decayed(1e-2),
)
ORDERS = (
  None,
  orders.step_then_update,
  orders.update_then_step,
  orders.update_instead_of_step,
)
OPTIMIZERS = {
  "sgd": lambda: optax.sgd(0.1),
  "nesterov": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
  "clipped": lambda: optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(1e-2)
  ),
  "rmsprop": lambda: optax.rmsprop(1e-2, momentum=0.9),
  "accumulated": lambda: optax.MultiSteps(optax.adam(1e-2), 2),
}
TREES = {
  "plain": {"kernel": (8, 6), "bias": (6,)},
  "nested": {
    "conv": {"kernel": (3, 3, 2, 8), "scale": (8,)},
    "head": [{"kernel": (12, 5)}, {"kernel": (5, 4), "bias": (4,)}],
  },
  "stacked": {"experts": (3, 6, 4), "out": {"w": (4, 8)}},
}


def draw_regrowth(draw, every):
  """Prune-and-regrow, or None."""
  if draw(st.booleans()):
    return None, None, ()
  changes: dict[str, Any] = {
    "parts": draw(st.sampled_from([None, signs])),
    "restart": draw(st.booleans()),
    "exclude_just_pruned": draw(st.booleans()),
  }
  gate, held = None, ()
  kind = draw(st.sampled_from(["as pruned", "constant", "metric", "moving"]))
  if kind == "constant":
    rule = connectivity.constant(draw(st.sampled_from([0.5, 2.0])))
    changes["regrow_count"] = connectivity.towards_first_count(rule)
  elif kind == "metric":
    history = accumulators.metric_history(1)
    rule = connectivity.by_loss(history, draw(st.sampled_from([0.0, 0.5])))
    changes["regrow_count"] = connectivity.towards_first_count(rule)
    gate, held = (
      connectivity.pause_when_worse(history, 1, higher_is_better=False),
      (history,),
    )
  elif kind == "moving":
    changes["regrow_count"] = redistribution.by_momentum(criteria.momentum)
  regrow = prune_and_regrow(
    draw(st.sampled_from(REGROW_BY)),
    schedules.constant(draw(st.sampled_from([0.0, 0.3, 1.0]))),
    schedules.Every(every, until=STEPS, at_zero=draw(st.booleans())),
    **changes,
  )
  return regrow, gate, held


def draw_method(draw):
  """A method of random parts."""
  every = draw(st.integers(1, 3))
  sparsity = draw(st.sampled_from([0.3, 0.5, 0.77]))
  common: dict[str, Any] = {
    "order": draw(st.sampled_from(ORDERS)),
    "reset_optimizer": draw(st.booleans()),
    "accumulators": draw(st.sampled_from([(), (accumulators.ever_active,)])),
    "target_sparsity": sparsity,
  }
  scope = draw(st.sampled_from(SCOPES))
  if draw(st.integers(0, 4)) == 0:  # N:M, which has its own counts.
    pattern = patterns.n_of_m(1, 2)
    wanted = functools.partial(distributions.n_of_m, n=1, m=2)
    scope = scopes.layerwise(wanted)
    return Method(
      initial=Initial(scope, None, criteria.magnitude, pattern),
      prune=Prune(
        schedules.constant_sparsity(None, every_steps=every),
        scope,
        criteria.magnitude,
        pattern,
      ),
      storage=draw(st.sampled_from(KEPT)),
      **common | {"target_sparsity": None},
    )
  regrow, gate, held = draw_regrowth(draw, every)
  prune, first = None, sparsity
  if draw(st.booleans()):
    first = draw(st.sampled_from([0.0, 0.2]))
    ramp = schedules.ramp(
      first,
      sparsity,
      end_step=RISES_UNTIL,
      every_steps=every,
      until=STEPS,
    )
    prune = Prune(ramp, scope, draw(st.sampled_from(PRUNE_BY)))
  return Method(
    initial=Initial(draw(st.sampled_from(LAYERWISE)), first),
    prune=prune,
    regrow=regrow,
    storage=draw(st.sampled_from((*ZEROED, *(KEPT if prune else ())))),
    gate=gate,
    metric="loss" if held else None,
    **common | {"accumulators": (*common["accumulators"], *held)},
  )


@dataclasses.dataclass(frozen=True)
class Loop:
  """One training loop: a method, an optimizer, a tree and its gradients."""

  method: Method
  optimizer: str
  tree: str
  dtype: str
  seed: int

  @functools.cached_property
  def tx(self):
    overrides = {"experts": sparsejax.Override(axis=0)}
    return sparsejax.sparsify(
      OPTIMIZERS[self.optimizer](),
      self.method,
      key=jax.random.key(self.seed),
      select=lambda name, leaf: leaf.ndim > 1,
      overrides=overrides if self.tree == "stacked" else None,
    )

  def random(self, *numbers):
    rng = np.random.default_rng([self.seed, *numbers])
    return jax.tree.map(
      lambda shape: jnp.asarray(rng.normal(size=shape), self.dtype),
      TREES[self.tree],
      is_leaf=lambda x: isinstance(x, tuple),
    )

  def start(self, *numbers):
    params = self.random(0, *numbers)
    state = self.tx.init(params)
    return sparsejax.apply_masks(params, state), state

  def step(self, carry, grads, metric):
    params, state = carry
    updates, state = self.tx.update(grads, state, params, metric=metric)
    return optax.apply_updates(params, updates), state

  def inputs(self, step, *numbers):
    grads = self.random(1 + step, *numbers)
    return grads, jnp.float32(1 + np.sin(step))

  def run(self, step, carry, first=0, last=STEPS):
    for number in range(first, last):
      carry = step(carry, *self.inputs(number))
    return carry


def compiled(f, **options):
  return jax.jit(f, compiler_options=ROUND_EACH_OPERATION, **options)


def assert_same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def through_disk(tree):
  return jax.tree.map(lambda x: jnp.array(np.asarray(x).copy()), tree)


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
@settings(
  max_examples=settings().max_examples // 80,
  deadline=None,
  suppress_health_check=list(HealthCheck),
  phases=(Phase.explicit, Phase.generate),  # Shrinking compiles for minutes.
)
@given(st.data())
def test_any_composition(data):
  draw = data.draw
  loop = Loop(
    draw_method(draw),
    draw(st.sampled_from(sorted(OPTIMIZERS))),
    draw(st.sampled_from(sorted(TREES))),
    draw(st.sampled_from(["float32", "bfloat16", "float16"])),
    draw(st.integers(0, 3)),
  )
  step = compiled(loop.step)
  carry = first = loop.start()
  for number in range(STEPS):
    carry = step(carry, *loop.inputs(number))
    params, state = carry
    sparsejax.assert_sparse(params, state)  # exact zeros
    counted = sparsejax.summary(params, state)
    assert counted.active == counted.requested
    for layer in counted.layers:
      assert layer.requested in (None, layer.active)
  check_target(loop.method, state, counted)
  middle = loop.run(step, first, last=3)
  # A new process: another transformation, and arrays from a file.
  again = compiled(dataclasses.replace(loop).step)
  assert_same(loop.run(again, through_disk(middle), first=3), carry)
  donated = compiled(loop.step, donate_argnums=0)
  assert_same(loop.run(donated, jax.tree.map(jnp.array, first)), carry)
  eager = loop.run(loop.step, first, last=3)
  assert_same(sparsejax.get_masks(eager[1]), sparsejax.get_masks(middle[1]))
  check_vmap(loop, step)


def check_target(method, state, counted):
  """The sparsity at the end is exactly the one that was requested."""
  if method.target_sparsity is None or method.counts_as_found:
    return
  if method.prune is not None and int(state.last_update) < RISES_UNTIL:
    return  # Mask updates that take the place of steps.
  wanted = counts.requested_count(counted.total, method.target_sparsity)
  assert counted.active == wanted


def check_vmap(loop, step):
  """Several networks at once are trained as one after the other."""
  starts = [loop.start(number) for number in (1, 2)]
  both = compiled(jax.vmap(loop.step, in_axes=(0, 0, None)))
  carry = jax.tree.map(lambda *x: jnp.stack(x), *starts)
  for number in range(3):
    inputs = [loop.inputs(number, i)[0] for i in (1, 2)]
    metric = loop.inputs(number)[1]
    carry = both(carry, jax.tree.map(lambda *x: jnp.stack(x), *inputs), metric)
    starts = [
      step(one, grads, metric)
      for one, grads in zip(starts, inputs, strict=True)
    ]
  for number, one in enumerate(starts):
    found = jax.tree.map(lambda x, i=number: x[i], carry)
    assert_same(sparsejax.get_masks(found[1]), sparsejax.get_masks(one[1]))
