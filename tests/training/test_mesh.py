"""`config.mesh`: what lies where, and the same masks wherever it lies."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from helpers import meshes, together, trainer
from jax.sharding import AbstractMesh, PartitionSpec as P

import sparsejax
from sparsejax import command_line
from sparsejax.training import sharding, train_state, weight_sharding

SCRIPT = pathlib.Path(meshes.__file__)
ACROSS = SCRIPT.with_name("across.py")
METHODS = ("granet", "rigl", "optg", "set", "gmp_kept", "str")


def abstract_mesh(data=1, fsdp=1, tensor=1):
  return AbstractMesh((data, fsdp, tensor), sharding.AXES)


@pytest.mark.parametrize(
  ("sizes", "found"),
  [
    ((-1, 1, 1), (8, 1, 1)),
    ((1, -1, 2), (1, 4, 2)),
    ((2, 4, 1), (2, 4, 1)),
    ((2, 2, -1), (2, 2, 2)),
  ],
)
def test_the_rest_of_the_devices_goes_to_one_axis(sizes, found):
  given = dict(zip(sharding.AXES, sizes, strict=True))
  assert sharding.axis_sizes(given, 8) == found


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ((3, 1, 1), "the number of devices, 8, got data 3, fsdp 1, tensor 1"),
    ((-1, 3, 1), "Set `config.mesh.data` to -1"),
    ((-1, 16, 1), "whose product is the number of devices, 8"),
    ((-1, -1, 1), "-1 for at most one"),
    ((0, 1, 1), "positive sizes"),
    ((-2, 1, 1), "positive sizes"),
  ],
)
def test_sizes_that_do_not_fit_the_devices_are_refused(sizes, message):
  given = dict(zip(sharding.AXES, sizes, strict=True))
  with pytest.raises(command_line.InputError, match=message):
    sharding.axis_sizes(given, 8)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (["--config.mesh.fsdp=2"], "the number of devices, 1, got data -1, fsdp 2"),
    (["--config.mesh.rules=('kernel',)"], "must hold items like"),
    (["--config.mesh.rules=('*=data',)"], "must hold items like"),
    (["--config.mesh.rules=('*=fsdp,fsdp',)"], "must name an axis once"),
    (
      ["--config.mesh.rules=('x/kernel=fsdp',)"],
      "'x/kernel' matches no parameter. Parameters: Dense_0/bias",
    ),
    (
      ["--config.mesh.rules=('*/bias=none,fsdp',)"],
      r"names 2 dimensions, but Dense_0/bias has the shape \(256,\)",
    ),
  ],
)
def test_a_mesh_that_cannot_work_is_refused_before_anything_is_compiled(
  changes, message
):
  with pytest.raises(command_line.InputError, match=message):
    meshes.experiment("set", *changes)


@pytest.mark.parametrize(
  ("shape", "slices", "outer"),
  [
    ((8, 1, 1), 2, [2, 1, 1]),
    ((3, 4, 1), 2, [1, 2, 1]),
    ((2, 8, 1), 4, [2, 2, 1]),
    ((1, 1, 6), 3, [1, 1, 3]),
  ],
)
def test_the_first_axes_cross_the_slow_network(shape, slices, outer):
  assert sharding.over_slices(shape, slices) == outer


PARAMS = {
  "large": jax.ShapeDtypeStruct((3, 3, 64, 128), "float32"),
  "square": jax.ShapeDtypeStruct((128, 128), "float32"),
  "small": jax.ShapeDtypeStruct((64, 64), "float32"),
  "odd": jax.ShapeDtypeStruct((1001, 333), "float32"),
}


def specs(rules=(), **axes):
  found = weight_sharding.shardings(PARAMS, abstract_mesh(**axes), rules)
  return {name: place.spec for name, place in found.items()}


def test_large_weights_are_sharded_along_their_largest_divisible_axis():
  assert specs(data=8) == dict.fromkeys(PARAMS, P())
  assert specs(data=2, fsdp=4) == {
    "large": P(None, None, None, "fsdp"),
    "square": P("fsdp"),
    "small": P(),
    "odd": P(),
  }
  assert specs(fsdp=3)["large"] == P("fsdp")
  assert specs(fsdp=3)["odd"] == P(None, "fsdp")


def test_the_first_rule_that_matches_decides():
  rules = ("s*=none,tensor+fsdp", "square=tensor", "large=none")
  found = specs(rules, fsdp=2, tensor=2)
  assert found["square"] == found["small"] == P(None, ("tensor", "fsdp"))
  assert found["large"] == P(None)
  with pytest.raises(command_line.InputError, match="does not divide"):
    specs(("odd=fsdp",), fsdp=2)


@pytest.mark.parametrize("kept", [False, True])
def test_everything_of_a_weight_lies_where_it_lies(kept):
  method = sparsejax.gmp(
    0.9,
    end_step=4,
    every_steps=2,
    storage=sparsejax.kept if kept else sparsejax.zeroed,
  )
  tx = sparsejax.sparsify(
    optax.adam(0.1), sparsejax.track_ever_active(method), key=jax.random.key(0)
  )
  mesh = abstract_mesh(fsdp=2)
  placed = weight_sharding.shardings(PARAMS, mesh, ())
  state = jax.eval_shape(tx.init, PARAMS)
  found = weight_sharding.follow(state, PARAMS, placed, mesh)
  shapes = {leaf.shape: name for name, leaf in PARAMS.items()}
  seen = []
  for leaf, place in zip(
    jax.tree.leaves(state), jax.tree.leaves(found), strict=True
  ):
    name = shapes.get(leaf.shape)
    wanted = placed[name].spec if name else P()
    assert place.spec == wanted
    seen.append(name)
  # Masks, two moments, ever-active masks and, if kept, latent weights.
  assert seen.count("large") == (5 if kept else 4)


def test_what_was_read_takes_the_tree_of_its_places():
  place = sharding.replicated(sharding.make_mesh())
  read = train_state.Weights({"kernel": np.ones(3)}, None)
  found = sharding.put(read, train_state.Weights({"kernel": place}, {}))
  assert found.model_state == {} and found.params["kernel"].sharding == place


def train(folder, names, *methods):
  """Trains on simulated devices; returns what was seen of each method."""
  done = subprocess.run(
    [sys.executable, SCRIPT, folder, ",".join(names), *methods],
    env={**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=3000,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return [json.loads(line) for line in done.stdout.splitlines()]


def assert_same_masks(found):
  one, *others = found["masks"].values()
  assert all(other == one for other in others), found["method"]
  assert len({str(masks) for masks in one}) > 3  # They do change.
  assert found["restored"] == [True] * len(meshes.RESTORED)
  assert found["resumed"] == one[meshes.SAVED :]


def test_masks_do_not_depend_on_the_mesh_nor_on_a_resume_with_another(tmp_path):
  (found,) = train(tmp_path, ("one", "both"), "granet")
  assert_same_masks(found)


@pytest.mark.pods
def test_masks_of_many_methods_do_not_depend_on_the_mesh(tmp_path):
  methods = ("rigl", "optg", "set", "gmp_kept", "str")
  results = train(tmp_path, meshes.MESHES, *methods)
  assert [found["method"] for found in results] == list(methods)
  for found in results:
    assert_same_masks(found)


@pytest.fixture(scope="module")
def of_one_process():
  return across("data", 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["data", "fsdp"])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("count", [2, 4])
def test_masks_do_not_depend_on_the_processes(
  of_one_process, count, devices, axis
):
  """At every step, and so after every mask update."""
  for method, masks in across(axis, count, devices).items():
    assert masks == of_one_process[method], method
    assert len({str(each) for each in masks}) > 3  # They do change.


def across(axis, count, devices):
  """Trains with several processes; returns the masks of each method."""
  port = str(trainer.free_port())
  started = [
    subprocess.Popen(
      [sys.executable, ACROSS, axis, str(index), str(count), port, *METHODS],
      env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(count)
  ]
  statuses, outputs = together.finish(started, seconds=3000)
  assert statuses == [0] * count, outputs
  seen = [
    [json.loads(line) for line in output.splitlines() if line[:1] == "{"]
    for output in outputs
  ]
  assert all(each == seen[0] for each in seen)
  found = {each["method"]: each["masks"] for each in seen[0]}
  assert tuple(found) == METHODS
  return found
