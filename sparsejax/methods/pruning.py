"""Static masks, and methods that prune once or gradually."""

from sparsejax.components import (
  arguments,
  criteria,
  distributions,
  schedules,
  scopes,
  storage as storages,
)
from sparsejax.method import (
  Curve,
  Distribution,
  Initial,
  Method,
  Prune,
  Scope,
  Storage,
)
from sparsejax.methods.compositions import ERK, initial, named


@named
def dense() -> Method:
  """The dense baseline: every weight is always active."""
  return Method(
    initial=initial(scopes.layerwise(distributions.uniform), 0.0),
    storage=storages.zeroed,
  )


@named
def static(
  sparsity: float, *, distribution: Distribution = distributions.erk
) -> Method:
  """Random masks that never change.

  Args:
    sparsity: fraction of zeros in [0, 1).
    distribution: sparsity per layer.
  """
  return Method(
    initial=initial(scopes.layerwise(distribution), sparsity),
    storage=storages.zeroed,
    target_sparsity=sparsity,
  )


@named
def one_shot(
  sparsity: float,
  *,
  at_step: int,
  scope: Scope = scopes.global_scope,
) -> Method:
  """Magnitude pruning at one step: `gmp` with a single update.

  Args:
    sparsity: fraction of zeros in [0, 1).
    at_step: the optimizer step after which it happens; 0 is in `init`, so that
      `apply_masks` prunes a trained network.
    scope: which weights compete.
  """
  arguments.check_steps("at_step", at_step, least=0)
  if at_step == 0:
    arguments.check_sparsity(sparsity)
    return Method(
      initial=Initial(scope, sparsity, criteria.magnitude),
      storage=storages.zeroed,
      target_sparsity=sparsity,
    )
  return gmp(sparsity, end_step=at_step, every_steps=at_step, scope=scope)


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
  storage: Storage = storages.zeroed,
) -> Method:
  """Gradual magnitude pruning.

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
    storage: `sparsejax.zeroed` or `sparsejax.kept`.

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
  return Method(
    initial=Initial(ERK),
    prune=Prune(ramp, scope, criteria.magnitude),
    storage=storage,
    target_sparsity=sparsity,
  )
