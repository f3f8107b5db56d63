"""SET whose number of connections follows the metric of the epochs."""

import dataclasses

from sparsejax.components import accumulators, criteria, distributions
from sparsejax.components import connectivity as rules
from sparsejax.components.connectivity import Connectivity
from sparsejax.method import (
  Criterion,
  Distribution,
  Gate,
  Method,
  MetricKind,
  Order,
)
from sparsejax.methods.compositions import connected, remember
from sparsejax.methods.prune_and_regrow import sparse_evolution


def accset(
  *,
  sparsity: float | None = None,
  epsilon: float | None = None,
  steps_per_epoch: int,
  total_steps: int,
  k: float = 0.0,
  regrow_fraction: float = 0.3,
  by_sign: bool = True,
  distribution: Distribution = distributions.er,
  regrow_by: Criterion = criteria.random,
) -> Method:
  """SET that regrows the fewer connections, the better the accuracy is.

  After every epoch but the last each layer loses a share of its connections,
  and regains `1 - (p - p k) / (k - 2 k p + 1)` of what it then lacks of its
  first count. This happens in the first `update` of the next epoch, before its
  step, and p is the `metric=` given to that: the accuracy of the epoch
  that has ended, in [0, 1].

  Args:
    sparsity: first fraction of zeros in [0, 1), over `distribution`; or
    epsilon: connections per unit, as in SET.
    steps_per_epoch: optimizer steps of an epoch.
    total_steps: length of the run, in optimizer steps.
    k: bends the sigmoid, in (-1, 1); 0 regrows the share `1 - p`.
    regrow_fraction: share of the active weights that is removed, zeta in the
      paper.
    by_sign: positive and negative weights lose their share separately.
    distribution: first sparsity per layer.
    regrow_by: what is regrown first.

  Raises:
    ValueError: unless exactly one of `sparsity` and `epsilon` is given.

  References:
    Scholte, Regrowing strategies for dynamic sparse training, Twente 2022,
    algorithm 1.
  """
  return _following(
    "accuracy",
    rules.by_accuracy(float(k)),
    sparsity=sparsity,
    epsilon=epsilon,
    steps_per_epoch=steps_per_epoch,
    total_steps=total_steps,
    regrow_fraction=regrow_fraction,
    by_sign=by_sign,
    distribution=distribution,
    regrow_by=regrow_by,
  )


def lset(
  *,
  sparsity: float | None = None,
  epsilon: float | None = None,
  steps_per_epoch: int,
  total_steps: int,
  k: float = 0.0,
  regrow_fraction: float = 0.3,
  by_sign: bool = True,
  distribution: Distribution = distributions.er,
  regrow_by: Criterion = criteria.random,
) -> Method:
  """SET that regrows the fewer connections, the lower the loss is.

  As `accset`, with `p = 1 - L / L_0`: L is the loss of the epoch that has
  ended, given as `metric=`, and L_0 that of the first one. The paper only
  says that the share is based on the loss; this reading gives its counts.

  Args:
    sparsity: first fraction of zeros in [0, 1), over `distribution`; or
    epsilon: connections per unit, as in SET.
    steps_per_epoch: optimizer steps of an epoch.
    total_steps: length of the run, in optimizer steps.
    k: bends the sigmoid, in (-1, 1); 0 regrows the share `L / L_0`.
    regrow_fraction: share of the active weights that is removed.
    by_sign: positive and negative weights lose their share separately.
    distribution: first sparsity per layer.
    regrow_by: what is regrown first.

  Raises:
    ValueError: unless exactly one of `sparsity` and `epsilon` is given.

  References:
    Scholte, Regrowing strategies for dynamic sparse training, Twente 2022,
    section 4.2.
  """
  return _following(
    "loss",
    rules.by_loss(float(k)),
    sparsity=sparsity,
    epsilon=epsilon,
    steps_per_epoch=steps_per_epoch,
    total_steps=total_steps,
    regrow_fraction=regrow_fraction,
    by_sign=by_sign,
    distribution=distribution,
    regrow_by=regrow_by,
  )


def dynset(
  *,
  drives: str = "loss",
  connectivity: float | Connectivity | None = None,
  lag: int = 3,
  sparsity: float | None = None,
  epsilon: float | None = None,
  steps_per_epoch: int,
  total_steps: int,
  k: float = 0.0,
  regrow_fraction: float = 0.3,
  by_sign: bool = True,
  distribution: Distribution = distributions.er,
  regrow_by: Criterion = criteria.random,
) -> Method:
  """LSET or AccSET that pauses while the network is worse than epochs ago.

  The paper's three variants give the training loss, the validation loss and
  the validation accuracy as `metric=`.

  Args:
    drives: what `metric=` is: "loss", as in `lset`, or "accuracy", as in
      `accset`.
    connectivity: which share of what a layer lacks of its first count comes
      back, if not one that follows the metric. 1 is SET with the gate;
      above 1 more is regrown than was removed, until both are in balance.
    lag: an update is left out where the last epoch was worse than that many
      before; first looked at after `lag + 2` epochs. 3 is the paper's
      algorithm, 5 its text.
    sparsity: first fraction of zeros in [0, 1), over `distribution`; or
    epsilon: connections per unit, as in SET.
    steps_per_epoch: optimizer steps of an epoch.
    total_steps: length of the run, in optimizer steps.
    k: bends the sigmoid, in (-1, 1).
    regrow_fraction: share of the active weights that is removed.
    by_sign: positive and negative weights lose their share separately.
    distribution: first sparsity per layer.
    regrow_by: what is regrown first.

  Raises:
    ValueError: unless exactly one of `sparsity` and `epsilon` is given.

  References:
    Scholte, Regrowing strategies for dynamic sparse training, Twente 2022,
    algorithm 2.
  """
  if drives not in ("loss", "accuracy"):
    raise ValueError(
      f"`drives` must be 'loss' or 'accuracy', got {drives!r}: what"
      " `metric=` is."
    )
  if isinstance(lag, bool) or lag != int(lag) or lag < 1:
    raise ValueError(
      f"`lag` must be a whole number of epochs, at least 1, got {lag!r}."
    )
  if connectivity is None:
    follow = rules.by_loss if drives == "loss" else rules.by_accuracy
    connectivity = follow(float(k))
  elif not callable(connectivity):
    connectivity = rules.constant(float(connectivity))
  gate = rules.pause_when_worse(int(lag), higher_is_better=drives == "accuracy")
  return _following(
    drives,
    connectivity,
    gate=gate,
    lag=int(lag),
    sparsity=sparsity,
    epsilon=epsilon,
    steps_per_epoch=steps_per_epoch,
    total_steps=total_steps,
    regrow_fraction=regrow_fraction,
    by_sign=by_sign,
    distribution=distribution,
    regrow_by=regrow_by,
  )


def _following(
  follows: MetricKind,
  connectivity: Connectivity,
  *,
  gate: Gate | None = None,
  lag: int = 0,
  sparsity: float | None,
  epsilon: float | None,
  steps_per_epoch: int,
  total_steps: int,
  regrow_fraction: float,
  by_sign: bool,
  distribution: Distribution,
  regrow_by: Criterion,
) -> Method:
  """SET once an epoch, with a rule for its connections and a gate."""
  method = sparse_evolution(
    sparsity=sparsity,
    epsilon=epsilon,
    every_steps=steps_per_epoch,
    total_steps=total_steps,
    regrow_fraction=regrow_fraction,
    by_sign=by_sign,
    distribution=distribution,
    regrow_by=regrow_by,
  )
  method = dataclasses.replace(
    connected(method, connectivity),
    gate=gate,
    order=Order.MASKS_FIRST,
    follows=follows,
  )
  return remember(method, **{rules.METRIC: accumulators.history(lag)})
