"""Requests to stop, as signals make them."""

from sparsejax.training import preemption


class StopAfter(preemption.StopRequest):
  """A request to stop after some dispatches."""

  def __init__(self, dispatches):
    super().__init__()
    self._left = dispatches

  def check(self):
    pass  # No dispatch has been run.

  def agreed(self):
    self._left -= 1
    return self._left == 0


class StopInEvaluation(preemption.StopRequest):
  """A signal to this process before one of the next batches to evaluate."""

  def __init__(self, batch):
    super().__init__()
    self._left = batch + 2  # Two checks before the first dispatch.

  def check(self):
    self._left -= 1
    self.received = self._left <= 0
    super().check()
