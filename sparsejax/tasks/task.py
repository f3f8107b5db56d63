"""What is trained: how a batch is drawn, its loss and what is measured."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

Loss = Callable[[PyTree, PyTree], jax.Array]
"""(outputs, targets) -> float32[B], the loss of each example."""


class Batch(NamedTuple):
  """B examples as the model reads them.

  Attributes:
    inputs: what the model is called with; arrays with a leading axis of B.
    targets: what `Task.loss` and `Task.metrics` compare its outputs with.
  """

  inputs: PyTree
  targets: PyTree


class Measure(NamedTuple):
  """A number that a run records and shows, besides the loss.

  Attributes:
    name: its key in the records; `test_NAME` for the test split.
    title: what tables and axes call it.
    short: what a progress bar calls it.
    text: its format, such as `{:.2%}`.
    batch_text: its format for a single training batch, `text` by default.
    higher_is_better: whether higher values are better.
    of_means: means of the loss and of the metrics, by name -> the number;
      `None` for the mean of the metric of that name.
  """

  name: str
  title: str
  short: str
  text: str
  batch_text: str | None = None
  higher_is_better: bool = True
  of_means: Callable[[Mapping[str, float]], float] | None = None


class Task(NamedTuple):
  """What is trained.

  The trainer calls `draw` with B examples as the data set stores them, the
  model with the inputs, and the other functions with its outputs.

  Attributes:
    name: for the records.
    draw: (key, examples) -> `Batch`. The key is a typed PRNG key that is new in
      every step, for augmentation; `None` for evaluation, which draws the same
      batch each time.
    loss: (outputs, targets) -> float32[B], the loss of each example.
    metrics: (outputs, targets) -> values[B] by name: bools, whose counts are
      exact, or float32. A run records their means.
    measures: what is shown. The first one ranks checkpoints and leads tables
      and figures; each is the mean of a metric, or follows from means.
    smoothed: smoothing in (0, 1) -> the loss with smoothed labels; `None` for a
      task without labels.
  """

  name: str
  draw: Callable[[jax.Array | None, Any], Batch]
  loss: Loss
  metrics: Callable[[PyTree, PyTree], dict[str, jax.Array]]
  measures: tuple[Measure, ...]
  smoothed: Callable[[float], Loss] | None = None

  def derived(self, means: Mapping[str, float]) -> dict[str, float]:
    """Returns the measures that follow from means, by name."""
    return {
      each.name: each.of_means(means)
      for each in self.measures
      if each.of_means is not None
    }
