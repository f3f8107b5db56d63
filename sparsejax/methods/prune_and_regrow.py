"""Methods that exchange weights at a sparsity that is held, or rises."""

import dataclasses
import functools

from sparsejax.components import (
  arguments,
  criteria,
  distributions,
  schedules,
  scopes,
)
from sparsejax.components import connectivity as rules
from sparsejax.method import (
  Criterion,
  Curve,
  Distribution,
  Method,
  Order,
  SparsitySchedule,
  whole,
)
from sparsejax.methods.compositions import (
  composed,
  connected,
  exchange,
  signs,
  track_ever_active,
)
from sparsejax.selection import search


def rigl(
  sparsity: float,
  *,
  end_step: int,
  every_steps: int = 100,
  regrow_fraction: float = 0.3,
  distribution: Distribution = distributions.erk,
  skip_step_on_update: bool = True,
  curve: Curve | None = None,
  regrow_by: Criterion = criteria.gradient,
) -> Method:
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
    curve: where given, the network starts dense and its sparsity rises along
      it until `end_step`, at the same interval (OptG, Table 4).
    regrow_by: what is regrown first.

  References:
    Evci et al., `Rigging the lottery <https://arxiv.org/abs/1911.11134>`_,
    2020, Algorithm 1.
  """
  return composed(
    _held_or_rising(sparsity, curve, every_steps, end_step - 1),
    scopes.layerwise(distribution),
    regrow=exchange(
      regrow_by,
      schedules.cosine(regrow_fraction, end_step),
      every_steps=every_steps,
      until=end_step - 1,
      at_zero=skip_step_on_update,
      count=search.floor,
    ),
    order=Order.INSTEAD_OF_STEP if skip_step_on_update else Order.STEP_FIRST,
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
  regrow_by: Criterion = criteria.gradient,
) -> Method:
  """RigL with long intervals, to the end of the run: in-time parameters.

  Args:
    sparsity: fraction of zeros in [0, 1).
    every_steps: interval of the updates, in optimizer steps.
    total_steps: length of the run, in optimizer steps.
    regrow_fraction: share of a layer's active weights at step 0; falls along a
      cosine.
    final_regrow_fraction: the share at `total_steps`.
    distribution: sparsity per layer.
    regrow_by: what is regrown first.

  References:
    Liu et al., `Do we actually need dense over-parameterization?
    <https://arxiv.org/abs/2102.02887>`_, 2021.
  """
  method = composed(
    schedules.held(sparsity),
    scopes.layerwise(distribution),
    regrow=exchange(
      regrow_by,
      schedules.cosine(regrow_fraction, total_steps, final_regrow_fraction),
      every_steps=every_steps,
      until=total_steps,
    ),
    target=sparsity,
  )
  return track_ever_active(method)


def set_itop(
  sparsity: float,
  *,
  every_steps: int,
  total_steps: int,
  regrow_fraction: float = 0.5,
  final_regrow_fraction: float = 0.005,
  distribution: Distribution = distributions.erk,
  regrow_by: Criterion = criteria.random,
) -> Method:
  """RigL-ITOP with random regrowth.

  Args:
    sparsity: fraction of zeros in [0, 1).
    every_steps: interval of the updates, in optimizer steps.
    total_steps: length of the run, in optimizer steps.
    regrow_fraction: share of a layer's active weights at step 0; falls along a
      cosine.
    final_regrow_fraction: the share at `total_steps`.
    distribution: sparsity per layer.
    regrow_by: what is regrown first.

  References:
    Liu et al., `Do we actually need dense over-parameterization?
    <https://arxiv.org/abs/2102.02887>`_, 2021.
  """
  return rigl_itop(
    sparsity,
    every_steps=every_steps,
    total_steps=total_steps,
    regrow_fraction=regrow_fraction,
    final_regrow_fraction=final_regrow_fraction,
    distribution=distribution,
    regrow_by=regrow_by,
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
  curve: Curve | None = None,
  connectivity: float | None = None,
  regrow_by: Criterion = criteria.random,
  masks_first: bool = False,
  restart_statistics: bool = False,
) -> Method:
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
    curve: where given, the network starts dense and its sparsity rises along
      it to the end, at the same interval (OptG, Table 4); needs `sparsity`.
    connectivity: where given, a layer does not regain what it lost, but this
      share of what it then lacks of its first count; above 1 more comes back
      than was removed, until both are in balance.
    regrow_by: what is regrown first (the paper: random positions).
    masks_first: an exchange comes before the step that follows its due step
      and not after the due step itself. So an evaluation at the end of an
      interval sees the masks that it was trained with, as for AccSET.
    restart_statistics: an exchange gives momentum and the like of all weights
      their first value, as the authors' code does.

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
    if curve is not None:
      raise ValueError(
        "`curve` needs `sparsity`, the end of the rise, got"
        f" epsilon={epsilon}. Give a sparsity instead."
      )
  if curve is not None and connectivity is not None:
    raise ValueError("`curve` and `connectivity` both say how many stay.")
  # With epsilon the distribution decides alone; any sparsity above 0 draws.
  requested = 0.5 if sparsity is None else sparsity
  arguments.check_steps("total_steps", total_steps)
  method = composed(
    _held_or_rising(requested, curve, every_steps, total_steps - 1),
    scopes.layerwise(distribution),
    regrow=exchange(
      regrow_by,
      schedules.constant(regrow_fraction),
      every_steps=every_steps,
      until=total_steps - 1,
      split=signs if by_sign else whole,
      restart=True,
    ),
    target=sparsity,
    order=Order.MASKS_FIRST if masks_first else Order.STEP_FIRST,
  )
  method = dataclasses.replace(method, restarts_statistics=restart_statistics)
  if connectivity is None:
    return method
  return connected(method, rules.constant(float(connectivity)))


def _held_or_rising(
  sparsity: float, curve: Curve | None, every_steps: int, end_step: int
) -> SparsitySchedule:
  if curve is None:
    return schedules.held(sparsity)
  return schedules.ramp(
    0.0, sparsity, curve=curve, end_step=end_step, every_steps=every_steps
  )
