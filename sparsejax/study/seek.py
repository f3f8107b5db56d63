r"""Find the value of a config key with which a run ends at a sparsity.

  python -m sparsejax.study.seek --config=digits:str --sparsity=0.9 \
      --config.method.threshold_weight_decay=0.001 --workdir=DIR

  --sparsity=S         sparsity at the end of the run, in (0, 1) (required)
  --key=KEY            the key to vary (method.threshold_weight_decay); a
                       higher value gives a higher sparsity
  --tolerance=T        largest distance from S, in (0, 1) (0.005)
  --runs=N             train at most so many runs (16)
  --short_epochs=E     begin with runs of E epochs, at a value times the length
                       of the run over E; then search nearby at full length
  --config.KEY=VALUE   as for sparsejax.train; that of KEY is where it begins

STR has no sparsity argument: the weight decay of its thresholds leads to one.
The value is doubled or halved until the sparsity lies between two runs, then
bisected on a logarithmic scale. Runs are kept in DIR and not repeated, so the
same command resumes. A decay acts once per step, so a run of a tenth of the
length needs ten times the decay: that is what short runs assume, and the runs
of full length check it.

Exit status: as for sparsejax.train; 1 if no run ends within the tolerance.
"""

import argparse
import functools
import math
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from sparsejax import command_line, train
from sparsejax.plots import records

NOT_FOUND = 1
KEY = "method.threshold_weight_decay"
_NEARBY = 1.1  # How far around the value of short runs the search begins.
_DIGITS = 6


class Trial(NamedTuple):
  """One run of a search."""

  value: float
  sparsity: float


class Search(NamedTuple):
  """What a search looks for.

  Attributes:
    target: sparsity, in (0, 1).
    tolerance: largest distance from it.
    most_runs: number of runs after which it gives up.
  """

  target: float
  tolerance: float
  most_runs: int

  def found(self, trial: Trial) -> bool:
    """Says whether a run ended within the tolerance."""
    return abs(trial.sparsity - self.target) <= self.tolerance

  def closest(self, trials: Sequence[Trial]) -> Trial:
    """Returns the run that ended closest to the target, the first of equals."""
    return min(trials, key=lambda trial: abs(trial.sparsity - self.target))


def trials(
  search: Search,
  sparsity_of: Callable[[float], float],
  first: float,
  *,
  factor: float = 2.0,
) -> Iterator[Trial]:
  """Yields the runs of a search, until one is within the tolerance.

  Args:
    search: what to look for.
    sparsity_of: value -> sparsity, which does not fall with the value.
    first: value to begin with, above 0.
    factor: between values while all are on one side of the target, above 1.

  Examples:
    >>> search = Search(target=0.9, tolerance=0.01, most_runs=9)
    >>> [t.value for t in trials(search, lambda v: v / (1 + v), 4.0)]
    [4.0, 8.0, 16.0, 11.3137, 9.51365]
  """
  low, high = 0.0, math.inf
  value = first
  for _ in range(search.most_runs):
    trial = Trial(value, sparsity_of(value))
    yield trial
    if search.found(trial):
      return
    if trial.sparsity < search.target:
      low = value
    else:
      high = value
    following = _between(low, high, factor)
    if following in (low, high):
      return  # Nothing is left between the two.
    value = following


def _between(low: float, high: float, factor: float) -> float:
  """Returns the next value, of few digits, so that a command can repeat it."""
  if math.isinf(high):
    value = low * factor
  elif not low:
    value = high / factor
  else:
    value = math.sqrt(low * high)
  return _rounded(value)


def _rounded(value: float) -> float:
  return float(f"{value:.{_DIGITS}g}")


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line.

  Args:
    argv: arguments without the program's name; `sys.argv` by default.

  Returns:
    The exit status.
  """
  return command_line.run(
    _seek,
    argv,
    name="sparsejax.study.seek",
    doc=__doc__,
    hint=command_line.RESUME,
  )


class Failed(Exception):
  """A run ended with a status that ends the search."""

  def __init__(self, status: int):
    super().__init__(status)
    self.status = status


def _seek(argv: list[str]) -> int:
  from sparsejax.study import tables

  parsed, rest = _parse(argv)
  search = Search(parsed.sparsity, parsed.tolerance, parsed.runs)
  workdir = parsed.workdir.resolve()

  def folder(value: float, epochs: float | None) -> pathlib.Path:
    return workdir / ("" if epochs is None else "short") / f"{value:g}"

  runs = Runs(folder, rest, parsed.key)
  try:
    tried = run(search, runs, short_epochs=parsed.short_epochs)
  except Failed as failed:
    return failed.status
  rows = [["value", "sparsity"]]
  rows += [[f"{t.value:g}", f"{t.sparsity:.2%}"] for t in tried]
  tables.print_table(rows)
  best = search.closest(tried)
  argument = f"--config.{parsed.key}={best.value!r}"
  if search.found(best):
    print(f"{argument} ends at {best.sparsity:.2%}: {folder(best.value, None)}")
    return command_line.DONE
  print(
    f"No run ended within {search.tolerance:.2%} of {search.target:.2%}. The"
    f" closest is {argument}, at {best.sparsity:.2%}. Raise --runs or"
    " --tolerance."
  )
  return NOT_FOUND


class Runs(NamedTuple):
  """The runs of a search.

  Attributes:
    folder: (value, epochs of a short run or None) -> the run's workdir.
    argv: arguments of the trainer.
    key: of the config, whose value differs between them.
  """

  folder: Callable[[float, float | None], pathlib.Path]
  argv: Sequence[str]
  key: str = KEY

  def arguments(self, value: float, epochs: float | None = None) -> list[str]:
    """Returns the arguments of the trainer for a value."""
    found = [*self.argv, f"--config.{self.key}={value!r}"]
    if epochs is not None:
      found.append(f"--config.epochs={epochs!r}")
    return found

  def sparsity(self, value: float, epochs: float | None = None) -> float:
    """Trains with a value, unless that is done; returns the final sparsity."""
    folder = self.folder(value, epochs)
    if records.read_summary(folder) is None:
      argv = [*self.arguments(value, epochs), f"--workdir={folder}"]
      for status in train.each([(f"\n{self.key} = {value:g}", argv)]):
        if status:
          raise Failed(status)
    summary = records.read_summary(folder)
    assert summary is not None  # The run is done.
    return summary["sparsity"]


def run(
  search: Search, runs: Runs, *, short_epochs: float | None = None
) -> list[Trial]:
  """Search for a value by training.

  Args:
    search: what to look for.
    runs: how to train.
    short_epochs: length of shorter runs to begin with; None for none.

  Returns:
    The runs of full length, in order.

  Raises:
    InputError: if an argument is out of range.
    Failed: if a run ends with another status than 0.
  """
  config = _config(runs.argv)
  first, factor = _number(config, runs.key), 2.0
  if short_epochs is not None:
    first = _by_short_runs(search, runs, config["epochs"], short_epochs, first)
    factor = _NEARBY
  return list(trials(search, runs.sparsity, first, factor=factor))


def _by_short_runs(
  search: Search, runs: Runs, epochs: float, short: float, first: float
) -> float:
  """Returns the value for a whole run that short ones lead to."""
  if not 0 < short < epochs:
    raise command_line.InputError(
      f"`--short_epochs` must be in (0, {epochs}), the epochs of the config,"
      f" got {short}."
    )
  ratio = epochs / short
  sparsity = functools.partial(runs.sparsity, epochs=short)
  tried = list(trials(search, sparsity, _rounded(first * ratio)))
  return _rounded(search.closest(tried).value / ratio)


def _config(argv: Sequence[str]) -> dict[str, Any]:
  from sparsejax.training.config import command, keys

  config = keys.resolved(command.parse(argv).config)
  keys.check_one_seed(config, "the search follows the sparsity of one run")
  return config


def _number(config: dict[str, Any], key: str) -> float:
  """Returns the value that the search begins with.

  Raises:
    InputError: if the key is unknown, or is no number above 0.
  """
  value: Any = config
  for part in key.split("."):
    if not isinstance(value, dict) or part not in value:
      known = list(value) if isinstance(value, dict) else []
      raise command_line.unknown("`--key`", part, known)
    value = value[part]
  if (
    isinstance(value, bool) or not isinstance(value, int | float) or value <= 0
  ):
    raise command_line.InputError(
      f"`--key` {key} must be a number above 0 to begin with, got {value!r}."
      f" Give one: --config.{key}=VALUE."
    )
  return float(value)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """Returns our own arguments, and those of the trainer."""
  parser = command_line.Parser()
  parser.add_argument("--workdir", type=command_line.path, required=True)
  parser.add_argument("--sparsity", type=float, required=True)
  parser.add_argument("--key", default=KEY)
  parser.add_argument("--tolerance", type=float, default=0.005)
  parser.add_argument("--runs", type=int, default=16)
  parser.add_argument("--short_epochs", type=float)
  parsed, rest = parser.parse_known_args(argv)
  for name in ("sparsity", "tolerance"):
    if not 0 < getattr(parsed, name) < 1:
      raise command_line.InputError(
        f"`--{name}` must be in (0, 1), got {getattr(parsed, name)}."
      )
  if parsed.runs < 1:
    raise command_line.InputError(
      f"`--runs` must be at least 1, got {parsed.runs}."
    )
  return parsed, command_line.join_values(rest)


if __name__ == "__main__":
  sys.exit(main())
