"""SET and its descendants: one factory, and a row for each method.

All regrow at random, or next to active weights. AccSET and LSET let the number
of connections follow the metric of the last epoch; DynSET also pauses while the
network is worse than some epochs ago.
"""

import functools

from sparsejax.components import (
  accumulators,
  arguments,
  connectivity as rules,
  criteria,
  distributions,
  schedules,
  scopes,
  storage as storages,
)
from sparsejax.components.connectivity import Connectivity
from sparsejax.method import (
  Criterion,
  Curve,
  Distribution,
  Granularity,
  Method,
  MetricKind,
  as_pruned,
  single_weights,
)
from sparsejax.methods.compositions import (
  constant_or_rising,
  prune_and_regrow,
  signs,
  variant,
  with_granularity,
)
from sparsejax.updates import orders


def set_family(
  sparsity: float | None = None,
  *,
  epsilon: float | None = None,
  every_steps: int,
  total_steps: int,
  regrow_fraction: float = 0.3,
  by_sign: bool = True,
  distribution: Distribution = distributions.er,
  regrow_by: Criterion = criteria.random,
  curve: Curve | None = None,
  connectivity: float | Connectivity | None = None,
  drives: str | None = None,
  k: float = 0.0,
  lag: int | None = None,
  most: float = 1.0,
  masks_first: bool = False,
  reset_optimizer: bool = False,
  prune_last: bool = False,
  granularity: Granularity = single_weights,
) -> Method:
  """SET: prunes the weights closest to zero and regrows others.

  Nothing is regrown at `total_steps`: it could not train. Weights that are
  pruned and regrown at once restart at 0.

  Args:
    sparsity: first fraction of zeros in [0, 1), over `distribution`; or
    epsilon: connections per unit, the paper's way to set how dense a layer is;
      then `distribution` is not used.
    every_steps: interval of the updates (the papers: an epoch). In the rows
      that follow a metric it is called `steps_per_epoch`.
    total_steps: length of the run, in optimizer steps.
    regrow_fraction: share of the active weights that is pruned.
    by_sign: positive and negative weights are pruned separately, as in the
      paper; else by magnitude, as in RigL, ITOP and GraNet.
    distribution: first sparsity per layer.
    regrow_by: what is regrown first (the paper: random positions).
    curve: if given, the network starts dense and its sparsity rises along it to
      the end, at the same interval (OptG, Table 4); needs `sparsity`.
    connectivity: if given, a layer does not regrow what it pruned, but this
      fraction of what it then misses of its first count; above 1 more is
      regrown than was pruned, until both are in balance.
    drives: what `metric=` is, "loss" or "accuracy"; None for SET, which follows
      neither. Where `connectivity` is None, the fraction follows the metric.
    k: bend of the sigmoid of the metric, in (-1, 1); 0 regrows the fraction
      `1 - accuracy`, or L / L_0.
    most: scales the fraction that follows the metric, above 0: `most` is
      regrown at accuracy 0, or at the loss of the first epoch. Above 1 a layer
      may grow beyond its first count while the metric is bad.
    lag: an update is skipped where the last epoch was worse than that many
      before; first after `lag + 2` epochs. 3 is the paper's algorithm, 5 its
      text. None never skips.
    masks_first: a mask update comes before the step that follows its due step
      (see `SparseTransformation.update_masks`), and not after the due step. So
      an evaluation at the end of an interval sees the masks that the interval
      trained with.
    reset_optimizer: a mask update resets the optimizer state of all weights, as
      the code of SET does, which builds its optimizer anew in every epoch, and
      the methods that follow a metric inherit. An update that is skipped resets
      it as well.
    prune_last: whether the last epoch ends with a mask update that prunes and
      regrows nothing, as in both papers' algorithms. A loop of your own with
      `masks_first` calls `update_masks` for it after the last step.
    granularity: what is pruned and regrown as one; sparsities are in its units.
      A unit is pruned by the sum of magnitudes, with any `by_sign`.

  Raises:
    ValueError: unless exactly one of `sparsity` and `epsilon` is given; for
      values out of range.

  References:
    Mocanu et al., `Scalable training of artificial neural networks with
    adaptive sparse connectivity <https://arxiv.org/abs/1707.04780>`_, 2018,
    algorithm 1; Scholte, Regrowing strategies for dynamic sparse training,
    Twente 2022, algorithms 1 and 2 and section 4.2.
  """
  if (sparsity is None) == (epsilon is None):
    raise ValueError(
      "`sparsity` or `epsilon` must be given, and not both, got"
      f" sparsity={sparsity}, epsilon={epsilon}."
    )
  if epsilon is not None:
    distribution = _er_epsilon(epsilon, curve)
  if curve is not None and connectivity is not None:
    raise ValueError("`curve` and `connectivity` both say how many stay.")
  arguments.check_steps("total_steps", total_steps)
  follows, lag, gate = _metric_kind(drives), _checked_lag(lag), None
  history = accumulators.metric_history(lag or 0)
  if lag is not None:
    gate = rules.pause_when_worse(
      history, lag, higher_is_better=follows == "accuracy"
    )
  rule = _connectivity(connectivity, follows, k, most, history)
  regrow_count = rules.towards_first_count(rule) if rule else as_pruned
  if prune_last:
    regrow_count = rules.until(total_steps, regrow_count)
  composed = constant_or_rising(
    scopes.layerwise(distribution),
    sparsity,
    curve,
    every_steps=every_steps,
    end_step=total_steps - 1,
  )
  if regrow_count is not as_pruned:
    composed["target_sparsity"] = None  # Only the first masks have it.
  method = Method(
    **composed,
    regrow=prune_and_regrow(
      regrow_by,
      schedules.constant(regrow_fraction),
      schedules.Every(
        every_steps, until=total_steps if prune_last else total_steps - 1
      ),
      parts=signs if by_sign else None,
      regrow_count=regrow_count,
      restart=True,
    ),
    storage=storages.zeroed,
    accumulators=() if follows is None else (history,),
    order=orders.update_then_step if masks_first else orders.step_then_update,
    gate=gate,
    metric=follows,
    reset_optimizer=reset_optimizer,
  )
  return with_granularity(method, granularity)


def _metric_kind(drives: str | None) -> MetricKind | None:
  if drives is None or drives == "loss" or drives == "accuracy":
    return drives
  raise ValueError(
    f"`drives` must be 'loss' or 'accuracy', got {drives!r}: what `metric=` is."
  )


def _er_epsilon(epsilon: float, curve: Curve | None) -> Distribution:
  if epsilon <= 0:
    raise ValueError(f"`epsilon` must be above 0, got {epsilon}.")
  if curve is not None:
    raise ValueError(
      "`curve` needs `sparsity`, the end of the rise, got"
      f" epsilon={epsilon}. Give a sparsity instead."
    )
  return functools.partial(distributions.er_epsilon, epsilon=float(epsilon))


def _checked_lag(lag: int | None) -> int | None:
  if lag is None:
    return None
  if isinstance(lag, bool) or lag != int(lag) or lag < 1:
    raise ValueError(
      f"`lag` must be a whole number of epochs, at least 1, got {lag!r}."
    )
  return int(lag)


def _connectivity(
  connectivity: float | Connectivity | None,
  drives: str | None,
  k: float,
  most: float,
  history: accumulators.Accumulator,
) -> Connectivity | None:
  """Returns how much is regrown; None for as much as was pruned."""
  if isinstance(connectivity, Connectivity):
    return connectivity
  if connectivity is not None:
    return rules.constant(float(connectivity))
  if drives == "accuracy":
    return rules.scaled(float(most), rules.by_accuracy(float(k)))
  if drives == "loss":
    return rules.scaled(float(most), rules.by_loss(history, float(k)))
  return None


_PER_EPOCH = {"every_steps": "steps_per_epoch"}
_FOLLOWING = {"curve": None, "masks_first": True}
_RESTARTING = {"reset_optimizer": True}

sparse_evolution = variant(
  set_family,
  "sparse_evolution",
  """SET: prunes the weights closest to zero and regrows random ones.

  Mocanu et al., 2018: https://arxiv.org/abs/1707.04780. Takes the arguments of
  `set_family` but `drives`, `k`, `most` and `lag`.
  """,
  fixed={"drives": None, "k": 0.0, "most": 1.0, "lag": None},
)

accset = variant(
  set_family,
  "accset",
  """AccSET: SET that regrows the fewer connections, the higher the accuracy is.

  After every epoch but the last each layer prunes a share of its connections,
  and regrows `1 - (p - p k) / (k - 2 k p + 1)` of what it then misses of its
  first count. This happens in `update_masks` between two epochs, or else in the
  first `update` of the next one, before its step; p is the `metric=` given to
  that: the accuracy of the last epoch, in [0, 1]. The optimizer state of all
  weights is reset then, as SET's code does, unless `reset_optimizer` is False.
  Takes the arguments of `set_family` but `curve`, `connectivity`, `drives`,
  `lag` and `masks_first`, with `steps_per_epoch` for `every_steps`.

  References:
    Scholte, Regrowing strategies for dynamic sparse training, Twente 2022,
    algorithm 1 (`lset`: section 4.2, `dynset`: algorithm 2).
  """,
  fixed={**_FOLLOWING, "connectivity": None, "drives": "accuracy", "lag": None},
  defaults=_RESTARTING,
  renamed=_PER_EPOCH,
)

lset = variant(
  set_family,
  "lset",
  """LSET: SET that regrows the fewer connections, the lower the loss is.

  As `accset`, with `p = 1 - L / L_0`: L is the loss of the last epoch, given as
  `metric=`, and L_0 that of the first one. The paper only says that the share
  is based on the loss; this reading gives its counts.
  """,
  fixed={**_FOLLOWING, "connectivity": None, "drives": "loss", "lag": None},
  defaults=_RESTARTING,
  renamed=_PER_EPOCH,
)

dynset = variant(
  set_family,
  "dynset",
  """DynSET: LSET or AccSET that pauses while it is worse than epochs ago.

  As `lset`, or as `accset` with `drives="accuracy"`, with the arguments
  `connectivity`, `drives` and `lag` as well. The paper's three variants give
  the training loss, the validation loss and the validation accuracy as
  `metric=`.
  """,
  fixed=_FOLLOWING,
  defaults={"drives": "loss", "lag": 3, **_RESTARTING},
  renamed=_PER_EPOCH,
)
