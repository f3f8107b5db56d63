"""The protocol of a grid: which branches there are, and what each does.

A branch starts from the state of a run at one step, is pruned once, and trains
on. The section `plasticity` of a config holds the arguments of `granet`.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sparsejax import command_line, methods
from sparsejax.components import criteria, scopes
from sparsejax.method import Criterion, Scope
from sparsejax.training.config import schema

PLASTICITY, FINAL_GAP = MEASURES = ("plasticity", "final_gap")


class Protocol(NamedTuple):
  """What a grid measures; `granet` describes the fields.

  Attributes:
    prune_steps: the steps at which a run is pruned.
  """

  sparsities: tuple[float, ...]
  rates: tuple[float, ...]
  prune_steps: tuple[int, ...]
  every_steps: int
  continue_steps: int
  total_steps: int
  measures: tuple[str, ...]
  regrow: tuple[bool, ...]
  scope: Scope
  criterion: Criterion
  regrow_by: Criterion
  round_up: bool
  gradient_batches: int
  reset_optimizer: bool


class Branch(NamedTuple):
  """One branch of a grid; what identifies its record.

  Attributes:
    sparsity: of the run, in [0, 1).
    step: the step after which the run is pruned.
    rate: fraction of the active weights that is pruned.
    regrow: whether as many are regrown.
    measure: one of `MEASURES`.
  """

  sparsity: float
  step: int
  rate: float
  regrow: bool
  measure: str


def granet(
  *,
  sparsities: tuple[float, ...] = (0.0, 0.5, 0.9, 0.98),
  rates: tuple[float, ...] = (0.2, 0.5, 0.9, 0.98),
  every_steps: int,
  continue_steps: int,
  measures: tuple[str, ...] = MEASURES,
  regrow: tuple[bool, ...] = (False, True),
  scope: Scope = scopes.global_scope,
  criterion: Criterion = criteria.magnitude,
  regrow_by: Criterion = criteria.gradient_magnitude,
  round_up: bool = True,
  gradient_batches: int = 10,
  reset_optimizer: bool = True,
  total_steps: int,
) -> Protocol:
  """The protocol of GraNet's section 3 and appendix A.

  Args:
    sparsities: of the runs that are pruned, each in [0, 1); their masks are
      random and never change.
    rates: fractions of the active weights to prune, each in [0, 1). At 0
      nothing is pruned, for comparison.
    every_steps: interval of the steps at which a run is pruned, up to the last
      one before its end (the paper: not said; ours: 10 of 160 epochs).
    continue_steps: how long a branch trains on at the learning rate of the
      moment, for the plasticity (the paper: 30 of 160 epochs).
    measures: what to measure: "plasticity", "final_gap" or both.
    regrow: False for branches without regrowth, True for those with it.
    scope: which weights compete when they are pruned.
    criterion: what a weight is worth.
    regrow_by: what is regrown first.
    round_up: whether the number of weights to prune is rounded up, or down, as
      that of filters.
    gradient_batches: number of training batches whose mean gradient, at the
      weights before pruning, criteria read.
    reset_optimizer: whether a branch starts with a new optimizer, as in the
      paper's code, or with the momentum of the run.
    total_steps: steps of the run.

  Returns:
    The protocol.

  Raises:
    ValueError: if an argument is out of range.
  """
  for name, values in (("sparsities", sparsities), ("rates", rates)):
    _check_distinct(name, values)
    for value in values:
      if not 0 <= value < 1:
        raise ValueError(
          f"`{name}` must hold fractions in [0, 1), got {value}."
        )
  _check_distinct("measures", measures)
  _check_distinct("regrow", regrow)
  for measure in measures:
    if measure not in MEASURES:
      raise command_line.unknown(
        "`config.plasticity.measures`", measure, MEASURES
      )
  for name, value in (
    ("every_steps", every_steps),
    ("continue_steps", continue_steps),
    ("gradient_batches", gradient_batches),
  ):
    if value < 1:
      raise ValueError(f"`{name}` must be at least 1, got {value}.")
  if every_steps >= total_steps:
    raise ValueError(
      f"`every_steps` must be below {total_steps}, the steps of the run, got"
      f" {every_steps}: there is no step to prune at."
    )
  return Protocol(
    sparsities=tuple(sparsities),
    rates=tuple(rates),
    prune_steps=tuple(range(every_steps, total_steps, every_steps)),
    every_steps=every_steps,
    continue_steps=continue_steps,
    total_steps=total_steps,
    measures=tuple(measures),
    regrow=tuple(regrow),
    scope=scope,
    criterion=criterion,
    regrow_by=regrow_by,
    round_up=round_up,
    gradient_batches=gradient_batches,
    reset_optimizer=reset_optimizer,
  )


KIND = schema.Kind(
  "plasticity",
  {"granet": granet},
  {
    "criterion": schema.Choice(methods.CRITERIA, "magnitude"),
    "scope": schema.Choice(methods.SCOPES, "global"),
    "regrow_by": schema.Choice(methods.REGROW_BY, "gradient"),
  },
)
"""The section `plasticity` of a config."""


def section(**given: Any) -> dict[str, Any]:
  """Write the section of a config, with the defaults of `granet`.

  Args:
    **given: values that differ from the defaults.

  Returns:
    The section, for a `ConfigDict`.
  """
  return schema.section(KIND, "granet", given)


def from_section(
  values: Mapping[str, Any], *, total_steps: int, steps_per_epoch: int
) -> Protocol:
  """Returns the protocol of a config.

  Raises:
    InputError: if the section does not fit.
  """
  provided = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
  return schema.call(KIND, "config.plasticity", values, provided)


def branches(protocol: Protocol, sparsity: float) -> Iterator[Branch]:
  """Yields the branches of one run, in the order in which they are trained."""
  for step, rate, regrow, measure in itertools.product(
    protocol.prune_steps, protocol.rates, protocol.regrow, protocol.measures
  ):
    yield Branch(sparsity, step, rate, regrow, measure)


def last_step(protocol: Protocol, branch: Branch) -> int:
  """Returns the step at which a branch ends."""
  if branch.measure == FINAL_GAP:
    return protocol.total_steps
  return branch.step + protocol.continue_steps


def _check_distinct(name: str, values: tuple[Any, ...]) -> None:
  if not values or len(set(values)) < len(values):
    raise ValueError(
      f"`{name}` must hold at least one value and none twice, got {values}."
    )
