"""Connectivity that follows metric: AccSET, LSET, DynSET (Scholte, 2022).

After an epoch each layer loses a share of its weights as in SET; how many grow
depends on how good the network is. The number of connections is not constant.
"""

import math

import numpy as np

from oracles import network, prune_and_regrow, ranking, training
from oracles.network import sparse_leaves

# (k, p, theta), worked by hand: the oracle and the library are held to them.
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
  """Per-epoch methods: the masks first, then the step that follows.

  The call that finds t steps completed updates the masks of time t, knowing
  how well the finished epoch went, and takes its step with the new masks:
  what was removed is zero, what has grown starts at zero and moves at once by
  the gradient that was passed. A gradient that is not finite skips what was
  due, which then waits for the next finite one.

  Args:
    leaves: the network at its first masks.
    sgd: the optimizer.
    events: list of (due, update); due: completed steps -> bool, and
      update: (leaves, metric, completed steps) -> None changes masks in
      place and restarts what it removes.
  """

  def __init__(self, leaves, sgd, events):
    self.leaves, self.sgd, self.events = leaves, sgd, events
    self.pending = [False] * len(events)
    self.t = 0
    training.zero_inactive(leaves)

  def step(self, gradients, metric=math.nan):
    """One call; `metric` is that of the epoch that finished last."""
    for number, (due, update) in enumerate(self.events):
      self.pending[number] |= due(self.t)
      if self.pending[number] and network.all_finite(gradients):
        update(self.leaves, np.float32(metric), self.t)
        self.pending[number] = False
    training.zero_inactive(self.leaves)
    for leaf, gradient in zip(self.leaves, gradients, strict=True):
      self.sgd.step(leaf, gradient)
    training.zero_inactive(self.leaves)
    self.t += 1


# Which share of what a layer lacks grows back


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

  All grows back where L_0 is not above 0, or where a loss is NaN.
  """

  def share(history):
    first, last = float(history[0]), float(history[-1])
    if not first > 0.0 or math.isnan(last):
      return 1.0
    return tunable_sigmoid(min(max(1.0 - last / first, 0.0), 1.0), k)

  return share


def regrow_all(history):
  """SET: back to the first count."""
  del history
  return 1.0


# When the masks rest


def never(history):
  del history
  return False


def when_worse(lag, *, loss):
  """DynSET: when worse than `lag` epochs ago; no earlier than lag + 2 epochs.

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
  *, steps_per_epoch, total_steps, fraction, grow, share, pauses=never
):
  """Removes by sign, then grows `share` of what is missing to the first count.

  Per layer: of the weights at or above zero, and of those below, ceil_tol of
  `fraction` of them nearest to zero leave and restart at zero. With lambda
  left and gamma the first count, ceil_tol(theta (gamma - lambda)) of what is
  inactive then grow, the just removed included. None follows the last epoch.

  Args:
    steps_per_epoch: steps in an epoch.
    total_steps: of the run.
    fraction: zeta.
    grow: a selector of `growth`.
    share: history -> theta.
    pauses: history -> bool; where true, no mask and no value changes.
  """
  history, first = [], {}

  def due(t):
    return t % steps_per_epoch == 0 and 0 < t < total_steps

  def evolve(leaves, metric, t):
    history.append(metric)
    for leaf in sparse_leaves(leaves):
      first.setdefault(leaf.index, leaf.active)
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
