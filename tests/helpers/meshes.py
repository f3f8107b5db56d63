"""Train on several meshes of eight simulated devices, and print what was seen.

    python meshes.py FOLDER MESH,... METHOD...

Run by `test_mesh.py` in another process, because the number of devices is fixed
when JAX starts. Prints a JSON object per line.
"""

import contextlib
import functools
import itertools
import json
import pathlib
import sys

import jax
import numpy as np

import sparsejax
from sparsejax.training import (
  initial_state,
  programs,
  sharding,
  weight_sharding,
)
from sparsejax.training.checkpointing import checkpoints, digests
from sparsejax.training.config import build, command

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"
# A batch that 1, 2, 3, 4 and 8 devices can share.
CHANGES = (
  "--config.batch_size=480",
  "--config.epochs=6",
  "--config.model.hidden=(256,)",
  "--config.dispatch_steps=1",
)
# Option and changes of the config.
METHODS = {
  name: (name,) for name in ("granet", "rigl", "optg", "set", "gmp", "str")
} | {"gmp_kept": ("gmp", "--config.method.storage=kept")}
# Devices on data, fsdp and tensor.
MESHES = {
  "one": (1, 1, 1),
  "data": (2, 1, 1),
  "fsdp": (1, 2, 1),
  "both": (2, 2, 1),
  "tensor": (1, 2, 2),
}
RULES = {"tensor": ["*/kernel=fsdp,tensor"]}
# Where a checkpoint of the last mesh is restored; 3 divides no weights.
RESTORED = ((1, 1, 1), (1, 2, 1), (1, 3, 1), (2, 4, 1))
STEPS, SAVED = 10, 5


def experiment(method, *changes):
  argv = [f"--config={CONFIG}:{method},runlocal", *CHANGES, *changes]
  return build.build(command.parse(argv).config)


class Run:
  """A run on a mesh."""

  def __init__(self, chosen, shape, rules=()):
    chosen.config["mesh"]["rules"] = list(rules)
    self.chosen = chosen
    self.mesh = sharding.make_mesh(
      dict(zip(sharding.AXES, shape, strict=True)),
      devices=jax.devices()[: int(np.prod(shape))],
    )
    self.abstract = initial_state.abstract(chosen, self.mesh)

  @functools.cached_property
  def compiled(self):
    gather = weight_sharding.gatherer(sharding.of(self.abstract.params))
    setup = self.chosen.setup._replace(
      shard=sharding.batch_sharder(self.mesh), gather=gather
    )
    return programs.compile(
      setup, self.chosen.dataset, self.abstract, self.mesh
    )

  def train(self, state):
    """Yields the state after each step."""
    while True:
      state, _ = jax.block_until_ready(self.compiled.train(state))
      assert sharding.of(state) == sharding.of(self.abstract)
      yield state

  def checkpoints(self, folder):
    return contextlib.closing(
      checkpoints.open(
        folder,
        fingerprint=json.dumps(self.chosen.config),
        sparse_leaves=initial_state.sparse_leaves(self.abstract),
      )
    )


def masks_of(state):
  """Digests of the masks, which do not depend on where they lie."""
  found = digests.tree_digests(sparsejax.get_masks(state.opt_state))
  return list(found.values())


def on_meshes(method, names, folder):
  """Returns the masks of every step by mesh, and what a restore gives."""
  seen, runs, whole = {}, {}, {}
  for name in names:
    run = Run(experiment(*METHODS[method]), MESHES[name], RULES.get(name, ()))
    runs[name], seen[name] = run, []
    assert put_batch(run)
    first = initial_state.create(run.chosen, run.mesh)
    for state in itertools.islice(run.train(first), STEPS):
      seen[name].append(masks_of(state))
      if name == names[-1] and len(seen[name]) == SAVED:
        with run.checkpoints(folder) as saved:
          saved.save(SAVED, state, metrics={})
        whole = digests.tree_digests(state)
  return {
    "method": method,
    "masks": seen,
    "restored": [
      digests.tree_digests(restore(run, folder)) == whole
      for run in (
        Run(experiment(*METHODS[method]), shape) for shape in RESTORED
      )
    ],
    "resumed": [
      masks_of(state)
      for state in itertools.islice(
        runs[names[0]].train(restore(runs[names[0]], folder)), STEPS - SAVED
      )
    ],
  }


def put_batch(run):
  """Returns whether a batch of the host is whole on the devices."""
  batch = np.arange(480 * 5).reshape(480, 5)
  local = sharding.local_batch(run.mesh, 480)
  found = sharding.put_batch(batch[local.rows], local)
  return found.sharding == local.sharding and (np.asarray(found) == batch).all()


def restore(run, folder):
  with run.checkpoints(folder) as saved:
    restored = saved.restore_newest(run.abstract)
  assert restored.step == SAVED
  assert sharding.of(restored.state) == sharding.of(run.abstract)
  return restored.state


def main(folder, names, *methods):
  for method in methods:
    found = on_meshes(method, names.split(","), pathlib.Path(folder) / method)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
