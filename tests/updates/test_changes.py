"""The state counts what a mask update pruned and regrew in each layer."""

import jax
import numpy as np
import optax
import pytest

import sparsejax

METHODS = {
  "granet": sparsejax.granet(0.9, end_step=6, every_steps=2, total_steps=10),
  "set": sparsejax.sparse_evolution(
    sparsity=0.8, every_steps=3, total_steps=10
  ),
  "dpf": sparsejax.dpf(0.9, end_step=6, every_steps=2),
}


def changed(before, after):
  """Pruned and regrown weights per layer; slices of `stacked` are layers."""
  pairs = [
    (before["a"], after["a"]),
    *zip(before["stacked"], after["stacked"], strict=True),
  ]
  return [
    [int((old & ~new).sum()) for old, new in pairs],
    [int((new & ~old).sum()) for old, new in pairs],
  ]


@pytest.mark.parametrize("name", METHODS)
def test_counts_are_those_of_the_masks(name):
  keys = jax.random.split(jax.random.key(0), 2)
  params = {
    "a": jax.random.normal(keys[0], (6, 10)),
    "stacked": jax.random.normal(keys[1], (2, 10, 8)),
  }
  tx = sparsejax.sparsify(
    optax.sgd(0.1),
    METHODS[name],
    key=jax.random.key(1),
    overrides={"stacked": sparsejax.Override(axis=0)},
  )
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  update = jax.jit(tx.update)
  expected = [[0] * 3] * 2
  assert state.changes.tolist() == expected
  moved = 0
  for step in range(1, 11):
    before = jax.tree.map(np.asarray, state.masks)
    key = jax.random.key(step)
    grads = jax.tree.map(lambda p, k=key: jax.random.normal(k, p.shape), params)
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    if int(state.last_update) == step:
      expected = changed(before, jax.tree.map(np.asarray, state.masks))
    moved += sum(expected[0])
    assert state.changes.tolist() == expected
  assert moved
