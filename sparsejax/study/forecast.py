"""What a run will cost, where its method fixes the weights of every layer.

Nothing is trained, and no data is read: `outline` stands for data that need not
be on the disk.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sparsejax.analysis import flops
from sparsejax.components import trees
from sparsejax.data import Dataset, Stream, augment
from sparsejax.method import Method, Order
from sparsejax.training import recipes, train_state
from sparsejax.training.config import build
from sparsejax.updates import mask_update


class Forecast(NamedTuple):
  """What a run will cost.

  Attributes:
    inference_flops_ratio: of the network at the end, to the dense one.
    training_flops_ratio: of all steps, to the dense run of as many.
    inference_macs: multiply-adds of one example through the network at the end.
    sparsities: of the layers at the end, by name.
  """

  inference_flops_ratio: float
  training_flops_ratio: float
  inference_macs: float
  sparsities: dict[str, float]


def forecast(config: ConfigDict) -> Forecast | None:
  """Price a run before it is trained.

  Args:
    config: as `build.build` takes it; its data need not be there.

  Returns:
    What the run will record, `None` where the weights of the layers are found
    while it trains: where layers compete, move weights, or are scored first.

  Raises:
    InputError: if the config cannot work.
  """
  experiment = build.build(config, outline(build.resolved(config)["data"]))
  layout = _layout(experiment)
  by_index = _counts(experiment.recipe, layout)
  if by_index is None:
    return None
  costs, total = experiment.costs, experiment.steps.total
  density = by_index / np.array(costs.kernel_sizes)
  macs = costs.other_macs + density @ np.array(costs.kernel_macs, np.float64)
  method = experiment.recipe.method
  calls = _calls(method, total)
  index = np.asarray(jax.vmap(method.sparsity.index)(jnp.asarray(calls.seen)))
  full = {"at updates": calls.updates, "never": np.zeros(total, bool)}.get(
    experiment.setup.dense_gradient, np.ones(total, bool)
  )
  phases = [
    flops.Phase(int(steps), float(cost), int(dense))
    for steps, cost, dense in zip(
      np.bincount(index[:-1], minlength=len(macs)),
      macs,
      np.bincount(index[:-1], full, minlength=len(macs)),
      strict=True,
    )
  ]
  spent = flops.training(phases, dense=costs.table.dense)
  last = int(index[-1])
  return Forecast(
    inference_flops_ratio=float(macs[last]) / costs.reference_macs,
    training_flops_ratio=spent / (3 * costs.reference_macs * total),
    inference_macs=float(macs[last]),
    sparsities={
      name: float(1 - share)
      for name, share in zip(layout.shapes, density[last], strict=True)
    },
  )


def outline(section: Mapping[str, Any]) -> Dataset | None:
  """Make a data set of the right size that holds no image.

  Args:
    section: `data` of a resolved config.

  Returns:
    The data set; `None` where the real one needs no disk.
  """
  known = _OUTLINES.get(section["name"])
  return None if known is None else known(section)


def _layout(experiment: build.Experiment) -> trees.Layout:
  """Describes the sparse leaves, from shapes alone."""
  params = jax.eval_shape(
    functools.partial(
      train_state.init_weights,
      experiment.setup,
      experiment.init_key,
      experiment.dataset.example,
    )
  ).params
  chosen = trees.select_leaves(params, experiment.select)
  return trees.layout(params, chosen, experiment.overrides)


def _counts(plan: recipes.Recipe, layout: trees.Layout) -> np.ndarray | None:
  """Returns int[updates, layers], the active weights by update index."""
  method = plan.method
  if plan.initial_masks is not None or method.counts_as_found or method.pattern:
    return None
  first = mask_update.first_requested(method, layout)[1:]
  if method.when is None:
    by_index = first[None]
  else:
    by_index = mask_update.requested_table(method, layout)[:, 1:]
    by_index[0] = first
  shared = (by_index < 0).any()  # Layers that compete with each other.
  return None if shared else by_index


class _Calls(NamedTuple):
  """What the optimizer's calls meet, in order.

  Attributes:
    seen: int[calls + 1], the step of the update that drew the masks with which
      a call begins, 0 for the first ones; last, those of the end.
    updates: bool[calls], whether a call updates the masks.
  """

  seen: np.ndarray
  updates: np.ndarray


def _calls(method: Method, total: int) -> _Calls:
  """Returns what each of the run's calls meets, by the method's order."""
  steps = np.arange(total + 1)
  due = np.zeros(total + 1, bool)
  for when in (method.when, method.regrow and method.regrow.when):
    if when is not None:
      due |= np.asarray(jax.vmap(when)(jnp.asarray(steps))) == steps
  drawn = np.maximum.accumulate(np.where(due, steps, 0))
  if method.order is Order.STEP_FIRST:
    # What is due at step 0 is made up for in the first call.
    return _Calls(drawn, due[1:] | (due[0] & (steps[1:] == 1)))
  if method.order is Order.MASKS_FIRST:
    at, updates = steps[:-1], due[:-1]
  else:  # An update takes a call of its own, before the step is taken.
    at = np.repeat(steps, 1 + due)[:total]
    updates = due[at] & (np.diff(at, prepend=-1) > 0)
  seen = np.append(np.maximum(at - updates, 0), at[-1])
  return _Calls(drawn[seen], updates)


def _cifar(classes: int, section: Mapping[str, Any]) -> Dataset:
  train = section["train_examples"]
  return _blank(train, 10_000, 50_000 - train, classes, 32)


def _imagenet(section: Mapping[str, Any]) -> Dataset:
  return _blank(1_281_167, 50_000, 0, 1000, section["image_size"])


_OUTLINES = {
  "cifar10": functools.partial(_cifar, 10),
  "cifar100": functools.partial(_cifar, 100),
  "imagenet": _imagenet,
}


def _blank(
  train: int, test: int, validation: int, classes: int, size: int
) -> Dataset:
  def part(examples: int) -> Stream:
    return Stream(range(examples), _refuse_to_read, (size, size, 3))

  return Dataset(
    train=part(train),
    test=part(test),
    classes=classes,
    mean=0.0,
    std=1.0,
    augment=augment.identity,
    validation=part(validation) if validation else None,
  )


def _refuse_to_read(record: Any, random: np.random.Generator) -> Any:
  raise AssertionError("The outline of a data set holds no images.")
