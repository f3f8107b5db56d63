"""Programs run elsewhere, for any batch size, and damaged ones are refused."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dead_channels, tiers

from sparsejax.components import trees
from sparsejax.export import program, shrink
from sparsejax.models import MODELS


def network(name="cnn", image=(1, 8, 8, 1), **options):
  model = MODELS[name](10, **options)
  x = jnp.asarray(np.random.default_rng(0).normal(size=image), jnp.float32)
  variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(
    x
  )
  variables = dead_channels.with_random_norms(variables)
  return lambda v, x: model.apply(v, x, train=False), variables, x


RUN_ELSEWHERE = """
import sys
import numpy as np
from jax import export
network = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
arrays = np.load(sys.argv[2])
images = arrays["images"]
weights = {n: arrays[n] for n in arrays.files if n != "images"}
found = network.call(*([weights] if weights else []), images)
assert not {"flax", "sparsejax"} & sys.modules.keys()
assert network.platforms == ("cpu", "cuda", "tpu")
np.save(sys.argv[3], found)
"""


@pytest.mark.parametrize("inside", tiers.every(2, [True, False]))
def test_a_process_without_flax_and_this_package_runs_it(tmp_path, inside):
  apply, variables, x = network(channels=(4, 6))
  program.save(tmp_path, apply, variables, x, inside=inside)
  images = np.random.default_rng(1).normal(size=(5, 8, 8, 1)).astype("f")
  weights = {} if inside else dict(trees.named_leaves(variables))
  np.savez(tmp_path / "given.npz", images=images, **weights)
  command = [sys.executable, "-c", RUN_ELSEWHERE, program.PROGRAM]
  subprocess.run([*command, "given.npz", "found.npy"], cwd=tmp_path, check=True)
  np.testing.assert_allclose(
    np.load(tmp_path / "found.npy"),
    apply(variables, jnp.asarray(images)),
    rtol=1e-4,
    atol=1e-5,
  )


def test_a_smaller_network_is_a_program_too(tmp_path):
  params = {"a": np.ones((4, 3), np.float32), "b": np.ones((3, 2), np.float32)}
  params["a"][:, 1] = 0
  small = shrink.shrink(
    lambda p, x: x @ p["a"] @ p["b"], params, None, np.ones((1, 4), np.float32)
  )
  program.save(tmp_path, small.apply, small.params, np.ones((1, 4), "f"))
  found = program.load(tmp_path)(np.ones((7, 4), np.float32))
  np.testing.assert_array_equal(found, np.full((7, 2), 8))


@pytest.mark.parametrize(
  "damage",
  [
    lambda data: data[:-1],
    lambda data: b"",
    lambda data: data[:50] + b"\0" + data[51:],
    lambda data: data + b"x",
  ],
)
def test_damaged_programs_are_refused(tmp_path, damage):
  params = np.ones((4, 3), np.float32)
  program.save(tmp_path, lambda p, x: x @ p, params, np.ones((1, 4), "f"))
  path = tmp_path / program.PROGRAM
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(program.ProgramError, match="damaged"):
    program.load(tmp_path)


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"bytes": 1}'])
def test_damaged_records_are_refused(tmp_path, record):
  params = np.ones((4, 3), np.float32)
  program.save(tmp_path, lambda p, x: x @ p, params, np.ones((1, 4), "f"))
  (tmp_path / "program.json").write_text(record)
  with pytest.raises(program.ProgramError, match="damaged"):
    program.load(tmp_path)
