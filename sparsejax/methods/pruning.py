"""Static masks, and methods that prune once or gradually."""

from collections.abc import Callable

from jaxtyping import Array

from sparsejax.components import (
  arguments,
  counts,
  criteria,
  distributions,
  schedules,
  scopes,
  storage as storages,
)
from sparsejax.method import (
  Count,
  Criterion,
  Curve,
  Distribution,
  Granularity,
  Initial,
  Input,
  Method,
  Prune,
  PruneAndRegrow,
  Scope,
  Storage,
  single_weights,
)
from sparsejax.methods.compositions import (
  ERK,
  initial,
  named,
  with_granularity,
)


@named
def dense() -> Method:
  """The dense baseline: every weight is always active."""
  return Method(
    initial=initial(scopes.layerwise(distributions.uniform), 0.0),
    storage=storages.zeroed,
  )


@named
def static(
  sparsity: float,
  *,
  distribution: Distribution = distributions.erk,
  granularity: Granularity = single_weights,
) -> Method:
  """Random masks that never change.

  Args:
    sparsity: fraction of zeros in [0, 1).
    distribution: sparsity per layer.
    granularity: what is active as one; sparsities are in its units.
  """
  method = Method(
    initial=initial(scopes.layerwise(distribution), sparsity),
    storage=storages.zeroed,
    target_sparsity=sparsity,
  )
  return with_granularity(method, granularity)


@named
def one_shot(
  sparsity: float | None = None,
  *,
  rate: float | None = None,
  at_step: int,
  initial_sparsity: float = 0.0,
  scope: Scope = scopes.global_scope,
  criterion: Criterion = criteria.magnitude,
  regrow_by: Criterion | None = None,
  round_up: bool = True,
  granularity: Granularity = single_weights,
) -> Method:
  """Pruning at one step, to a sparsity or by a rate.

  A rate counts from the weights that are active at that step, as in the study
  of pruning plasticity: `ceil(rate A)` of A active weights are pruned, jointly
  or in each layer by the scope. With `regrow_by`, every layer regrows as many
  weights as it lost, which start at 0 (neuroregeneration).

  Args:
    sparsity: fraction of zeros in [0, 1), of all weights; or
    rate: fraction of the active weights to prune, in [0, 1).
    at_step: the optimizer step after which it happens; 0 is in `init`, so that
      `apply_masks` prunes a trained network to a sparsity by magnitude or other
      criteria of the weights alone.
    initial_sparsity: first fraction of zeros; above 0 the first masks are
      random (ERK).
    scope: which weights compete.
    criterion: what a weight is worth.
    regrow_by: what is regrown first, for a rate; None regrows nothing.
    round_up: whether `rate A` is rounded up, or down, as GraNet's code does for
      filters, of which there are few.
    granularity: what is pruned and regrown as one; sparsities are in its units.

  References:
    Liu et al., `GraNet <https://arxiv.org/abs/2106.10404>`_, 2021, section 3.
  """
  arguments.check_steps("at_step", at_step, least=0)
  if (sparsity is None) == (rate is None):
    raise ValueError(
      f"Either `sparsity` or `rate` must be given, got {sparsity} and {rate}. A"
      " rate counts from the active weights, a sparsity from all."
    )
  if rate is None and regrow_by is not None:
    raise ValueError(
      "`regrow_by` must be None with a `sparsity`: what is regrown would undo"
      " it. Give a `rate`, and the network returns to the sparsity before."
    )
  if at_step == 0:
    return _prune_now(sparsity, scope, criterion, granularity)
  if rate is not None:
    method = Method(
      initial=initial(ERK, initial_sparsity),
      regrow=_prune_once(
        rate,
        at_step=at_step,
        scope=scope,
        by=criterion,
        regrow_by=regrow_by,
        rounding=counts.ceil if round_up else counts.floor,
      ),
      storage=storages.zeroed,
    )
    return with_granularity(method, granularity)
  assert sparsity is not None  # One of the two is given.
  return gmp(
    sparsity,
    initial_sparsity=initial_sparsity,
    end_step=at_step,
    every_steps=at_step,
    scope=scope,
    criterion=criterion,
    granularity=granularity,
  )


def _prune_now(
  sparsity: float | None,
  scope: Scope,
  criterion: Criterion,
  granularity: Granularity,
) -> Method:
  """Prunes in `init`, where every weight is active."""
  if sparsity is None or set(criterion.reads) - {Input.WEIGHTS, Input.KEY}:
    raise ValueError(
      "`at_step` of 0 needs a `sparsity` and a criterion of the weights alone:"
      " there is no gradient before the first step."
    )
  arguments.check_sparsity(sparsity)
  method = Method(
    initial=Initial(scope, sparsity, criterion),
    storage=storages.zeroed,
    target_sparsity=sparsity,
  )
  return with_granularity(method, granularity)


def _prune_once(
  rate: float,
  *,
  at_step: int,
  scope: Scope,
  by: Criterion,
  regrow_by: Criterion | None,
  rounding: Callable[[Array], Array],
) -> PruneAndRegrow:
  """Prunes a fraction of the active weights at one step, and may regrow it.

  `one_shot` describes the arguments.
  """
  arguments.check_fraction(rate, "rate")
  fraction = schedules.constant(rate)
  return PruneAndRegrow(
    by=regrow_by,
    prune_by=by,
    prune_count=Count(
      lambda context, active: counts.share(
        active, fraction, context.step, rounding
      )
    ),
    when=schedules.Every(at_step, until=at_step),
    scope=scope,
    restart=True,
  )


@named
def gmp(
  sparsity: float,
  *,
  initial_sparsity: float = 0.0,
  begin_step: int = 0,
  end_step: int,
  every_steps: int,
  scope: Scope = scopes.global_scope,
  curve: Curve = schedules.cubic_curve,
  criterion: Criterion = criteria.magnitude,
  storage: Storage = storages.zeroed,
  granularity: Granularity = single_weights,
) -> Method:
  """Gradual pruning, by magnitude unless another criterion is given.

  Zeroed storage is GraNet's baseline: a pruned weight never returns. Kept
  storage is Zhu & Gupta's: every update chooses among all latent weights.

  Args:
    sparsity: final fraction of zeros in [0, 1).
    initial_sparsity: first fraction; above 0 the first masks are random (ERK).
    begin_step: no update at or before this step.
    end_step: no update after this step.
    every_steps: interval of the updates, in optimizer steps.
    scope: which weights compete.
    curve: how the sparsity rises.
    criterion: what a weight is worth.
    storage: `sparsejax.zeroed` or `sparsejax.kept`.
    granularity: what is pruned and regrown as one; sparsities are in its units.

  References:
    Zhu & Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_,
    2017, equation 1; Liu et al., `GraNet <https://arxiv.org/abs/2106.10404>`_,
    2021, appendix C.
  """
  ramp = schedules.ramp(
    initial_sparsity,
    sparsity,
    curve=curve,
    begin_step=begin_step,
    end_step=end_step,
    every_steps=every_steps,
  )
  method = Method(
    initial=Initial(ERK),
    prune=Prune(ramp, scope, criterion),
    storage=storage,
    target_sparsity=sparsity,
  )
  return with_granularity(method, granularity)
