"""Budgets by global magnitude, from the weights of a finished run."""

import numpy as np
import pytest
from helpers import tiers

import sparsejax
from sparsejax import command_line, train
from sparsejax.components import trees
from sparsejax.training import initial_state, sharding
from sparsejax.training.checkpointing import reading
from sparsejax.training.config import build, command

SMALL = "--config.model.hidden=(24, 16)"
BUDGETS = "--config.init_mode=budgets"
BY_MAGNITUDE = "--config.method.scope=global_magnitude"


@pytest.fixture(scope="module")
def dense_run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "dense"
  config = "--config=digits:dense,runlocal"
  assert train.main([config, SMALL, f"--workdir={workdir}"]) == 0
  return workdir


def built(options, *changes):
  argv = [f"--config=digits:{options},runlocal", SMALL, *changes]
  return build.build(command.parse(argv).config)


def active_by_layer(workdir, sparsity):
  """The largest weights of the dense network, counted by layer."""
  params = reading.read(workdir, 22)["params"]
  kernels = {
    name: np.abs(leaf)
    for name, leaf in trees.named_leaves(params)
    if name.endswith("kernel")
  }
  values = np.concatenate([leaf.ravel() for leaf in kernels.values()])
  kept = int(np.floor(values.size * (1 - sparsity) + 1e-6))
  threshold = np.sort(values)[-kept]
  return {name: int((x >= threshold).sum()) for name, x in kernels.items()}


@pytest.mark.parametrize(
  "options, where",
  tiers.every(
    2,
    [("static,sparsity=0.8", "distribution"), ("snip,sparsity=0.8", "scope")],
  ),
)
def test_layers_have_the_budgets_of_the_pruned_run(dense_run, options, where):
  chosen = built(
    options,
    f"--config.method.{where}=global_magnitude",
    f"--config.init_from={dense_run}",
    BUDGETS,
  )
  assert chosen.source_run is None  # Its weights and masks are not used.
  state = initial_state.create(chosen, sharding.make_mesh())
  masks = sparsejax.get_masks(state.opt_state)
  found = {name: int(x.sum()) for name, x in trees.named_leaves(masks)}
  assert found == active_by_layer(dense_run, 0.8)


@pytest.mark.parametrize(
  "options, changes, message",
  [
    ("gmp", [BY_MAGNITUDE], "Give its workdir: --config.init_from=RUN"),
    ("gmp", [BY_MAGNITUDE, "--config.init_from={run}"], "init_mode=budgets"),
    (
      "gmp",
      [BUDGETS, "--config.init_from={run}"],
      "set `config.method.scope` or `config.method.distribution`",
    ),
    (
      "gmp",
      [
        BY_MAGNITUDE,
        BUDGETS,
        "--config.init_from={run}",
        "--config.model.hidden=(8,)",
      ],
      "does not fit",
    ),
    (
      "gmp",
      [BY_MAGNITUDE, BUDGETS, "--config.init_from={run}/none"],
      "is not the workdir of a run",
    ),
    ("gmp", ["--config.method.scope=global_magnitud"], "global_magnitude"),
  ],
)
def test_what_is_refused(dense_run, options, changes, message):
  changes = [change.format(run=dense_run) for change in changes]
  if any("hidden" in change for change in changes):
    argv = [f"--config=digits:{options},runlocal", *changes]
    with pytest.raises(command_line.InputError, match=message):
      build.build(command.parse(argv).config)
    return
  with pytest.raises(command_line.InputError, match=message):
    built(options, *changes)
