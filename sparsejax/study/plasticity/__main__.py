"""Measure pruning plasticity, as in Figures 2 to 14 of GraNet's paper.

  python -m sparsejax.study.plasticity --config=plasticity[:OPTIONS]

  --config=NAME[:OPTIONS]   what to train, and what to measure (required):
                            plasticity:digits, plasticity:resnet20,cifar10
  --config.KEY=VALUE        override a value of the config; the protocol is in
                            config.plasticity
  --workdir=DIR             folder of the grid (runs/CONFIG-OPTIONS)

Trains a dense network and sparse ones, prunes each of them once at many moments
and at several rates, with and without regrowth, and trains all of these
branches on: some epochs at the learning rate of the moment for the plasticity,
and to the end of the schedule for the final gap. Writes plasticity.csv and,
with matplotlib, plasticity.png and final_gap.png.

The same command resumes after any end, a branch that was stopped included, and
does not repeat what is done; numbers are those of a grid that was not stopped.

Exit status: as for sparsejax.train.
"""

import sys
from collections.abc import Sequence

from sparsejax import command_line


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line.

  Args:
    argv: arguments without the program's name; `sys.argv` by default.

  Returns:
    The exit status.
  """

  def command(arguments: list[str]) -> int:
    from sparsejax.study.plasticity import run  # Needs the extra `train`.

    return run.run(arguments)

  return command_line.run(
    command,
    argv,
    name="sparsejax.study.plasticity",
    doc=__doc__,
    hint=command_line.RESUME,
  )


if __name__ == "__main__":
  sys.exit(main())
