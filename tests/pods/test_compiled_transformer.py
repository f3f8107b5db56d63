"""Transformers of 1 and 8 billion parameters, compiled for pods without one."""

import jax
import pytest
from helpers import pods

import sparsejax

pytestmark = pytest.mark.pods
WEIGHTS = {"1b": 1.2e9, "8b": 8e9}


@pytest.fixture(scope="module", autouse=True)
def cpu():
  """Without this JAX looks for the accelerators of the plugins."""
  jax.config.update("jax_platforms", "cpu")


@pytest.mark.parametrize(("pod", "size"), pods.TRANSFORMERS)
def test_a_transformer_fits_and_masks_lie_where_weights_lie(pod, size, capsys):
  update, step, state = pods.transformer(pod, "gmp", size)
  with capsys.disabled():
    for name, program in (("`update`", update), ("train step", step)):
      print(
        "\n" + pods.row(pod, f"{name}, gmp, transformer of {size}", program)
      )
  devices = pods.PODS[pod].devices().size
  weights = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  assert weights > WEIGHTS[size] and step.memory < pods.PODS[pod].memory
  # Of a weight, 4 bytes of its new value and what the search compares.
  assert update.temporary < 16 * weights / devices
  masks = jax.eval_shape(sparsejax.get_masks, state.opt_state)
  competing = sum(leaf.size for leaf in jax.tree.leaves(masks))
  assert (competing > 2**31) == (size == "8b")
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
