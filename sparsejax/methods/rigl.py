"""RigL and ITOP: prune-and-regrow by gradient, or at random."""

from sparsejax.components import (
  accumulators,
  arguments,
  counts,
  criteria,
  distributions,
  schedules,
  scopes,
  storage as storages,
)
from sparsejax.method import (
  Criterion,
  Curve,
  Distribution,
  Granularity,
  Method,
  single_weights,
)
from sparsejax.methods.compositions import (
  constant_or_rising,
  initial,
  named,
  prune_and_regrow,
  variant,
  with_granularity,
)
from sparsejax.updates import orders


@named
def rigl(
  sparsity: float,
  *,
  end_step: int,
  every_steps: int = 100,
  regrow_fraction: float = 0.3,
  distribution: Distribution = distributions.erk,
  skip_step_on_update: bool = True,
  curve: Curve | None = None,
  regrow_by: Criterion = criteria.gradient_magnitude,
  granularity: Granularity = single_weights,
) -> Method:
  """Prunes small weights and regrows those with large gradients.

  Args:
    sparsity: fraction of zeros in [0, 1).
    end_step: no update at or after this step (the paper: 75 % of the run).
    every_steps: interval of the updates, in optimizer steps.
    regrow_fraction: share of a layer's active weights at step 0; falls along a
      cosine to 0 at `end_step`.
    distribution: sparsity per layer.
    skip_step_on_update: the paper's own order: an update takes the place of an
      optimizer step, and the first one is at step 0.
    curve: if given, the network starts dense and its sparsity rises along it
      until `end_step`, at the same interval (OptG, Table 4).
    regrow_by: what is regrown first.
    granularity: what is pruned and regrown as one; sparsities are in its units.

  References:
    Evci et al., `Rigging the lottery <https://arxiv.org/abs/1911.11134>`_,
    2020, Algorithm 1.
  """
  arguments.check_steps("end_step", end_step)
  order = orders.step_then_update
  if skip_step_on_update:
    order = orders.update_instead_of_step
  method = Method(
    **constant_or_rising(
      scopes.layerwise(distribution),
      sparsity,
      curve,
      every_steps=every_steps,
      end_step=end_step - 1,
    ),
    regrow=prune_and_regrow(
      regrow_by,
      schedules.cosine(regrow_fraction, end_step),
      schedules.Every(
        every_steps, until=end_step - 1, at_zero=skip_step_on_update
      ),
      rounding=counts.floor,
    ),
    storage=storages.zeroed,
    order=order,
  )
  return with_granularity(method, granularity)


def itop(
  sparsity: float,
  *,
  every_steps: int,
  total_steps: int,
  regrow_fraction: float = 0.5,
  final_regrow_fraction: float = 0.005,
  distribution: Distribution = distributions.erk,
  regrow_by: Criterion,
  granularity: Granularity = single_weights,
) -> Method:
  """In-time over-parameterization: long intervals, to the end of the run.

  Args:
    sparsity: fraction of zeros in [0, 1).
    every_steps: interval of the updates, in optimizer steps.
    total_steps: length of the run, in optimizer steps.
    regrow_fraction: share of a layer's active weights at step 0; falls along a
      cosine.
    final_regrow_fraction: the share at `total_steps`.
    distribution: sparsity per layer.
    regrow_by: what is regrown first.
    granularity: what is pruned and regrown as one; sparsities are in its units.

  References:
    Liu et al., `Do we actually need dense over-parameterization?
    <https://arxiv.org/abs/2102.02887>`_, 2021.
  """
  method = Method(
    initial=initial(scopes.layerwise(distribution), sparsity),
    regrow=prune_and_regrow(
      regrow_by,
      schedules.cosine(regrow_fraction, total_steps, final_regrow_fraction),
      schedules.Every(every_steps, until=total_steps),
    ),
    storage=storages.zeroed,
    accumulators=(accumulators.ever_active,),
    target_sparsity=sparsity,
  )
  return with_granularity(method, granularity)


rigl_itop = variant(
  itop,
  "rigl_itop",
  """RigL-ITOP: `itop` that regrows by gradient magnitude.

  Takes the arguments of `itop`; `regrow_by` is `criteria.gradient_magnitude`.
  """,
  defaults={"regrow_by": criteria.gradient_magnitude},
)

set_itop = variant(
  itop,
  "set_itop",
  """SET-ITOP: `itop` that regrows at random.

  Takes the arguments of `itop`; `regrow_by` is `criteria.random`.
  """,
  defaults={"regrow_by": criteria.random},
)
