"""The same masks on one device and on four, however they are sharded."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest

import sparsejax

SCRIPT = pathlib.Path(__file__).parent / "helpers" / "sharded.py"
KERNEL = 500  # the smallest kernel of the script has more weights


def run(which):
  """Returns what the script saw of some methods."""
  done = subprocess.run(
    [sys.executable, str(SCRIPT), which],
    env={**os.environ, "JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=500,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout)


def check_masks(runs):
  """The masks of a method are the same at every step of all of its runs."""
  for method in {run["method"] for run in runs}:
    same = [run for run in runs if run["method"] == method]
    assert len(same) >= 2
    assert len({run["masks"] for run in same}) == 1, method
    assert len({run["counts"] for run in same}) == 1, method


def check_places(runs):
  """No weights, gradients or masks are gathered, and all stay in place."""
  for run in runs:
    assert run["strays"] == [], run
    if run["place"] in ("rows", "columns"):
      assert run["gathered"] < KERNEL, run


@pytest.fixture(scope="module")
def results():
  return run("few")


def test_same_masks_on_one_and_four_devices(results):
  check_masks(results["runs"])


def test_only_counts_cross_devices(results):
  check_places(results["runs"])


def test_init_outside_jit_puts_masks_and_momentum_where_weights_are(results):
  assert results["eager"] == []


def test_given_masks_of_the_host_go_where_weights_are(results):
  assert results["given"]


@pytest.mark.slow
def test_units_and_cells_are_the_same_on_one_and_four_devices():
  runs = run("units")["runs"]
  check_masks(runs)
  assert all(each["strays"] == [] for each in runs)


@pytest.mark.slow
def test_counts_in_two_limbs_cross_devices_alone():
  runs = run("wide")["runs"]
  check_masks(runs)
  check_places(runs)


def test_replicated_parameters_take_the_program_of_one_device(results):
  runs = [run for run in results["runs"] if run["method"] == "granet"]
  size = {run["place"]: run["program"] for run in runs}
  assert size["replicated"] < 1.5 * size[None]


def test_lowered_from_shapes_it_needs_to_be_said_that_they_are_sharded():
  """Shapes without a sharding name no devices: the argument decides."""
  params = {"kernel": jax.ShapeDtypeStruct((64, 32), jnp.float32)}

  def packs(sharded):
    tx = sparsejax.sparsify(
      optax.sgd(0.1), sparsejax.one_shot(0.9, at_step=1), sharded=sharded
    )
    state = jax.eval_shape(tx.init, params)
    lowered = jax.jit(tx.update).lower(params, state, params)
    return "tensor<64x4xui8>" in lowered.as_text() or (
      "tensor<8x32xui8>" in lowered.as_text()
    )

  assert packs(None) and packs(False)
  assert not packs(True)


def test_parameters_that_are_seen_to_be_sharded_must_not_be_called_whole(
  results,
):
  assert results["refused"].startswith(
    "`sharded` is False, but 'a/kernel' is sharded over devices."
  )
