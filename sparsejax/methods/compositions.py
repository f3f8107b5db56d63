"""What the methods share: exchanges, memories, and the usual slots."""

import dataclasses
from collections.abc import Callable, Sequence

from jaxtyping import Array, Bool, Shaped

from sparsejax.components import (
  accumulators,
  criteria,
  distributions,
  schedules,
  scopes,
)
from sparsejax.components import storage as storages
from sparsejax.components.connectivity import (
  FIRST_COUNTS,
  Connectivity,
  towards_first,
)
from sparsejax.method import (
  Criterion,
  Fraction,
  Gain,
  Memory,
  Method,
  Order,
  Regrow,
  Scope,
  SparsitySchedule,
  Split,
  Storage,
  as_many,
  whole,
)
from sparsejax.selection import search
from sparsejax.updates.regrowth import share_of

MOMENTUM = "momentum"

momentum = accumulators.Recalling(
  criteria.remembered_magnitude(MOMENTUM),
  {MOMENTUM: accumulators.gradient_trace(0.9)},
)
"""Scores a position by |v|, the momentum of the dense gradient."""

never_active_first = accumulators.Recalling(
  criteria.never_active_first, {"ever_active": accumulators.ever_active}
)
"""`criteria.never_active_first` with the memory that it needs."""


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
  count: Callable = search.ceil,
  gain: Gain = as_many,
  split: Split = whole,
  restart: bool = False,
) -> Regrow:
  """Magnitude pruning of a share, and regrowth, inside each layer.

  Args:
    by: what is regrown first.
    fraction: share of the layer's active weights, as a function of the step.
    every_steps: interval, in optimizer steps.
    until: the last step at which it may happen.
    begin_step: it happens after this step only.
    at_zero: also at step 0.
    count: rounding of the share.
    gain: how many weights each layer regains.
    split: parts of the layer that lose their share separately.
    restart: whether weights that were pruned and regrown at once start at 0.
  """
  return Regrow(
    by=by,
    lose=share_of(fraction, count),
    when=schedules.every(
      every_steps, begin_step=begin_step, until=until, at_zero=at_zero
    ),
    prune_by=criteria.magnitude,
    gain=gain,
    split=split,
    restart=restart,
  )


def track_ever_active(method: Method) -> Method:
  """Adds the masks that the ITOP rate is counted from, a byte per weight."""
  return remember(method, ever_active=accumulators.ever_active)


def remember(method: Method, **memory: Memory) -> Method:
  """Adds memories to a method, by name."""
  return dataclasses.replace(method, memory={**method.memory, **memory})


def regrowing(method: Method, regrow: Regrow) -> Method:
  """Returns the method with this exchange, and with what that looks back on."""
  by = regrow.by
  if isinstance(by, accumulators.Recalling):
    method = remember(method, **by.memory)
    regrow = dataclasses.replace(regrow, by=by.score)
  return dataclasses.replace(method, regrow=regrow)


def connected(method: Method, rule: Connectivity) -> Method:
  """Lets a rule say how much of its first count each layer regains."""
  assert method.regrow is not None
  method = dataclasses.replace(
    method,
    regrow=dataclasses.replace(method.regrow, gain=towards_first(rule)),
    target_sparsity=None,  # It is not that of the first masks.
  )
  return remember(method, **{FIRST_COUNTS: accumulators.first_counts})


def composed(
  sparsity: SparsitySchedule,
  scope: Scope,
  *,
  regrow: Regrow | None = None,
  storage: Storage = storages.zeroed,
  target: float | None = None,
  order: Order = Order.STEP_FIRST,
) -> Method:
  """What most methods share: magnitudes, and ERK for random first masks.

  Args:
    sparsity: its schedule.
    scope: who competes; of the first masks too where the sparsity is held.
    regrow: the exchange, or None.
    storage: what becomes of the value of a weight that is off.
    target: the sparsity that the user requested, or None.
    order: how mask update and step follow each other.
  """
  first = scope
  if sparsity.when is not None:
    first = scopes.layerwise(distributions.erk)
  method = Method(
    sparsity=sparsity,
    when=sparsity.when,
    initial=first,
    scope=scope,
    criterion=criteria.magnitude,
    storage=storage,
    order=order,
    target_sparsity=target,
  )
  return method if regrow is None else regrowing(method, regrow)
