"""How a run ends, and its exit status."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sparsejax import command_line
from sparsejax.training import replicas
from sparsejax.training.train_state import TrainState

DONE, NOT_FINITE, TERMINATED = command_line.DONE, 3, command_line.TERMINATED


class Selected(NamedTuple):
  """The state that the result of a finished run describes.

  Attributes:
    state: the newest state, or that of the best checkpoint.
    step: its completed steps.
    evaluations: losses and metrics of each replica.
  """

  state: TrainState
  step: int
  evaluations: tuple[dict[str, float], ...]

  @property
  def evaluation(self) -> dict[str, float]:
    """The losses and metrics of the only replica."""
    (found,) = self.evaluations
    return found


class Outcome(NamedTuple):
  """How a run ended.

  Attributes:
    status: exit status `DONE`, `NOT_FINITE` or `TERMINATED`.
    message: why it stopped before its last step; otherwise "".
    state: the newest state.
    step: completed steps of `state`.
    selected: the state of the result; `None` unless the run is done.
    resumed_from_step: where this start resumed; `None` for a new run.
    compile_seconds: time spent tracing and compiling.
    train_seconds: time spent in dispatches, without evaluation.
    mask_update_seconds: extra time per mask update, see `reporting.timing`.
    seconds: sums over all starts, as `timing.Clock.row` returns them.
  """

  status: int
  message: str
  state: TrainState
  step: int
  selected: Selected | None
  resumed_from_step: int | None
  compile_seconds: float
  train_seconds: float
  mask_update_seconds: float | None
  seconds: Mapping[str, float]


def of_each(outcome: Outcome) -> list[Outcome]:
  """Returns the outcome of each replica of a run that is done."""
  selected = outcome.selected
  assert selected is not None
  count = len(selected.evaluations)
  return [
    outcome._replace(
      state=last, selected=Selected(state, selected.step, (evaluation,))
    )
    for last, state, evaluation in zip(
      replicas.split_state(outcome.state, count),
      replicas.split_state(selected.state, count),
      selected.evaluations,
      strict=True,
    )
  ]


def not_finite_message(
  bad: int,
  first: int,
  step: int,
  last_saved: int | None,
  seeds: Sequence[int] = (),
) -> str:
  """Say which step was not finite, and where the run can resume.

  Args:
    bad: the first step whose loss or gradient is not finite.
    first: completed steps before its dispatch.
    step: completed steps after its dispatch.
    last_saved: the newest checkpoint.
    seeds: those for which it is not, if the run has several.
  """
  of_seeds = ""
  if seeds:
    several = "seeds" if len(seeds) > 1 else "seed"
    of_seeds = f" with {several} {', '.join(map(str, seeds))}"
  newest = "none" if last_saved is None else f"step {last_saved}"
  return (
    f"The loss or gradient of step {bad} is not finite{of_seeds}; stopped"
    f" after steps {first + 1} to {step}. Last good checkpoint: {newest}. Try a"
    " lower `config.optimizer.learning_rate`"
    + (", or train the other seeds without it." if seeds else ".")
  )
