"""The three orders of optimizer step and mask update."""

from oracles import network


class StepDenseThenUpdate:
  """SNFS: the optimizer steps all weights, and inactive ones are zeroed.

  The gradient is dense and the optimizer keeps its state, so that momentum is
  accumulated at every position.

  Args:
    leaves: the network with its initial masks.
    sgd: the optimizer.
    events: as in `StepThenUpdate`.
  """

  def __init__(self, leaves, sgd, events):
    self.leaves, self.sgd, self.events = leaves, sgd, events
    self.t = 0
    self.zero_inactive()

  def zero_inactive(self):
    for leaf in network.sparse_leaves(self.leaves):
      leaf.zero(~leaf.mask)

  def step(self, gradients):
    for leaf, gradient in zip(self.leaves, gradients, strict=True):
      self.sgd.move(leaf, gradient)
    self.zero_inactive()
    self.t += 1
    for due, update in self.events:
      if due(self.t):
        update(self.leaves, gradients, self.t)
        self.zero_inactive()


def zero_inactive(leaves):
  for leaf in network.sparse_leaves(leaves):
    leaf.reset(~leaf.mask)


class StepThenUpdate:
  """GraNet, ITOP, SET, GMP: first the step, then the mask update.

  The stepped weights are scored with the gradient of the same step. Inactive
  weights and their momentum are zero. If a gradient is not finite, a due update
  waits for the next finite step.

  Args:
    leaves: the network with its initial masks.
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
  """RigL's order: a mask update replaces a step.

  Pruning and regrowth are scored at the same weights and t does not advance;
  the next call is a step. The first call is an update.
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
  """Zhu & Gupta: pruned weights keep their values and may return.

  The leaves store the dense weights. Inactive weights get no gradient, but
  momentum and weight decay continue; nothing is reset.
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
