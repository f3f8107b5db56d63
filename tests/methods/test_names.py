"""What methods are called, and how they print."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax import methods

STEPS = {
  "end_step": 8,
  "every_steps": 2,
  "total_steps": 9,
  "steps_per_epoch": 3,
  "epochs": 3,
  "at_step": 4,
  "score_learning_rate": 0.1,
  "backward_sparsity": 0.25,
  "threshold_learning_rate": 0.1,
  "prune_count": 3,
  "sparsity": 0.5,
}


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_methods_print_as_the_call_that_makes_them(name):
  factory = methods.METHODS[name]
  parameters = inspect.signature(factory).parameters
  given = {key: x for key, x in STEPS.items() if key in parameters}
  method = factory(**given)
  text = repr(method)
  assert "\n" not in text and len(text) < 120
  again = eval(text, vars(sparsejax))  # noqa: S307
  assert repr(again) == text
  assert again.target_sparsity == method.target_sparsity
  tracked = sparsejax.track_ever_active(method)
  assert repr(tracked) == f"track_ever_active({text})"


def test_a_changed_method_prints_its_parts():
  rigl = sparsejax.rigl(0.9, end_step=9)
  changed = dataclasses.replace(rigl, storage=sparsejax.kept)
  assert repr(changed).startswith("Method(initial=Initial(...), storage=")
  assert "\n" not in repr(changed) and "rigl" not in repr(changed)
  assert hash(rigl) == hash(dataclasses.replace(rigl))


def test_the_sparsity_of_every_method_may_come_first():
  for factory in methods.METHODS.values():
    first, *_ = [*inspect.signature(factory).parameters.values(), None]
    if "sparsity" in inspect.signature(factory).parameters:
      assert first.name == "sparsity"
      assert first.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


def test_one_shot_prunes_now_at_step_0():
  params = {"kernel": jnp.arange(1.0, 21).reshape(4, 5) * -1}
  tx = sparsejax.sparsify(optax.sgd(0.1), sparsejax.one_shot(0.75, at_step=0))
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  np.testing.assert_array_equal(params["kernel"].ravel()[:15], 0)
  updates, state = jax.jit(tx.update)(params, state, params)
  params = optax.apply_updates(params, updates)
  assert sparsejax.summary(params, state).active == 5
  with pytest.raises(ValueError, match="`sparsity` must be in"):
    sparsejax.one_shot(75.0, at_step=0)
