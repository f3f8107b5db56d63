"""A small run on streamed data."""

import pathlib

from sparsejax.training import programs, sharding
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
