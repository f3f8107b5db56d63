"""What saving a checkpoint costs the steps: asynchronous, as the trainer saves.

    python benchmarks/save.py

The state is that of a ResNet-50 under GraNet: parameters, momentum and masks
of 25.5 million weights. Each round takes the same steps without saving, with a
save in the background, and with one that is waited for.
"""

import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import outputs
import timing

from sparsejax.training.checkpointing import checkpoints

WEIGHTS, STEPS = 25_500_000, 100


def make_state(weights):
  """Returns parameters, momentum and masks."""
  return {
    "params": jax.random.normal(jax.random.key(0), (weights,)),
    "momentum": jnp.ones(weights),
    "masks": jnp.arange(weights) % 10 == 0,
  }


@jax.jit
def step(state):
  """Returns the state after a plain step of SGD with momentum."""
  momentum = 0.9 * state["momentum"] + state["params"] * state["masks"]
  return state | {
    "params": state["params"] - 0.1 * momentum,
    "momentum": momentum,
  }


class Saver:
  """Steps with a save before them, and how long the save held them up."""

  def __init__(self, folder, state):
    self.saved = checkpoints.open(
      folder, fingerprint="{}", sparse_leaves=(), best_metric=None
    )
    self.state, self.number = state, 0

  def take(self, steps, *, save, wait):
    """Returns the seconds of all steps, and of the save that precedes them."""
    started = time.perf_counter()
    if save:
      self.number += 1
      self.saved.save(self.number, self.state, metrics={})
    if wait:
      self.saved._wait()
    held_up = time.perf_counter() - started
    for _ in range(steps):
      self.state = jax.block_until_ready(step(self.state))
    seconds = time.perf_counter() - started
    self.saved._wait()  # The next kind of round finds an idle disk.
    return seconds, held_up


def saves(rounds, weights=WEIGHTS, steps=STEPS):
  """Returns one row for each way to save."""
  ways = {
    "no save": {"save": False, "wait": False},
    "in the background": {"save": True, "wait": False},
    "waited for": {"save": True, "wait": True},
  }
  found = {name: [] for name in ways}
  with tempfile.TemporaryDirectory() as folder:
    saver = Saver(pathlib.Path(folder), make_state(weights))
    saver.take(2, save=True, wait=True)
    for _ in range(rounds):
      for name, way in ways.items():
        found[name].append(saver.take(steps, **way))
    saver.saved.close()
  plain = statistics.median(seconds for seconds, _ in found["no save"])
  return [
    {
      "save": name,
      f"to {steps} steps without": statistics.median(x for x, _ in times)
      / plain,
      "held up, in steps": statistics.median(x for _, x in times)
      / (plain / steps),
      "held up, milliseconds": 1e3 * statistics.median(x for _, x in times),
    }
    for name, times in found.items()
  ]


def run(options):
  """Measures, and saves the results."""
  rows = saves(1, weights=1000, steps=2) if options.small else saves(5)
  timing.save("save", rows, timing.machine(), options.folder)


def main(argv=None):
  """Run the benchmark and save its results."""
  run(outputs.options(__doc__, argv))


if __name__ == "__main__":
  main()
