"""What a config describes: everything that a run needs to know."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax

from sparsejax import command_line
from sparsejax.data import Dataset
from sparsejax.training import recipes, run_flops, train_state
from sparsejax.training.checkpointing import init_from
from sparsejax.training.config.steps import Steps


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
    data_key: typed key of data order and augmentation.
    mask_key: typed key of the masks.
    costs: multiply-adds of the model.
    target_sparsity: the requested sparsity; `None` if the method has none.
    warnings: what is allowed but probably not intended.
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
  target_sparsity: float | None
  warnings: tuple[str, ...]

  @property
  def select(self) -> tuple[str, ...] | None:
    """Which leaves are sparse, for `sparsify`."""
    return tuple(self.config["select"]) or None

  @property
  def overrides(self) -> dict[str, str | float]:
    """Which leaves are dense or have a fixed sparsity, for `sparsify`."""
    return overrides(self.config)


def overrides(config: Mapping[str, Any]) -> dict[str, str | float]:
  """Returns glob -> sparsity or "dense", for `sparsify`.

  Args:
    config: resolved; `sparsities` and `dense` are read.

  Raises:
    InputError: if an item of `sparsities` has not the form `GLOB=NUMBER`.
  """
  found: dict[str, str | float] = {}
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
  return found | {glob: "dense" for glob in config["dense"]}
