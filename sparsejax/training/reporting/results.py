"""The result of a run that is done: what `summary.json` holds."""

from collections.abc import Mapping
from typing import Any

import jax

import sparsejax
from sparsejax.training import flops, loop, mesh
from sparsejax.training.config import build


def summarize(
  experiment: build.Experiment, outcome: loop.Outcome
) -> dict[str, Any]:
  """Collect the result of a run.

  Args:
    experiment: what was trained.
    outcome: how it ended; it is done.

  Returns:
    Plain values. Accuracies, counts, sparsities and the FLOPs of inference are
    of `selected_step`; `training_flops` and `mask_updates` are of all `steps`,
    times of those since the last start. Accuracies are in [0, 1]; counts and
    sparsities are of the sparse leaves alone. Only `resumed_from_step` and the
    keys that end in `_seconds` may differ between a run that was interrupted
    and one that was not.
  """
  state, prices = mesh.fetch(outcome.selected), experiment.prices
  spent = mesh.fetch(outcome.state.meter)
  found = sparsejax.summary(state.params, state.opt_state, costs=prices.costs)
  order = {name: index for index, name in enumerate(prices.costs.kernels)}
  config, before = experiment.config, experiment.earlier
  return {
    "method": config["method"]["name"],
    "model": config["model"]["name"],
    "data": config["data"]["name"],
    "seed": config["seed"],
    "steps": outcome.step,
    "selected_step": outcome.selected_step,
    "epochs_multiplier": config["epochs_multiplier"],
    "init_method": before and before.method,
    "init_mode": before and config["init_mode"],
    "init_step": before and before.first_step + config["init_step"],
    **outcome.evaluation,
    "sparsity": found.sparsity,
    "target_sparsity": experiment.target_sparsity,
    "stands_for_sparsity": experiment.plan.stands_for,
    "active": found.active,
    "requested": found.requested,
    "total": found.total,
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    "itop_rate": found.itop_rate,
    "inference_macs": found.macs,
    "dense_inference_macs": found.dense_macs,
    **flops.row(
      spent._replace(active=state.meter.active), outcome.step, prices
    ),
    "mask_updates": int(spent.mask_updates),
    "layers": [_layer(layer, order) for layer in found.layers],
    "warnings": [*experiment.warnings, *found.warnings],
    "devices": jax.device_count(),
    "processes": jax.process_count(),
    "resumed_from_step": outcome.resumed_from_step,
    "compile_seconds": outcome.compile_seconds,
    "train_seconds": outcome.train_seconds,
    "mask_update_seconds": outcome.mask_update_seconds,
  }


def _layer(
  layer: sparsejax.LayerSummary, order: Mapping[str, int]
) -> dict[str, Any]:
  """Returns what is told of a layer, its place in the network included."""
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
