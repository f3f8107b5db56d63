"""One of several processes: trains by command line, then step by step.

    python process.py ID COUNT PORT WORKDIR

Prints a digest of the masks on each device, after each step; then changes a
mask in process 1, and tries to save.
"""

import contextlib
import functools
import pathlib
import sys
import zlib

import jax
import numpy as np

import sparsejax
from sparsejax import train
from sparsejax.training import initial_state, sharding, train_step
from sparsejax.training.checkpointing import checkpoints
from sparsejax.training.config import build, command

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"


def main(index, count, port, workdir):
  argv = [
    f"--config={CONFIG}:granet,runlocal",
    "--config.model.hidden=(32,)",
    "--config.dispatch_steps=1",
    "--config.method.every_steps=3",
    f"--workdir={workdir}",
    f"--coordinator_address=127.0.0.1:{port}",
    f"--num_processes={count}",
    f"--process_id={index}",
  ]
  assert train.main(argv) == 0
  assert jax.process_count() == int(count)
  chosen = build.build(command.parse(argv).config)
  mesh = sharding.data_mesh()
  setup = chosen.setup._replace(shard=sharding.batch_sharder(mesh))
  state = initial_state.create(chosen, mesh)
  split = sharding.replicate(chosen.dataset.train, mesh)
  steps = jax.jit(
    functools.partial(train_step.run_dispatch, setup),
    donate_argnums=0,
    out_shardings=sharding.replicated(mesh),
  )
  for _ in range(chosen.steps.total):
    state, _ = jax.block_until_ready(steps(state, split))
    masks = jax.tree.leaves(sparsejax.get_masks(state.opt_state))
    for device in range(jax.local_device_count()):
      digest = 0
      for mask in masks:
        local = np.asarray(mask.addressable_data(device))
        digest = zlib.crc32(local.tobytes(), digest)
      print("masks", int(sharding.fetch(state.step)), digest, flush=True)
  save_unequal_masks(state, pathlib.Path(workdir) / "unequal")


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
