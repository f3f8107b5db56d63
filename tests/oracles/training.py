"""The three orders in which a step and a mask update follow each other."""

from oracles import network


def zero_inactive(leaves):
  for leaf in network.sparse_leaves(leaves):
    leaf.reset(~leaf.mask)


class StepThenUpdate:
  """GraNet, ITOP, SET, GMP: the step first, then the masks.

  The moved weights are scored with the gradient of the same step. Weights and
  momentum are zero wherever a mask is off. A gradient that is not finite skips
  what was due, which then waits for the next finite step.

  Args:
    leaves: the network at its first masks.
    sgd: the optimizer.
    events: list of (due, update); due: step -> bool, and
      update: (leaves, gradients, step) -> None changes masks in place.
  """

  def __init__(self, leaves, sgd, events):
    self.leaves, self.sgd, self.events = leaves, sgd, events
    self.pending = [False] * len(events)
    self.t = 0
    zero_inactive(leaves)

  def step(self, gradients):
    for leaf, gradient in zip(self.leaves, gradients, strict=True):
      self.sgd.step(leaf, gradient)
    zero_inactive(self.leaves)
    self.t += 1
    for number, (due, update) in enumerate(self.events):
      self.pending[number] |= due(self.t)
      if self.pending[number] and network.all_finite(gradients):
        update(self.leaves, gradients, self.t)
        zero_inactive(self.leaves)
        self.pending[number] = False


class UpdateSpendsStep:
  """RigL's own order: a mask update takes the place of a step.

  Drop and growth are scored at the same weights, time does not advance, and
  nothing moves; a step follows at the next call. The first call is an update.
  """

  def __init__(self, leaves, sgd, events):
    self.leaves, self.sgd = leaves, sgd
    self.events = events
    self.t, self.last_update = 0, None
    zero_inactive(leaves)

  def step(self, gradients):
    due = [update for due, update in self.events if due(self.t)]
    if due and self.last_update != self.t:
      for update in due:
        update(self.leaves, gradients, self.t)
        zero_inactive(self.leaves)
      self.last_update = self.t
    else:
      for leaf, gradient in zip(self.leaves, gradients, strict=True):
        self.sgd.step(leaf, gradient)
      self.t += 1
    zero_inactive(self.leaves)


class StepThenUpdateKept:
  """Zhu & Gupta: the values of pruned weights stay, and may return.

  The leaves hold the dense weights. Where a mask is off there is no task
  gradient, but momentum and weight decay go on, and nothing is restarted.
  """

  def __init__(self, leaves, sgd, events):
    self.leaves, self.sgd = leaves, sgd
    [(self.due, self.update)] = events
    self.t = 0

  def step(self, gradients):
    for leaf, gradient in zip(self.leaves, gradients, strict=True):
      self.sgd.step(leaf, gradient)
    self.t += 1
    if self.due(self.t):
      self.update(self.leaves, gradients, self.t)
