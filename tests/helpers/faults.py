"""What the tests of random faults share."""

import os
import random

SEED = "SPARSEJAX_FAULTS_SEED"
"""The variable of the environment with the seed, which `conftest.py` sets."""

CHANGES = (
  "--config.epochs=8",
  "--config.dispatch_steps=11",
  "--config.checkpoint_every_epochs=1",
  "--config.eval_every_epochs=1",
  "--config.log_every_steps=1",
  "--config.keep_steps=(0,)",
  "--config.model.hidden=(32,)",
  "--distributed=False",
)
STEPS = 8 * 22


def numbers(request) -> random.Random:
  """Returns numbers that depend on the seed and on the test's name alone."""
  return random.Random(f"{os.environ[SEED]} {request.node.name}")
