"""A transformer of 8 billion parameters, compiled for a pod without one."""

import jax
import pytest
from helpers import pods

import sparsejax

pytestmark = pytest.mark.pods
POD = "v5e 16x16"


@pytest.fixture(scope="module", autouse=True)
def cpu():
  """Without this JAX looks for the accelerators of the plugins."""
  jax.config.update("jax_platforms", "cpu")


def test_an_8b_transformer_fits_and_masks_lie_where_weights_lie(capsys):
  update, step, state = pods.transformer(POD, "gmp")
  with capsys.disabled():
    for name, program in (("`update`, gmp", update), ("train step, gmp", step)):
      print("\n" + pods.row(POD, f"{name}, transformer of 8 billion", program))
      print(f"temporary: {program.temporary / 1e6:,.0f} MB")
  devices = pods.PODS[POD].devices().size
  weights = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  assert weights > 8e9 and step.memory < pods.PODS[POD].memory
  # Of a weight, 4 bytes of its new value and what the search compares.
  assert update.temporary < 16 * weights / devices
  masks = jax.eval_shape(sparsejax.get_masks, state.opt_state)
  competing = sum(leaf.size for leaf in jax.tree.leaves(masks))
  assert competing > 2**31
  found = {
    jax.tree_util.keystr(path): leaf.sharding
    for path, leaf in jax.tree.leaves_with_path(state.opt_state)
    if leaf.dtype == bool
  }
  for path, leaf in jax.tree.leaves_with_path(state.params):
    name = jax.tree_util.keystr(path)
    for other, sharding in found.items():
      if other.endswith(name):
        assert sharding.spec == leaf.sharding.spec
  assert any(not x.is_fully_replicated for x in found.values())
