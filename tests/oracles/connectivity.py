"""Performance-driven connectivity: AccSET, LSET, DynSET (Scholte, 2022).

After every epoch each layer is pruned as in SET; how many weights are regrown
depends on the metric. The number of connections is not constant.
"""

import math

import numpy as np

from oracles import network, prune_and_regrow, ranking, training
from oracles.network import sparse_leaves

# (k, p, theta), computed by hand: both the oracle and the library must match.
WORKED_SHARES = (
  (0.0, 0.0, 1.0),
  (0.0, 0.65, 0.35),
  (0.0, 1.0, 0.0),
  (0.5, 0.5, 0.75),
  (0.5, 0.75, 0.5),
  (0.5, 0.9, 0.25),
  (-0.5, 0.5, 0.25),
  (-0.5, 0.25, 0.5),
  (-0.5, 0.1, 0.75),
  (0.9, 0.0, 1.0),
  (0.9, 0.5, 0.95),
  (-0.9, 0.5, 0.05),
  (-0.9, 1.0, 0.0),
  (0.0, 1.5, 0.0),
  (0.0, -0.5, 1.0),
  (0.3, 1.5, 0.0),
  (0.3, -0.5, 1.0),
  (0.0, math.nan, 1.0),
)


class UpdateThenStep:
  """Per-epoch methods: first the mask update, then the step.

  A call after t completed steps updates the masks with the metric of the
  finished epoch, then takes its step with the new masks: pruned weights are
  zero, regrown ones start at zero and move by the gradient of the same call. If
  a gradient is not finite, a due update waits for the next finite one.

  Args:
    leaves: the network with its initial masks.
    sgd: the optimizer.
    events: list of (due, update); due: completed steps -> bool, and
      update: (leaves, metric, completed steps) -> None changes masks in
      place and resets what it prunes.
  """

  def __init__(self, leaves, sgd, events):
    self.leaves, self.sgd, self.events = leaves, sgd, events
    self.pending = [False] * len(events)
    self.t, self.updated_at = 0, -1
    training.zero_inactive(leaves)

  def between_steps(self, metric=math.nan):
    """Updates the masks before the gradient of the next step is taken."""
    for due, update in self.events:
      if due(self.t):
        update(self.leaves, np.float32(metric), self.t)
        self.updated_at = self.t
    training.zero_inactive(self.leaves)

  def step(self, gradients, metric=math.nan):
    """Takes one call; `metric` is that of the last finished epoch."""
    for number, (due, update) in enumerate(self.events):
      self.pending[number] |= due(self.t) and self.updated_at < self.t
      if self.pending[number] and network.all_finite(gradients):
        update(self.leaves, np.float32(metric), self.t)
        self.pending[number] = False
    training.zero_inactive(self.leaves)
    for leaf, gradient in zip(self.leaves, gradients, strict=True):
      self.sgd.step(leaf, gradient)
    training.zero_inactive(self.leaves)
    self.t += 1


# The fraction theta of the missing weights that regrows


def tunable_sigmoid(p, k):
  """theta = 1 - (p - p k) / (k - 2 k |p| + 1): 1 at p = 0, 0 at p = 1.

  Clipped to [0, 1]; 1 where p is NaN.
  """
  theta = 1.0 - (p - p * k) / (k - 2.0 * k * abs(p) + 1.0)
  return 1.0 if math.isnan(theta) else min(max(theta, 0.0), 1.0)


def by_accuracy(k=0.0):
  """AccSET: p is the accuracy of the finished epoch."""

  def share(history):
    return tunable_sigmoid(float(history[-1]), k)

  return share


def by_loss(k=0.0):
  """LSET: p = clip(1 - L / L_0, 0, 1), L_0 the loss of the first epoch.

  theta is 1 if L_0 is not above 0, or if a loss is NaN.
  """

  def share(history):
    first, last = float(history[0]), float(history[-1])
    if not first > 0.0 or math.isnan(last):
      return 1.0
    return tunable_sigmoid(min(max(1.0 - last / first, 0.0), 1.0), k)

  return share


def regrow_all(history):
  """SET: back to the initial count."""
  del history
  return 1.0


# Gates: when to skip a mask update


def never(history):
  del history
  return False


def when_worse(lag, *, loss):
  """DynSET: skip if worse than `lag` epochs ago, from epoch lag + 2 on.

  Strictly worse: a larger loss, a smaller accuracy. NaN is not worse.
  """

  def pauses(history):
    if len(history) < lag + 2:
      return False
    last, before = float(history[-1]), float(history[-1 - lag])
    return last > before if loss else last < before

  return pauses


# The methods


def evolve_each_epoch(
  *,
  steps_per_epoch,
  total_steps,
  fraction,
  grow,
  share,
  pauses=never,
  restarts=False,
):
  """Prunes by sign, then regrows `share` of the weights that are missing.

  Per layer: of the weights at or above zero, and of those below, the ceil_tol
  of `fraction` closest to zero are pruned and reset. With lambda weights left
  and an initial count of gamma, ceil_tol(theta (gamma - lambda)) inactive
  weights are regrown, just pruned ones included. No update after the last
  epoch.

  Args:
    steps_per_epoch: steps per epoch.
    total_steps: steps of the run.
    fraction: the paper's zeta.
    grow: a selector of `growth`.
    share: history -> theta.
    pauses: history -> bool; if true, masks and values stay unchanged.
    restarts: whether every epoch begins with an optimizer state of zeros for
      all weights, as in SET's code, which builds the optimizer anew.
  """
  history, first = [], {}

  def due(t):
    return t % steps_per_epoch == 0 and 0 < t < total_steps

  def evolve(leaves, metric, t):
    history.append(metric)
    for leaf in sparse_leaves(leaves):
      first.setdefault(leaf.index, leaf.active)
    if restarts:
      for leaf in leaves:
        for name, values in leaf.inner_state.items():
          leaf.inner_state[name] = np.zeros_like(values)
    if pauses(history):
      return
    theta = share(history)
    for leaf in sparse_leaves(leaves):
      kept = np.zeros_like(leaf.mask)
      for sign in [leaf.weights >= 0, leaf.weights < 0]:
        part = leaf.mask & sign
        count = ranking.ceil_tol(fraction * int(part.sum()))
        kept |= prune_and_regrow.prune_smallest(leaf, count, part)
      left = int(kept.sum())
      count = ranking.ceil_tol(theta * (first[leaf.index] - left))
      count = min(count, leaf.size - left)
      leaf.reset(~kept)
      leaf.mask = kept | grow(leaf, count, ~kept, t)

  return [(due, evolve)]
