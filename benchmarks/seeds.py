"""Several seeds in one program of the trainer, compared to one seed.

    python benchmarks/seeds.py

Times dispatches of GraNet on the digits, a perceptron, mask updates included,
with one seed and with five (`config.seeds`).
"""

from collections.abc import Sequence
from typing import Any

import outputs
import timing

from sparsejax.training import initial_state, programs, replicas, sharding
from sparsejax.training.config import build, command

SEEDS, STEPS, ROUNDS = (1, 5), 110, 11


class Loop:
  """Dispatches of a run, which keep their state from call to call."""

  def __init__(self, seeds: int):
    argv = ["--config=digits:granet", "--config.epochs=1000"]
    argv += [f"--config.dispatch_steps={STEPS}", f"--config.seeds={seeds}"]
    experiment = build.build(command.parse(argv).config)
    mesh = sharding.make_mesh()
    states = [initial_state.create(each, mesh) for each in experiment.each]
    self.state = replicas.stack(states)
    self.programs = programs.compile(
      experiment.setup, experiment.dataset, self.state, mesh
    )

  def __call__(self) -> Any:
    """Runs one dispatch."""
    self.state, metrics = self.programs.train(self.state)
    return metrics


def main(argv: Sequence[str] | None = None) -> None:
  """Run the benchmark and save its results."""
  options = outputs.options(__doc__, argv)
  where, rounds = timing.machine(), 1 if options.small else ROUNDS
  loops = {str(seeds): Loop(seeds) for seeds in SEEDS}
  found = timing.measure(loops, rounds, warm=0)
  alone = found[str(SEEDS[0])]
  rows = [
    {
      "seeds": seeds,
      "steps per second": STEPS / found[str(seeds)].wall,
      "time per run": found[str(seeds)].wall / alone.wall / seeds,
      "CPU time per run": found[str(seeds)].cpu / alone.cpu / seeds,
      "compile s": loops[str(seeds)].programs.compile_seconds,
    }
    for seeds in SEEDS
  ]
  timing.save("seeds", rows, where, options.folder)


if __name__ == "__main__":
  main()
