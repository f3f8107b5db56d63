"""What a run will cost, if its method fixes the active weights per layer.

Nothing is trained and no data is read.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from sparsejax.analysis import flops
from sparsejax.components import leaves
from sparsejax.method import Layout, Method
from sparsejax.study import blank_datasets
from sparsejax.training import recipes, train_state
from sparsejax.training.config import build, keys
from sparsejax.training.config.experiment import Experiment
from sparsejax.updates import orders, requested


class Forecast(NamedTuple):
  """What a run will cost.

  Attributes:
    inference_flops_ratio: final network / dense network.
    training_flops_ratio: all steps / as many steps of the dense network.
    inference_macs: multiply-adds per example of the final network.
    kernel_parameters: weights of all kernels that are active in the final
      network; biases and norms are not counted.
    sparsities: layer -> final sparsity.
    sizes: layer -> number of weights.
  """

  inference_flops_ratio: float
  training_flops_ratio: float
  inference_macs: float
  kernel_parameters: int
  sparsities: dict[str, float]
  sizes: dict[str, int]


def forecast(config: ConfigDict) -> Forecast | None:
  """Predict the costs of a run.

  Args:
    config: as `build.build` takes it; its data need not be on the disk.

  Returns:
    What the run will record; `None` if the active weights per layer are known
    only after training: with a global scope, weights that move between layers,
    or pruning at initialization.

  Raises:
    InputError: if the config cannot work.
  """
  experiment = build.build(
    config, blank_datasets.blank(keys.resolved(config)["data"])
  )
  params = _params(experiment)
  layout = leaves.find_layout(params, experiment.select, experiment.overrides)
  layout = experiment.recipe.method.granularity.leaves(layout)
  by_index = _counts(experiment.recipe, layout)
  if by_index is None:
    return None
  costs, total = experiment.costs, experiment.steps.total
  density = by_index / np.array(layout.sizes)
  # The layers of a stacked leaf have equal shares.
  counts = [leaf.num_layers for leaf in layout.leaves]
  of_layers = np.repeat(np.array(costs.kernel_macs) / counts, counts)
  macs = costs.other_macs + density @ of_layers
  method = experiment.recipe.method
  calls = _calls(method, total)
  index = np.zeros_like(calls.seen)
  if method.prune is not None:
    index_at = jax.vmap(method.prune.schedule.index)
    index = np.asarray(index_at(jnp.asarray(calls.seen)))
  phases = _phases(index[:-1], macs, _dense_gradients(experiment, calls))
  spent = flops.training(phases, dense=costs.table.dense)
  last = int(index[-1])
  return Forecast(
    inference_flops_ratio=float(macs[last]) / costs.reference_macs,
    training_flops_ratio=spent / (3 * costs.reference_macs * total),
    inference_macs=float(macs[last]),
    kernel_parameters=train_state.kernel_parameters(params)
    + int(by_index[last].sum())
    - sum(layout.sizes),
    sparsities={
      name: float(1 - share)
      for name, share in zip(layout.shapes, density[last], strict=True)
    },
    sizes=dict(zip(layout.shapes, layout.sizes, strict=True)),
  )


def _phases(
  index: np.ndarray, macs: np.ndarray, dense: np.ndarray
) -> list[flops.Phase]:
  """Returns one phase per update index: steps, and those with dense gradients.

  Args:
    index: int[calls], the update index of each call's masks.
    macs: float[updates], multiply-adds per example by update index.
    dense: bool[calls], whether a call needs the dense gradient.
  """
  steps = np.bincount(index, minlength=len(macs))
  dense_steps = np.bincount(index, dense, minlength=len(macs))
  return [
    flops.Phase(int(count), float(cost), int(of_them))
    for count, cost, of_them in zip(steps, macs, dense_steps, strict=True)
  ]


def _dense_gradients(experiment: Experiment, calls: "_Calls") -> np.ndarray:
  """Returns bool[calls]: whether a call needs the dense gradient."""
  total = experiment.steps.total
  return {"at updates": calls.updates, "never": np.zeros(total, bool)}.get(
    experiment.setup.dense_gradient, np.ones(total, bool)
  )


def _params(experiment: Experiment) -> PyTree:
  """Returns the shapes of the parameters."""
  return jax.eval_shape(
    functools.partial(
      train_state.init_weights,
      experiment.setup,
      experiment.init_key,
      experiment.dataset.example,
    )
  ).params


def _counts(recipe: recipes.Recipe, layout: Layout) -> np.ndarray | None:
  """Returns int[updates, layers]: active weights by update index."""
  method = recipe.method
  has_pattern = method.prune is not None and method.prune.pattern is not None
  if recipe.initial_masks is not None or method.counts_as_found or has_pattern:
    return None
  if method.granularity.units is not None:
    return None  # Units of a layer may have different numbers of weights.
  first = requested.first_requested(method, layout)[1:]
  if method.prune is None:
    by_index = first[None]
  else:
    by_index = requested.requested_table(method, layout)[:, 1:]
    by_index[0] = first
  shared = (by_index < 0).any()  # Layers that compete for weights.
  return None if shared else by_index


class _Calls(NamedTuple):
  """The masks that the optimizer's calls see, in order.

  Attributes:
    seen: int[calls + 1], the step of the latest mask update before a call, 0
      for the initial masks; the last item is that of the final masks.
    updates: bool[calls], whether a call updates the masks.
  """

  seen: np.ndarray
  updates: np.ndarray


def _calls(method: Method, total: int) -> _Calls:
  """Returns the calls of a run, by the method's order."""
  due = requested.due_steps(method, total)
  if orders.between_steps(method):
    return _update_between_steps(due)
  return _CALLS[method.order or orders.step_then_update](due)


def _step_then_update(due: np.ndarray) -> _Calls:
  steps = np.arange(len(due))
  # A mask update that is due at step 0 happens in the first call.
  return _Calls(_latest(due), due[1:] | (due[0] & (steps[1:] == 1)))


def _update_then_step(due: np.ndarray) -> _Calls:
  return _calls_at(np.arange(len(due) - 1), due[:-1], due)


def _update_between_steps(due: np.ndarray) -> _Calls:
  """Masks change before the batch; after the last step nothing does."""
  seen = _latest(due)[:-1]
  return _Calls(np.append(seen, seen[-1:]), due[:-1])


def _update_instead_of_step(due: np.ndarray) -> _Calls:
  """A mask update takes a whole call, before the step."""
  at = np.repeat(np.arange(len(due)), 1 + due)[: len(due) - 1]
  return _calls_at(at, due[at] & (np.diff(at, prepend=-1) > 0), due)


def _calls_at(at: np.ndarray, updates: np.ndarray, due: np.ndarray) -> _Calls:
  seen = np.append(np.maximum(at - updates, 0), at[-1])
  return _Calls(_latest(due)[seen], updates)


def _latest(due: np.ndarray) -> np.ndarray:
  """Returns int[steps], the latest due step up to each step."""
  return np.maximum.accumulate(np.where(due, np.arange(len(due)), 0))


_CALLS: dict[Any, Callable[[np.ndarray], _Calls]] = {
  orders.step_then_update: _step_then_update,
  orders.update_then_step: _update_then_step,
  orders.update_instead_of_step: _update_instead_of_step,
}
