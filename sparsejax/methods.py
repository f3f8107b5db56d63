"""The methods, each a composition of slots, to be checked beside its paper."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped

from sparsejax import (
  checks,
  criteria,
  distributions,
  masks,
  memories,
  schedules,
  scopes,
)
from sparsejax import storage as storages
from sparsejax.base import (
  Criterion,
  Distribution,
  Fraction,
  MaskUpdate,
  Memory,
  Regrow,
  Scope,
  SparsitySchedule,
  Split,
  Storage,
)


def whole(param: Shaped[Array, "*dims"]) -> Sequence[Bool[Array, "*dims"]]:
  """One part: all weights of the layer compete."""
  return (jnp.ones(param.shape, bool),)


def signs(param: Shaped[Array, "*dims"]) -> Sequence[Bool[Array, "*dims"]]:
  """Two parts: weights at or above 0, and below."""
  return (param >= 0, param < 0)


def exchange(
  by: Criterion,
  fraction: Fraction,
  *,
  every_steps: int,
  until: int,
  begin_step: int = 0,
  at_zero: bool = False,
  count: Callable = masks.ceil,
  split: Split = whole,
  restart: bool = False,
) -> Regrow:
  """Magnitude pruning and regrowth of the same number, inside each layer.

  Args:
    by: what is regrown first.
    fraction: share of the layer's active weights, as a function of the step.
    every_steps: interval, in optimizer steps.
    until: the last step at which it may happen.
    begin_step: it happens after this step only.
    at_zero: also at step 0.
    count: rounding of the share.
    split: parts of the layer that lose their share separately.
    restart: whether weights that were pruned and regrown at once start at 0.
  """
  return Regrow(
    by=by,
    fraction=fraction,
    count=count,
    when=schedules.every(
      every_steps, begin_step=begin_step, until=until, at_zero=at_zero
    ),
    prune_by=criteria.magnitude,
    split=split,
    restart=restart,
  )


def track_ever_active(method: MaskUpdate) -> MaskUpdate:
  """Adds the masks that the ITOP rate is counted from, a byte per weight."""
  return remember(method, ever_active=memories.ever_active)


def remember(method: MaskUpdate, **memory: Memory) -> MaskUpdate:
  """Adds memories to a method, by name."""
  return dataclasses.replace(method, memory={**method.memory, **memory})


def dense() -> MaskUpdate:
  """No weight is ever off: the baseline."""
  return _composed(schedules.held(0.0), scopes.layerwise(distributions.uniform))


def static(
  sparsity: float, *, distribution: Distribution = distributions.erk
) -> MaskUpdate:
  """Random masks that never change.

  Args:
    sparsity: fraction of zeros in [0, 1).
    distribution: sparsity per layer.
  """
  return _composed(
    schedules.held(sparsity),
    scopes.layerwise(distribution),
    target=sparsity,
  )


def one_shot(
  sparsity: float,
  *,
  at_step: int,
  scope: Scope = scopes.global_scope,
) -> MaskUpdate:
  """Magnitude pruning at one step; the masks stay from then on.

  Args:
    sparsity: fraction of zeros in [0, 1).
    at_step: the optimizer step after which it happens, at least 1.
    scope: who competes with whom.
  """
  return _composed(
    schedules.jump(sparsity, at_step=at_step), scope, target=sparsity
  )


def gmp(
  sparsity: float,
  *,
  initial_sparsity: float = 0.0,
  begin_step: int = 0,
  end_step: int,
  every_steps: int,
  scope: Scope = scopes.global_scope,
  storage: Storage = storages.zeroed,
) -> MaskUpdate:
  """Gradual magnitude pruning.

  Zeroed storage is GraNet's baseline: a pruned weight never returns. Kept
  storage is Zhu & Gupta's: masks are drawn anew from all latent weights.

  Args:
    sparsity: final fraction of zeros in [0, 1).
    initial_sparsity: first fraction; above 0 the first masks are random (ERK).
    begin_step: no update at or before this step.
    end_step: no update after this step.
    every_steps: interval of the updates, in optimizer steps.
    scope: who competes with whom.
    storage: `sparsejax.zeroed` or `sparsejax.kept`.

  References:
    Zhu & Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_,
    2017, equation 1; Liu et al., `GraNet <https://arxiv.org/abs/2106.10404>`_,
    2021, appendix C.
  """
  return _composed(
    schedules.cubic(
      initial_sparsity,
      sparsity,
      begin_step=begin_step,
      end_step=end_step,
      every_steps=every_steps,
    ),
    scope,
    storage=storage,
    target=sparsity,
  )


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
) -> MaskUpdate:
  """Gradual pruning with zero-cost neuroregeneration.

  Every update prunes all layers together to the sparsity of the schedule, then
  exchanges the smallest weights of each layer for those of the largest
  gradient. Pruning ends at `end_step`, the exchange goes on to the end, as in
  the paper's section 4.2 and code (its Algorithm 1 ends both).

  Args:
    sparsity: final fraction of zeros in [0, 1).
    initial_sparsity: first fraction; above 0 the first masks are random (ERK).
    begin_step: no update at or before this step.
    end_step: the last step at which the sparsity may grow.
    every_steps: interval of the updates, in optimizer steps.
    total_steps: length of the run, in optimizer steps.
    regrow_fraction: share of a layer's active weights that is exchanged, at
      step 0; falls along a cosine.
    final_regrow_fraction: the share at `total_steps`.
    scope: who competes with whom when pruning.

  References:
    Liu et al., `Sparse training via boosting pruning plasticity with
    neuroregeneration <https://arxiv.org/abs/2106.10404>`_, 2021, Algorithm 1.
  """
  return _composed(
    schedules.cubic(
      initial_sparsity,
      sparsity,
      begin_step=begin_step,
      end_step=end_step,
      every_steps=every_steps,
    ),
    scope,
    regrow=exchange(
      criteria.gradient,
      schedules.cosine(regrow_fraction, total_steps, final_regrow_fraction),
      every_steps=every_steps,
      begin_step=begin_step,
      until=total_steps,
    ),
    target=sparsity,
  )


def rigl(
  sparsity: float,
  *,
  end_step: int,
  every_steps: int = 100,
  regrow_fraction: float = 0.3,
  distribution: Distribution = distributions.erk,
  skip_step_on_update: bool = True,
) -> MaskUpdate:
  """Exchanges small weights for those of large gradients, until `end_step`.

  Args:
    sparsity: fraction of zeros in [0, 1).
    end_step: no update at or after this step (the paper: 75 % of the run).
    every_steps: interval of the updates, in optimizer steps.
    regrow_fraction: share of a layer's active weights at step 0; falls along a
      cosine to 0 at `end_step`.
    distribution: sparsity per layer.
    skip_step_on_update: the paper's own order: an update takes the place of an
      optimizer step, and the first one is at step 0.

  References:
    Evci et al., `Rigging the lottery <https://arxiv.org/abs/1911.11134>`_,
    2020, Algorithm 1.
  """
  return _composed(
    schedules.held(sparsity),
    scopes.layerwise(distribution),
    regrow=exchange(
      criteria.gradient,
      schedules.cosine(regrow_fraction, end_step),
      every_steps=every_steps,
      until=end_step - 1,
      at_zero=skip_step_on_update,
      count=masks.floor,
    ),
    spend_step=skip_step_on_update,
    target=sparsity,
  )


def rigl_itop(
  sparsity: float,
  *,
  every_steps: int,
  total_steps: int,
  regrow_fraction: float = 0.5,
  final_regrow_fraction: float = 0.005,
  distribution: Distribution = distributions.erk,
) -> MaskUpdate:
  """RigL with long intervals, to the end of the run: in-time parameters.

  Args:
    sparsity: fraction of zeros in [0, 1).
    every_steps: interval of the updates, in optimizer steps.
    total_steps: length of the run, in optimizer steps.
    regrow_fraction: share of a layer's active weights at step 0; falls along a
      cosine.
    final_regrow_fraction: the share at `total_steps`.
    distribution: sparsity per layer.

  References:
    Liu et al., `Do we actually need dense over-parameterization?
    <https://arxiv.org/abs/2102.02887>`_, 2021.
  """
  return track_ever_active(
    _composed(
      schedules.held(sparsity),
      scopes.layerwise(distribution),
      regrow=exchange(
        criteria.gradient,
        schedules.cosine(regrow_fraction, total_steps, final_regrow_fraction),
        every_steps=every_steps,
        until=total_steps,
      ),
      target=sparsity,
    )
  )


def sparse_evolution(
  *,
  sparsity: float | None = None,
  epsilon: float | None = None,
  every_steps: int,
  total_steps: int,
  regrow_fraction: float = 0.3,
  by_sign: bool = True,
  distribution: Distribution = distributions.er,
) -> MaskUpdate:
  """SET: exchanges the weights closest to zero for random ones.

  There is no exchange at `total_steps`: what it regrows could not train.
  Weights that are removed and drawn again start at 0.

  Args:
    sparsity: fraction of zeros in [0, 1), over `distribution`; or
    epsilon: connections per unit, the paper's way to set the density of a
      layer; then `distribution` is not used.
    every_steps: interval of the updates (the paper: an epoch).
    total_steps: length of the run, in optimizer steps.
    regrow_fraction: share of the active weights, zeta in the paper.
    by_sign: positive and negative weights lose their share separately, as in
      the paper; else by magnitude, as in RigL, ITOP and GraNet.
    distribution: sparsity per layer.

  Raises:
    ValueError: unless exactly one of `sparsity` and `epsilon` is given.

  References:
    Mocanu et al., `Scalable training of artificial neural networks with
    adaptive sparse connectivity <https://arxiv.org/abs/1707.04780>`_, 2018.
  """
  if (sparsity is None) == (epsilon is None):
    raise ValueError(
      "`sparsity` or `epsilon` must be given, and not both, got"
      f" sparsity={sparsity}, epsilon={epsilon}."
    )
  if epsilon is not None:
    if epsilon <= 0:
      raise ValueError(f"`epsilon` must be above 0, got {epsilon}.")
    distribution = functools.partial(
      distributions.er_epsilon, epsilon=float(epsilon)
    )
  # With epsilon the distribution decides alone; any sparsity above 0 draws.
  asked = 0.5 if sparsity is None else sparsity
  checks.check_steps("total_steps", total_steps)
  return _composed(
    schedules.held(asked),
    scopes.layerwise(distribution),
    regrow=exchange(
      criteria.random,
      schedules.constant(regrow_fraction),
      every_steps=every_steps,
      until=total_steps - 1,
      split=signs if by_sign else whole,
      restart=True,
    ),
    target=sparsity,
  )


METHODS = {
  "dense": dense,
  "static": static,
  "one_shot": one_shot,
  "gmp": gmp,
  "granet": granet,
  "rigl": rigl,
  "rigl_itop": rigl_itop,
  "set": sparse_evolution,
}
"""The names that a config knows."""

DISTRIBUTIONS = {
  "uniform": distributions.uniform,
  "er": distributions.er,
  "erk": distributions.erk,
}
SCOPES = {
  "global": scopes.global_scope,
  **{name: scopes.layerwise(d) for name, d in DISTRIBUTIONS.items()},
}
STORAGES = {"zeroed": storages.zeroed, "kept": storages.kept}


def _composed(
  sparsity: SparsitySchedule,
  scope: Scope,
  *,
  regrow: Regrow | None = None,
  storage: Storage = storages.zeroed,
  target: float | None = None,
  spend_step: bool = False,
) -> MaskUpdate:
  """What all of these share: magnitudes, and ERK for random first masks."""
  first = scope
  if len(sparsity.sparsities) > 1:
    first = scopes.layerwise(distributions.erk)
  return MaskUpdate(
    sparsity=sparsity,
    when=sparsity.when,
    initial=first,
    scope=scope,
    criterion=criteria.magnitude,
    regrow=regrow,
    storage=storage,
    spend_step=spend_step,
    target_sparsity=target,
  )
