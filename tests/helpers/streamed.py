"""Train on streamed data and print the results as JSON.

    python streamed.py ID COUNT PORT

runs one of several processes, for `test_input_pipeline.py`.
"""

import json
import pathlib
import sys

import jax
import numpy as np

from sparsejax.training import initial_state, processes, programs, sharding
from sparsejax.training.config import build, command

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"
STEPS, TEST = 5, 21
CHANGES = (
  "--config.data.name=synthetic",
  "--config.data.streamed=True",
  "--config.data.num_classes=4",
  "--config.data.size=8",
  # Three batches per epoch; the last two examples do not fill another.
  "--config.data.train_examples=26",
  f"--config.data.test_examples={TEST}",
  "--config.batch_size=8",
  f"--config.epochs={STEPS / 3}",
  "--config.dispatch_steps=2",
  "--config.log_every_steps=1",
  "--config.eval_every_epochs=1",
  "--config.checkpoint_every_epochs=1",
  "--config.method.every_steps=2",
)
SMALL_MLP = ("--config.model.hidden=(16,)",)
SMALL_CNN = ("--config.model.name=cnn", "--config.model.channels=(4,)")


def experiment(*changes, model=SMALL_MLP):
  argv = [f"--config={CONFIG}:set", *CHANGES, *model, *changes]
  return build.build(command.parse(argv).config)


def compile_programs(chosen, state, mesh):
  setup = chosen.setup._replace(shard=sharding.batch_sharder(mesh))
  return programs.compile(setup, chosen.dataset, state, mesh, trains=True)


def results():
  """Trains to the end; returns sums over the test split and parameters."""
  chosen, mesh = experiment(), sharding.data_mesh()
  state = initial_state.create(chosen, mesh)
  compiled = compile_programs(chosen, state, mesh)
  while int(sharding.fetch(state.step)) < chosen.steps.total:
    state, _ = jax.block_until_ready(compiled.train(state))
  totals = sharding.fetch(compiled.evaluate["test"](state))
  weights = jax.tree.leaves(sharding.fetch(state.params))
  return {
    "correct": int(totals.correct),
    "loss": float(totals.loss),
    "sums": [float(np.abs(leaf, dtype=np.float64).sum()) for leaf in weights],
  }


def main(index, count, port):
  processes.join(
    coordinator_address=f"127.0.0.1:{port}",
    num_processes=int(count),
    process_id=int(index),
  )
  print("results", json.dumps(results()), flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
