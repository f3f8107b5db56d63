"""Iterative magnitude pruning: train, prune, rewind, and again.

  python -m sparsejax.study.imp --config=FILE[:OPTIONS] --workdir=DIR --sparsity=0.9

  --sparsity=S         of the last round, in (0, 1) (needed)
  --prune_fraction=P   share of the weights that a round removes (0.2)
  --init_mode=MODE     rewind or lr_rewind: what each round starts from
  --init_step=STEP     the step of the first run that is rewound to (0)
  --config.KEY=VALUE   as for sparsejax.train

Round 0 trains the config; round i retrains, in DIR/round_i, the weights that
round i - 1 made largest, to a sparsity of 1 - (1 - P)^i and at last S. Every
round is a run of its own, and the same command goes on where it was. Exit
status as that of sparsejax.train.
"""

import math
import pathlib
import sys
from collections.abc import Sequence

from sparsejax import command_line, train

_MODES = ("rewind", "lr_rewind")


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line.

  Args:
    argv: the arguments without the program's name; `sys.argv` by default.

  Returns:
    The exit status.
  """
  argv = sys.argv[1:] if argv is None else argv
  if {"--help", "-h"} & set(argv):
    print(__doc__)
    return 0
  try:
    rounds = commands(argv)
  except command_line.InputError as error:
    print(f"error: {error}", file=sys.stderr)
    return train.BAD_INPUT
  titles = [
    f"Round {number} of {len(rounds) - 1}" for number in range(len(rounds))
  ]
  for status in train.each(zip(titles, rounds, strict=True)):
    if status:
      return status
  return 0


def commands(argv: Sequence[str]) -> list[list[str]]:
  """Turn a command line into one of the trainer for each round.

  Args:
    argv: the arguments without the program's name.

  Returns:
    Arguments of `sparsejax.train`.

  Raises:
    InputError: if an argument is missing or out of range.
  """
  parser = command_line.Parser()
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--sparsity", type=float, required=True)
  parser.add_argument("--prune_fraction", type=float, default=0.2)
  parser.add_argument("--init_mode", default="rewind")
  parser.add_argument("--init_step", type=int, default=0)
  requested, rest = parser.parse_known_args(argv)
  if requested.init_mode not in _MODES:
    raise command_line.unknown("`--init_mode`", requested.init_mode, _MODES)
  targets = sparsities(requested.sparsity, requested.prune_fraction)
  # What is told to the method of round 0 is not for the others.
  shared = [x for x in rest if not x.startswith("--config.method.")]
  kept = f"--config.keep_steps={tuple(sorted({0, requested.init_step}))}"
  found = [[*rest, kept, f"--workdir={_folder(requested.workdir, 0)}"]]
  for number, target in enumerate(targets, 1):
    # The first weights of a later round are those that it was rewound to.
    at = requested.init_step if number == 1 else 0
    found.append(
      [
        *shared,
        "--config.method.name=retrain",
        f"--config.method.sparsity={target!r}",
        f"--config.init_from={_folder(requested.workdir, number - 1)}",
        f"--config.init_mode={requested.init_mode}",
        f"--config.init_step={at}",
        f"--workdir={_folder(requested.workdir, number)}",
      ]
    )
  return found


def sparsities(last: float, prune_fraction: float) -> list[float]:
  """Returns the sparsity of each round but the first, which is dense.

  Args:
    last: of the last round, in (0, 1).
    prune_fraction: share of the weights that a round removes, in (0, 1).

  Raises:
    InputError: if one is out of range.

  Examples:
    >>> sparsities(0.6, 0.2)
    [0.2, 0.36, 0.488, 0.5904, 0.6]
  """
  for name, value in (("sparsity", last), ("prune_fraction", prune_fraction)):
    if not 0 < value < 1:
      raise command_line.InputError(
        f"`--{name}` must be in (0, 1), got {value}."
      )
  left = 1 - prune_fraction
  rounds = math.ceil(math.log(1 - last) / math.log(left) - 1e-9)
  # Rounded, because the last bits of a power differ between machines.
  return [*(round(1 - left**i, 12) for i in range(1, rounds)), last]


def _folder(workdir: pathlib.Path, number: int) -> pathlib.Path:
  return workdir.resolve() / f"round_{number:02d}"


if __name__ == "__main__":
  sys.exit(main())
