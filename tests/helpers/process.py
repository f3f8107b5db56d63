"""One of several processes: trains by command line, then step by step.

    python process.py ID COUNT PORT WORKDIR

The weights are sharded over all devices of the processes. Prints digests of the
masks after each step; then changes a mask in process 1, and tries to save.
"""

import contextlib
import json
import pathlib
import sys

import jax
import numpy as np

import sparsejax
from sparsejax import train
from sparsejax.training import (
  initial_state,
  programs,
  sharding,
  weight_sharding,
)
from sparsejax.training.checkpointing import checkpoints, digests
from sparsejax.training.config import build, command

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"


def main(index, count, port, workdir):
  argv = [
    f"--config={CONFIG}:granet,runlocal",
    "--config.model.hidden=(32,)",
    "--config.dispatch_steps=1",
    "--config.method.every_steps=3",
    "--config.mesh.data=1",
    "--config.mesh.fsdp=-1",
    "--config.mesh.rules=('*/kernel=fsdp',)",
    f"--workdir={workdir}",
    f"--coordinator_address=127.0.0.1:{port}",
    f"--num_processes={count}",
    f"--process_id={index}",
  ]
  assert train.main(argv) == 0
  assert jax.process_count() == int(count)
  chosen = build.build(command.parse(argv).config)
  mesh = sharding.make_mesh(chosen.config["mesh"])
  state = initial_state.create(chosen, mesh)
  setup = chosen.setup._replace(
    shard=sharding.batch_sharder(mesh),
    gather=weight_sharding.gatherer(sharding.of(state.params)),
  )
  compiled = programs.compile(setup, chosen.dataset, state, mesh)
  for _ in range(chosen.steps.total):
    state, _ = compiled.train(state)
    masks = digests.tree_digests(sparsejax.get_masks(state.opt_state))
    step, found = int(sharding.fetch(state.step)), list(masks.values())
    print("masks", step, json.dumps(found), flush=True)
  whole = jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))
  save_unequal_masks(whole(state), pathlib.Path(workdir) / "unequal")


def save_unequal_masks(state, workdir):
  def in_this_process(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if name != "opt_state/masks/Dense_0/kernel":
      return leaf
    local = np.array(leaf.addressable_data(0))
    local[3, 4] ^= jax.process_index() == 1
    return jax.make_array_from_callback(
      leaf.shape, leaf.sharding, lambda index: local[index]
    )

  state = jax.tree.map_with_path(in_this_process, state)
  with contextlib.closing(
    checkpoints.open(workdir, fingerprint="{}", sparse_leaves=())
  ) as saved:
    try:
      saved.save(5, state, metrics={})
    except checkpoints.CheckpointError as error:
      print("refused", error, flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
