"""GraNet: gradual pruning with zero-cost neuroregeneration.

`updates/mask_update.py` runs it after a step: `pruning.prune` prunes to the
schedule, then `regrowth.prune_and_regrow` prunes and regrows in each layer.
"""

from sparsejax.components import criteria, schedules, scopes, storage
from sparsejax.method import (
  Criterion,
  Curve,
  Granularity,
  Initial,
  Method,
  Prune,
  Scope,
  single_weights,
)
from sparsejax.methods.compositions import (
  ERK,
  named,
  prune_and_regrow,
  with_granularity,
)


@named
def granet(
  sparsity: float,
  *,
  initial_sparsity: float = 0.0,
  begin_step: int = 0,
  end_step: int,
  every_steps: int,
  total_steps: int,
  regrow_fraction: float = 0.5,
  final_regrow_fraction: float = 0.005,
  scope: Scope = scopes.global_scope,
  curve: Curve = schedules.cubic_curve,
  criterion: Criterion = criteria.magnitude,
  regrow_by: Criterion = criteria.gradient_magnitude,
  restart: bool = False,
  granularity: Granularity = single_weights,
) -> Method:
  """Gradual pruning with zero-cost neuroregeneration.

  Every update prunes all layers jointly to the scheduled sparsity, then prunes
  the smallest weights of each layer and regrows the same number by largest
  gradient. Pruning ends at `end_step`, prune-and-regrow continues to the end,
  as in the paper's section 4.2 and code (its Algorithm 1 ends both). Counts are
  rounded up. A weight that prune-and-regrow drops and regrows in one update
  keeps its value; one that was dropped by the schedule and regrown restarts.

  Args:
    sparsity: final fraction of zeros in [0, 1).
    initial_sparsity: first fraction; above 0 the first masks are random (ERK).
    begin_step: no update at or before this step.
    end_step: the last step at which the sparsity may grow.
    every_steps: interval of the updates, in optimizer steps.
    total_steps: length of the run, in optimizer steps.
    regrow_fraction: share of a layer's active weights that is pruned and
      regrown, at step 0; falls along a cosine. So it is in the code; the paper
      defines it as a share of all connections.
    final_regrow_fraction: the share at `total_steps`.
    scope: which weights compete when the network is pruned.
    curve: how the sparsity rises.
    criterion: what a weight is worth when the network is pruned to the
      schedule; prune-and-regrow drops the smallest ones in any case.
    regrow_by: what is regrown first (the paper: largest gradients).
    restart: whether a weight that is pruned and regrown in one update restarts
      at 0, as the paper says of pruned weights, or keeps its value and
      optimizer state, as in its code.
    granularity: what is pruned and regrown as one; sparsities are in its units.

  References:
    Liu et al., `Sparse training via boosting pruning plasticity with
    neuroregeneration <https://arxiv.org/abs/2106.10404>`_, 2021, Algorithm 1.
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
    regrow=prune_and_regrow(
      regrow_by,
      schedules.cosine(regrow_fraction, total_steps, final_regrow_fraction),
      schedules.Every(every_steps, begin_step=begin_step, until=total_steps),
      restart=restart,
    ),
    storage=storage.zeroed,
    target_sparsity=sparsity,
  )
  return with_granularity(method, granularity)
