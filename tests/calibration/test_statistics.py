"""Statistics of inputs against numpy, on every kind of model and program."""

import itertools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import calibrated, tiers
from oracles import calibration as oracle

import sparsejax
from sparsejax import calibration
from sparsejax.calibration import statistics

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
STATISTICS = {
  "SQUARED_NORMS": lambda x: (x**2).sum(0),
  "GRAM": lambda x: x.T @ x,
}


def expected(statistic):
  """Returns what numpy finds in float64."""
  matrices, batches = calibrated.draw()
  wide = {name: x.astype(float) for name, x in matrices.items()}
  inputs = oracle.forward(np.concatenate(batches).astype(float), **wide)
  of = STATISTICS[statistic]
  inputs["blocks"] = np.stack([of(x) for x in inputs["blocks"]])
  return {name: x if name == "blocks" else of(x) for name, x in inputs.items()}


def check(found, statistic):
  for name, want in expected(statistic).items():
    np.testing.assert_allclose(found[name], want, **CLOSE, err_msg=name)


@pytest.mark.parametrize(
  ("model", "stacked", "statistic"),
  tiers.some(
    itertools.product(calibrated.MODELS, (False, True), STATISTICS),
    lambda case: case[2] == "GRAM" or case[0] == "plain",
  ),
)
def test_sums_equal_numpy(model, stacked, statistic):
  found = calibrated.sums(model, stacked, getattr(calibration, statistic))
  check(found, statistic)


@pytest.mark.parametrize("max_bytes", [1, 2500])
def test_passes_change_nothing(max_bytes):
  found = calibrated.sums("plain", True, calibration.GRAM, max_bytes=max_bytes)
  check(found, "GRAM")


def test_passes_hold_what_fits():
  matrices, batches = calibrated.draw()
  apply, params, _ = calibrated.plain(matrices, True)
  forward = statistics.Forward(apply, params, batches)
  taps = list(forward.program.taps.values())
  found = [
    [(unit.tap.name, unit.start, unit.size) for unit in units]
    for units in statistics.passes(taps, calibration.GRAM, 2100)
  ]
  # Grams of 256 and 1,024 bytes.
  assert found == [
    [("first", 0, 1), ("blocks", 0, 1)],
    [("blocks", 1, 2)],
    [("last", 0, 1)],
  ]


ALWAYS = (("plain", "scan"), ("linen", "loop"))
OTHERS = tuple(
  case
  for case in itertools.product(calibrated.MODELS, ("scan", "loop"))
  if case not in ALWAYS
)


@pytest.fixture(
  scope="module",
  params=[ALWAYS, pytest.param(OTHERS, marks=tiers.SLOW)],
  ids=["always", "others"],
)
def eight(request):
  """What a process with eight devices finds, by model and kind of loop."""
  script = pathlib.Path(calibrated.__file__)
  done = subprocess.run(
    [sys.executable, str(script), *map(",".join, request.param)],
    env={**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"},
    cwd=script.parents[1],
    capture_output=True,
    text=True,
    timeout=500,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  found = json.loads(done.stdout)
  return dict(zip(request.param, found, strict=True))


def test_sums_on_eight_devices_equal_numpy(eight):
  for result in eight.values():
    for statistic in STATISTICS:
      check(result[statistic], statistic)


def test_sums_are_sharded_as_the_weights_are(eight):
  for result in eight.values():
    assert result["SQUARED_NORMS whole"] == result["GRAM whole"] == []


def test_pruned_weights_stay_where_they_were(eight):
  for result in eight.values():
    assert not any(result["moved"])


def test_masks_on_eight_devices_are_those_of_one(eight):
  matrices, batches = calibrated.draw()
  for (model, loop), result in eight.items():
    apply, params, _ = calibrated.MODELS[model](matrices, loop == "scan")
    pruned = sparsejax.prune_with_calibration(
      apply, params, batches, 0.5, solver=calibration.sparsegpt()
    )
    for got, want in zip(
      result["masks"], jax.tree.leaves(pruned.masks), strict=True
    ):
      np.testing.assert_array_equal(got, want)


def gram_of(apply, params, x, name):
  return calibration.calibrate(apply, params, [x], statistic=calibration.GRAM)[
    name
  ]


CONVOLUTIONS = {
  "same": ((3, 3, 2, 4), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
  "strided": ((3, 2, 2, 4), (2, 1), ((0, 0), (1, 0)), (1, 1), 1),
  "dilated": ((2, 2, 2, 4), (1, 2), ((2, 1), (0, 0)), (2, 1), 1),
  "grouped": ((2, 2, 2, 6), (1, 1), ((0, 0), (0, 0)), (1, 1), 2),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_inputs_of_a_convolution_are_its_patches(name):
  shape, strides, padding, dilation, groups = CONVOLUTIONS[name]
  random = np.random.default_rng(0)
  images = random.normal(size=(3, 6, 5, shape[2] * groups)).astype(np.float32)
  params = {"kernel": random.normal(size=shape).astype(np.float32)}

  def apply(params, x):
    return jax.lax.conv_general_dilated(
      x,
      params["kernel"],
      strides,
      padding,
      rhs_dilation=dilation,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=groups,
    )

  patches = oracle.patches(
    images.astype(float), shape, strides, padding, dilation, groups
  )
  (found,) = gram_of(apply, params, images, "kernel")
  want = np.einsum("gti,gtj->gij", patches, patches)
  np.testing.assert_allclose(found.sums[0], want, **CLOSE)
  # The matrices are those that the patches multiply.
  matrices = np.asarray(found.tap.matrices(jnp.asarray(params["kernel"])))[0]
  outputs = np.concatenate(np.einsum("gti,gio->gto", patches, matrices), -1)
  got = np.asarray(apply(params, images)).reshape(outputs.shape)
  np.testing.assert_allclose(got, outputs, rtol=1e-4, atol=1e-5)


X = np.random.default_rng(1).normal(size=(7, 6)).astype(np.float32)
W = np.random.default_rng(2).normal(size=(6, 6)).astype(np.float32)


@jax.custom_jvp
def squashed(x):
  return jnp.tanh(x)


squashed.defjvp(lambda p, t: (squashed(*p), t[0]))

# What a program does with a matrix [6, 6], and which inputs it multiplies.
PROGRAMS = {
  "transposed": lambda w, x: x @ w.T,
  "in heads": lambda w, x: jnp.einsum("ti,iho->tho", x, w.reshape(6, 2, 3)),
  "in bfloat16 and back": lambda w, x: (
    x @ w.astype(jnp.bfloat16).astype(jnp.float32)
  ),
  "on the left": lambda w, x: jnp.einsum("io,ti->ot", w, x),
  "in jit": lambda w, x: jax.jit(lambda w, x: x @ w)(w, x),
  "in a checkpoint": lambda w, x: jax.checkpoint(lambda w, x: x @ w)(w, x),
  "in a function with its own derivative": lambda w, x: squashed(x @ w),
  "one example at a time": lambda w, x: jax.vmap(lambda row: row @ w)(x),
  "in a branch": lambda w, x: jax.lax.cond(
    x[0, 0] > -100, lambda: x @ w, lambda: x
  ),
  "with a bias": lambda w, x: x @ w + w.shape[0],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_leaf_is_found_wherever_it_goes(name):
  (found,) = gram_of(lambda p, x: PROGRAMS[name](p["w"], x), {"w": W}, X, "w")
  np.testing.assert_allclose(found.sums[0, 0], X.T @ X, **CLOSE)
  matrices = found.tap.matrices(jnp.asarray(W))
  np.testing.assert_array_equal(found.tap.leaf_from(matrices, W.shape), W)


def test_parts_of_a_leaf_have_their_own_inputs():
  def apply(params, x):
    left, right = jnp.split(params["w"], 2, axis=1)
    return (x @ left) @ left.T, x @ right

  def split(params, x):
    left, right = jnp.split(params["w"], 2, axis=1)
    return x @ left, (3 * x) @ right

  first, second = gram_of(split, {"w": W}, X, "w")
  np.testing.assert_allclose(first.sums[0, 0], X.T @ X, **CLOSE)
  np.testing.assert_allclose(second.sums[0, 0], 9 * X.T @ X, **CLOSE)
  with pytest.raises(ValueError, match="reads w in 3 ways"):
    gram_of(apply, {"w": W}, X, "w")


def test_a_leaf_that_is_read_twice_sums():
  (found,) = gram_of(
    lambda p, x: (x @ p["w"], (3 * x) @ p["w"]), {"w": W}, X, "w"
  )
  np.testing.assert_allclose(found.sums[0, 0], 10 * X.T @ X, **CLOSE)


def test_a_loop_around_a_leaf_sums():
  def apply(params, x):
    return jax.lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ params["w"]), x)

  want, x = 0, X.astype(float)
  for _ in range(3):
    want, x = want + x.T @ x, np.tanh(x @ W)
  (found,) = gram_of(apply, {"w": W}, X, "w")
  np.testing.assert_allclose(found.sums[0, 0], want, **CLOSE)


def test_experts_have_their_own_inputs():
  experts = np.random.default_rng(3).normal(size=(4, 6, 5)).astype(np.float32)
  x = np.random.default_rng(4).normal(size=(4, 9, 6)).astype(np.float32)
  (found,) = gram_of(
    lambda p, x: jnp.einsum("eti,eio->eto", x, p["w"]), {"w": experts}, x, "w"
  )
  assert found.tap.shape == (1, 4, 6, 5)
  want = np.einsum("eti,etj->eij", x, x)
  np.testing.assert_allclose(found.sums[0], want, **CLOSE)


def test_scans_in_scans_keep_all_slices_apart():
  w = np.random.default_rng(5).normal(size=(2, 3, 6, 6)).astype(np.float32) / 3

  def apply(params, x):
    def inner(x, w):
      return jnp.tanh(x @ w), None

    return jax.lax.scan(
      lambda x, ws: jax.lax.scan(inner, x, ws), x, params["w"]
    )[0]

  want, x = [], X.astype(float)
  for matrix in w.reshape(6, 6, 6):
    want, x = [*want, x.T @ x], np.tanh(x @ matrix)
  (found,) = gram_of(apply, {"w": w}, X, "w")
  np.testing.assert_allclose(found.sums[:, 0], np.stack(want), **CLOSE)


REFUSED = {
  "is changed": lambda p, x: x @ (p["w"] / jnp.linalg.norm(p["w"])),
  "is read by `gather`": lambda p, x: p["w"][x[:, 0].astype(jnp.int32)],
  "is read by no matrix product": lambda p, x: x + jnp.sum(p["w"]),
  "is read by `while`": lambda p, x: jax.lax.while_loop(
    lambda x: jnp.any(x > 100), lambda x: x @ p["w"], x
  ),
  "has weights that no product reads": lambda p, x: x[:, :3] @ p["w"][:3],
  "has weights that several": lambda p, x: (x @ p["w"]) @ p["w"].T,
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_leaf_that_cannot_be_tapped_is_named(why):
  with pytest.raises(ValueError, match=f"w {why}|w in .*{why}") as error:
    gram_of(REFUSED[why], {"w": W}, X, "w")
  assert "dense" in str(error.value)


def test_a_dense_leaf_may_be_read_in_any_way():
  def apply(params, x):
    return x @ params["w"] + params["table"][x[:, 0].astype(jnp.int32)]

  params = {"w": W, "table": W}
  with pytest.raises(ValueError, match="table is read by `gather`"):
    calibration.calibrate(apply, params, [X])
  found = calibration.calibrate(
    apply, params, [X], overrides={"table": "dense"}
  )
  assert list(found) == ["w"]


def test_batches_may_differ_in_size_and_come_from_an_iterator():
  (found,) = calibration.calibrate(
    lambda p, x: x @ p["w"],
    {"w": W},
    iter([X, X[:2]]),
    statistic=calibration.GRAM,
  )["w"]
  want = X.T @ X + X[:2].T @ X[:2]
  np.testing.assert_allclose(found.sums[0, 0], want, **CLOSE)
  with pytest.raises(ValueError, match="`batches` is empty"):
    calibration.calibrate(lambda p, x: x @ p["w"], {"w": W}, [])
