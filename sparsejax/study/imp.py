"""Iterative magnitude pruning: train, prune, rewind, repeat.

  python -m sparsejax.study.imp --config=NAME --workdir=DIR --sparsity=0.9

  --sparsity=S         sparsity of the last round, in (0, 1) (required)
  --prune_fraction=P   fraction of the weights that a round prunes (0.2)
  --init_mode=MODE     rewind or lr_rewind: what each round starts from
  --init_step=STEP     the step of the first run to rewind to (0)
  --config.KEY=VALUE   as for sparsejax.train

Round 0 trains the config. Round i prunes the smallest weights of round i - 1 to
a sparsity of 1 - (1 - P)^i, in the last round S, and retrains the rest in
DIR/round_i. Each round is a separate run, and the same command resumes.

Exit status: as for sparsejax.train.
"""

import argparse
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sparsejax import command_line, train

_MODES = ("rewind", "lr_rewind")
_MOST_ROUNDS = 1000


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line.

  Args:
    argv: arguments without the program's name; `sys.argv` by default.

  Returns:
    The exit status.
  """
  return command_line.run(
    _train_rounds,
    argv,
    name="sparsejax.study.imp",
    doc=__doc__,
    hint=command_line.RESUME,
  )


def _train_rounds(argv: list[str]) -> int:
  from sparsejax.training.config import command, keys

  rounds = commands(argv)
  configs = [keys.resolved(command.parse(each).config) for each in rounds]
  keys.check_one_seed(configs[0], "each round starts from a run of one seed")
  _check_methods(*(config["method"] for config in configs[:2]))
  titles = [
    f"Round {number} of {len(rounds) - 1}" for number in range(len(rounds))
  ]
  runs = zip(titles, rounds, strict=True)
  for status in train.each(runs, total=len(rounds)):
    if status:
      return status
  return command_line.DONE


def _check_methods(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
  """Refuses a round 0 that is sparser than round 1, before it trains."""
  sparsity = first.get("sparsity")
  if sparsity is not None and sparsity > second["sparsity"]:
    raise command_line.InputError(
      f"`--config` trains {first['name']!r} to a sparsity of {sparsity} in"
      f" round 0, but round 1 prunes it to {second['sparsity']:.6g}. Start from"
      " another method: --config=NAME:dense."
    )


def commands(argv: Sequence[str]) -> list[list[str]]:
  """Turn a command line into one command line of the trainer per round.

  Args:
    argv: arguments without the program's name.

  Returns:
    Arguments of `sparsejax.train`.

  Raises:
    InputError: if an argument is missing or out of range.
  """
  parsed, rest = _parse(argv)
  # Arguments of the method of round 0 do not fit the method of later rounds.
  shared = [arg for arg in rest if not arg.startswith("--config.method.")]
  keep_steps = tuple(sorted({0, parsed.init_step}))
  found = [
    [
      *rest,
      f"--config.keep_steps={keep_steps}",
      f"--workdir={_folder(parsed.workdir, 0)}",
    ]
  ]
  targets = sparsities(parsed.sparsity, parsed.prune_fraction)
  for number, target in enumerate(targets, 1):
    # The first weights of a later round are those that it was rewound to.
    init_step = parsed.init_step if number == 1 else 0
    found.append(
      [
        *shared,
        "--config.method.name=retrain",
        f"--config.method.sparsity={target!r}",
        f"--config.init_from={_folder(parsed.workdir, number - 1)}",
        f"--config.init_mode={parsed.init_mode}",
        f"--config.init_step={init_step}",
        f"--workdir={_folder(parsed.workdir, number)}",
      ]
    )
  return found


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """Returns our own arguments, and those of the trainer."""
  parser = command_line.Parser()
  parser.add_argument("--workdir", type=command_line.path, required=True)
  parser.add_argument("--sparsity", type=float, required=True)
  parser.add_argument("--prune_fraction", type=float, default=0.2)
  parser.add_argument("--init_mode", default="rewind")
  parser.add_argument("--init_step", type=int, default=0)
  parsed, rest = parser.parse_known_args(argv)
  rest = command_line.join_values(rest)
  if parsed.init_mode not in _MODES:
    raise command_line.unknown("`--init_mode`", parsed.init_mode, _MODES)
  return parsed, rest


def sparsities(last: float, prune_fraction: float) -> list[float]:
  """Returns the sparsity of each round after round 0, which is dense.

  Args:
    last: sparsity of the last round, in (0, 1).
    prune_fraction: fraction of the weights that a round prunes, in (0, 1).

  Raises:
    InputError: if an argument is out of range.

  Examples:
    >>> sparsities(0.6, 0.2)
    [0.2, 0.36, 0.488, 0.5904, 0.6]
  """
  for name, value in (("sparsity", last), ("prune_fraction", prune_fraction)):
    if not 0 < value < 1:
      raise command_line.InputError(
        f"`--{name}` must be in (0, 1), got {value}."
      )
  remaining = 1 - prune_fraction
  rounds = math.log1p(-last) / math.log1p(-prune_fraction)
  if rounds > _MOST_ROUNDS:
    raise command_line.InputError(
      f"`--prune_fraction` of {prune_fraction} takes {rounds:.0f} rounds to a"
      f" sparsity of {last}, and at most {_MOST_ROUNDS} are trained. Raise it."
    )
  rounds = math.ceil(rounds - 1e-9)
  # Rounded, because the last bits of a power differ between machines.
  return [*(round(1 - remaining**i, 12) for i in range(1, rounds)), last]


def _folder(workdir: pathlib.Path, number: int) -> pathlib.Path:
  return workdir.resolve() / f"round_{number:02d}"


if __name__ == "__main__":
  sys.exit(main())
