"""Learning rates of the papers; parameters without weight decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.training import lr_schedules, optimizers

EPOCH = 352


def schedule_args(epochs, *, warmup=0, drop_at=(0.5, 0.75), drop_factor=0.1):
  return lr_schedules.ScheduleArgs(
    peak=0.1,
    warmup_steps=warmup * EPOCH,
    total_steps=epochs * EPOCH,
    steps_per_epoch=EPOCH,
    drop_at=drop_at,
    drop_factor=drop_factor,
  )


def at_epochs(schedule, epochs):
  """Returns the rate of some epochs, equal at their first and last step."""
  first = [float(schedule(jnp.int32(k * EPOCH))) for k in epochs]
  last = [float(schedule(jnp.int32((k + 1) * EPOCH - 1))) for k in epochs]
  assert first == last
  return first


def test_learning_rate_of_optg():
  schedule = lr_schedules.epoch_cosine(schedule_args(160, warmup=5))
  found = at_epochs(schedule, [0, 4, 5, 40, 70, 75, 80, 85, 120])
  assert found == pytest.approx(
    [
      *[0.02, 0.1, 0.099759, 0.085355, 0.059755, 0.054901],
      *[0.05, 0.045099, 0.014645],
    ],
    abs=5e-7,
  )


def test_learning_rate_of_granet_on_imagenet():
  schedule = lr_schedules.drops(
    schedule_args(100, warmup=5, drop_at=(0.3, 0.6, 0.9))
  )
  found = at_epochs(schedule, [*range(6), 29, 30, 59, 60, 89, 90, 99])
  expected = [0.01667, 0.03333, 0.05, 0.06667, 0.08333, 0.1, 0.1]
  expected += [0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001]
  assert found == pytest.approx(expected, rel=2.1e-4)


def test_learning_rate_of_granet_on_cifar():
  schedule = lr_schedules.drops(schedule_args(160))
  found = at_epochs(schedule, [0, 79, 80, 119, 120, 159])
  assert found == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_without_drops_the_rate_is_constant():
  schedule = lr_schedules.drops(schedule_args(7, drop_at=()))
  assert at_epochs(schedule, [0, 3, 6]) == pytest.approx([0.1] * 3)


def test_cosine_changes_at_every_step():
  schedule = lr_schedules.cosine(schedule_args(20, warmup=4))
  found = [float(schedule(k * EPOCH)) for k in [0, 2, 4, 12, 20]]
  assert found == pytest.approx([0, 0.05, 0.1, 0.05, 0], abs=1e-8)
  assert float(lr_schedules.cosine(schedule_args(20))(0)) == pytest.approx(0.1)


@pytest.mark.parametrize("name", sorted(lr_schedules.SCHEDULES))
def test_step_may_be_traced(name):
  schedule = lr_schedules.SCHEDULES[name](schedule_args(20, warmup=4))
  steps = jnp.arange(0, 20 * EPOCH, 100)
  found = jax.jit(jax.vmap(schedule))(steps)
  np.testing.assert_allclose(found, [schedule(t) for t in steps], rtol=1e-5)
  assert 0 <= found.min() and found.max() <= 0.1 + 1e-7


RUN = {"total_steps": 100, "steps_per_epoch": 10}


@pytest.mark.parametrize("factory", [optimizers.sgd, optimizers.adamw])
@pytest.mark.parametrize(
  "argument, value",
  [
    ("learning_rate", 0.0),
    ("warmup_steps", 100),
    ("warmup_steps", -1),
    ("drop_at", (0.75, 0.5)),
    ("drop_at", (0.0, 0.5)),
    ("drop_at", (80.0, 120.0)),
    ("drop_factor", 0.0),
    ("weight_decay", -1.0),
  ],
)
def test_arguments_out_of_range_are_refused(factory, argument, value):
  given = {"learning_rate": 0.1} | {argument: value}
  with pytest.raises(ValueError, match=f"`{argument}` must"):
    factory(**given, **RUN)


@pytest.mark.parametrize("factory", [optimizers.sgd, optimizers.adamw])
def test_undecayed_parameters_have_no_weight_decay(factory):
  params = {
    "conv": {"kernel": jnp.ones((4, 4))},
    "norm": {"scale": jnp.ones(4)},
  }
  grads = jax.tree.map(jnp.zeros_like, params)
  for undecayed, is_undecayed in [((), False), (("norm/*",), True)]:
    tx = sparsejax.sparsify(
      factory(learning_rate=0.1, weight_decay=0.01, undecayed=undecayed, **RUN),
      sparsejax.static(0.5),
      key=jax.random.key(0),
    )
    state = tx.init(params)
    sparse = sparsejax.apply_masks(params, state)
    updates, state = tx.update(grads, state, sparse)
    moved = optax.apply_updates(sparse, updates)
    active = sparse["conv"]["kernel"] != 0
    assert (moved["conv"]["kernel"][active] < 1).all()
    assert (moved["conv"]["kernel"][~active] == 0).all()
    assert (moved["norm"]["scale"] == 1).all() == is_undecayed


def test_glob_that_matches_no_parameter_is_refused():
  tx = optimizers.sgd(learning_rate=0.1, undecayed=("bn*",), **RUN)
  with pytest.raises(ValueError, match=r"'bn\*' in `undecayed`.*norm/scale"):
    params = {"norm": {"scale": jnp.ones(4)}}
    tx.update(params, tx.init(params), params)
