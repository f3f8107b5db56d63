"""The result of a finished run: the content of `summary.json`."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax

import sparsejax
from sparsejax.state import map_sparse_states
from sparsejax.tasks import Measure
from sparsejax.training import outcomes, run_flops, sharding, train_state
from sparsejax.training.config import keys
from sparsejax.training.config.experiment import Experiment

_NOT_OF_SEEDS = (
  "seed",
  "steps",
  "selected_step",
  "replicas",
  "devices",
  "processes",
  "resumed_from_step",
)


def summarize(
  experiment: Experiment, outcome: outcomes.Outcome, *, replicas: int = 1
) -> dict[str, Any]:
  """Collect the result of a run, or of one replica.

  Args:
    experiment: what was trained, with one seed.
    outcome: how the run ended; it is done.
    replicas: how many were trained in one program; times are those of all.

  Returns:
    Plain values. Accuracies, counts, sparsities and inference FLOPs describe
    `selected_step`; `training_flops` and `mask_updates` cover all `steps`.
    Times cover the steps since the last start, those that begin with `run_` all
    starts. `measures` says what the task measures. Accuracies are in [0, 1];
    counts and sparsities are over the sparse leaves. Only `resumed_from_step`
    and keys ending in `_seconds` may differ between an interrupted run and one
    that was not.
  """
  selected = outcome.selected
  assert selected is not None
  costs = experiment.costs
  params, opt_state, active = sharding.fetch(_counted(selected.state))
  counters = sharding.fetch(outcome.state.counters)
  params = experiment.setup.layout.shapes(params, opt_state)
  found = sparsejax.summary(params, opt_state, costs=costs.table)
  order = {name: index for index, name in enumerate(costs.table.kernels)}
  config, source = experiment.config, experiment.source_run
  return {
    "method": config["method"]["name"],
    "model": config["model"]["name"],
    "data": config["data"]["name"],
    "task": experiment.dataset.task.name,
    "measures": [_measure(each) for each in experiment.dataset.task.measures],
    "seed": config["seed"],
    "steps": outcome.step,
    "selected_step": selected.step,
    "epochs_multiplier": config["epochs_multiplier"],
    "init_method": source and source.method,
    "init_mode": source and config["init_mode"],
    "init_step": source and source.first_step + config["init_step"],
    **selected.evaluation,
    "sparsity": found.sparsity,
    "target_sparsity": experiment.target_sparsity,
    "equivalent_sparsity": experiment.recipe.equivalent_sparsity,
    "active": found.active,
    "requested": found.requested,
    "total": found.total,
    "active_units": found.active_units,
    "total_units": found.total_units,
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    "kernel_parameters": train_state.kernel_parameters(params),
    "itop_rate": found.itop_rate,
    "inference_macs": found.macs,
    "dense_inference_macs": found.dense_macs,
    **run_flops.record(counters._replace(active=active), outcome.step, costs),
    "mask_updates": int(counters.mask_updates),
    "units": [each._asdict() for each in found.units],
    "layers": [
      _layer(layer, order) | {"pruned": pruned, "regrown": regrown}
      for layer, pruned, regrown in zip(
        found.layers, *run_flops.changes(counters), strict=True
      )
    ],
    "warnings": [*experiment.warnings, *found.warnings],
    "replicas": replicas,
    "devices": jax.device_count(),
    "processes": jax.process_count(),
    "resumed_from_step": outcome.resumed_from_step,
    "compile_seconds": outcome.compile_seconds,
    "train_seconds": outcome.train_seconds,
    "mask_update_seconds": outcome.mask_update_seconds,
    **outcome.seconds,
  }


def summarize_seeds(
  config: Mapping[str, Any], summaries: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
  """Collect the result of a run of several seeds.

  Args:
    config: the resolved config.
    summaries: of the seeds, in order.

  Returns:
    Plain values: what is the same for all seeds, and `mean` and `deviation`,
    the sample standard deviation, of every number that all of them have.
  """
  first = summaries[0]
  means, deviations = {}, {}
  for name in first:
    values = [summary[name] for summary in summaries]
    if name in _NOT_OF_SEEDS or name.endswith("_seconds"):
      continue  # The same for all, or the clock's.
    if all(map(_is_number, values)):
      means[name] = statistics.mean(values)
      deviations[name] = statistics.stdev(values)
  same = ("method", "model", "data", "task", "measures", "steps", "replicas")
  return {
    **{name: first[name] for name in same},
    "seeds": list(keys.seeds(config)),
    "mean": means,
    "deviation": deviations,
    **{k: v for k, v in first.items() if k.endswith("_seconds")},
  }


def _is_number(value: Any) -> bool:
  plain = isinstance(value, int | float) and not isinstance(value, bool)
  return plain and math.isfinite(value)


def _measure(measure: Measure) -> dict[str, Any]:
  """Returns what readers of the records need to know of a measure."""
  return {
    "name": measure.name,
    "title": measure.title,
    "percent": "%" in measure.text,
    "higher_is_better": measure.higher_is_better,
  }


def _counted(state: train_state.TrainState) -> tuple[Any, Any, Any]:
  """Returns what the summary counts, without the optimizer's large state."""
  opt_state = map_sparse_states(
    lambda each: each._replace(inner_state=(), latent=()), state.opt_state
  )
  return state.params, opt_state, state.counters.active


def _layer(
  layer: sparsejax.LayerSummary, order: Mapping[str, int]
) -> dict[str, Any]:
  """Returns the entry of a layer, with its position in the forward pass."""
  return {
    "name": layer.name,
    "position": order.get(layer.name.split("[")[0], len(order)),
    "macs": layer.macs,
    "shape": list(layer.shape),
    "total": layer.total,
    "active": layer.active,
    "requested": layer.requested,
    "ever_active": layer.ever_active,
    "sparsity": layer.sparsity,
  }
