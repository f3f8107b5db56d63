"""What a config describes: everything that a run needs to know."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax

from sparsejax import command_line
from sparsejax.components import leaves
from sparsejax.data import Dataset
from sparsejax.training import recipes, run_flops, train_state
from sparsejax.training.checkpointing import init_from
from sparsejax.training.config.steps import Steps

Rule = str | float | leaves.Override
"""What `sparsify` takes for a parameter in `overrides`."""


class Experiment(NamedTuple):
  """Everything that a run needs to know.

  Attributes:
    config: the resolved config as plain JSON values.
    dataset: numpy arrays, or streams.
    recipe: the method, and what else it needs from the run.
    source_run: the run whose weights and masks this one starts from, or `None`.
    model: the Flax module.
    inner: the optimizer that `sparsify` wraps.
    setup: the static side of the compiled step.
    steps: when things happen.
    init_key: typed key of the first parameters.
    data_key: typed key of data order and draws.
    mask_key: typed key of the masks.
    costs: multiply-adds of the model.
    overrides: which leaves are dense, stacked, or have a fixed sparsity, for
      `sparsify`.
    target_sparsity: the requested sparsity; `None` if the method has none.
    warnings: what is allowed but probably not intended.
    of_seeds: the experiments of the single seeds, if there are several;
      otherwise empty.
  """

  config: dict[str, Any]
  dataset: Dataset
  recipe: recipes.Recipe
  source_run: init_from.SourceRun | None
  model: nn.Module
  inner: optax.GradientTransformation
  setup: train_state.Setup
  steps: Steps
  init_key: jax.Array
  data_key: jax.Array
  mask_key: jax.Array
  costs: run_flops.ModelCosts
  overrides: dict[str, Rule]
  target_sparsity: float | None
  warnings: tuple[str, ...]
  of_seeds: tuple["Experiment", ...] = ()

  @property
  def each(self) -> tuple["Experiment", ...]:
    """The experiment of every seed."""
    return self.of_seeds or (self,)

  @property
  def seed(self) -> int:
    """The first seed."""
    return self.config["seed"]

  @property
  def select(self) -> tuple[str, ...] | None:
    """Which leaves are sparse, for `sparsify`."""
    return tuple(self.config["select"]) or None


def overrides(
  config: Mapping[str, Any], model: nn.Module, names: Sequence[str]
) -> dict[str, Rule]:
  """Find what is special about some parameters, for `sparsify`.

  Args:
    config: resolved; `sparsities` and `dense` are read.
    model: may have `layer_axes`, and `dense`, which holds unless the config
      selects leaves itself.
    names: of all parameters.

  Returns:
    Glob or name -> sparsity, "dense" or `Override`.

  Raises:
    InputError: if an item of `sparsities` has not the form `GLOB=NUMBER`.
  """
  axes = {
    name: axis
    for glob, axis in getattr(model, "layer_axes", {}).items()
    for name in fnmatch.filter(names, glob)
  }
  found: dict[str, Rule] = {
    name: leaves.Override(axis=axis) for name, axis in axes.items()
  }
  for glob, sparsity in _sparsities(config).items():
    stacked = [name for name in fnmatch.filter(names, glob) if name in axes]
    found[glob] = sparsity
    for name in stacked:  # Later than the glob, so these win.
      found[name] = leaves.Override(sparsity, axes[name])
  by_model = () if config["select"] else getattr(model, "dense", ())
  for glob in by_model:
    found |= dict.fromkeys(fnmatch.filter(names, glob), "dense")
  return found | dict.fromkeys(config["dense"], "dense")


def _sparsities(config: Mapping[str, Any]) -> dict[str, float]:
  """Returns glob -> sparsity, from `config.sparsities`."""
  found: dict[str, float] = {}
  for item in config["sparsities"]:
    glob, _, value = str(item).rpartition("=")
    try:
      found[glob] = float(value)
    except ValueError:
      glob = ""
    if not glob:
      raise command_line.InputError(
        f"`config.sparsities` must hold items like 'classifier/*=0.8', got"
        f" {item!r}."
      )
  return found
