"""The `Recipe` of a run, and the types of its parts."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax

from sparsejax.method import Method
from sparsejax.training.train_state import Setup, Weights


class SparseNetwork(NamedTuple):
  """The sparse network at the end of a run.

  Attributes:
    params: sparse parameters; None for those that there are.
    masks: bool masks, `MaskedNode` at dense leaves.
  """

  params: Any
  masks: Any


class MaskInputs(NamedTuple):
  """What initial masks are computed from; all arrays are process-local.

  Attributes:
    setup: static.
    weights: the dense network at step 0.
    examples: batch size -> endless batches of the training split, shuffled
      anew in every epoch.
    train_examples: number of examples in the training split.
    example: a blank example, as the split stores it.
    key: typed key.
    source: the network of the source run, if there is one.
    select: selected leaves, as for `sparsify`.
    overrides: per-layer overrides, as for `sparsify`.
  """

  setup: Setup
  weights: Weights
  examples: Callable[[int], Iterator[Any]]
  train_examples: int
  example: Any
  key: jax.Array
  source: SparseNetwork | None
  select: Any
  overrides: Any


class ModelSize(NamedTuple):
  """Counts the weights of a model, from shapes alone.

  Attributes:
    sparse_weights: module -> number of weights in its sparse leaves.
    parameters: module -> number of all its parameters.
  """

  sparse_weights: Callable[[nn.Module], int]
  parameters: Callable[[nn.Module], int]


@runtime_checkable
class InitialMasks(Protocol):
  """Computes the masks at step 0."""

  def __call__(self, inputs: MaskInputs, /) -> Any:
    """Returns a tree for `sparsify(..., masks=...)`.

    Or a `SparseNetwork`, whose parameters take the place of the weights.
    """
    ...


@runtime_checkable
class BuildModel(Protocol):
  """Builds the model of a run."""

  def __call__(
    self, make: Callable[..., nn.Module], size: ModelSize, /
  ) -> nn.Module:
    """Returns `make(**changes)`, with changes to the config's model."""
    ...


def build_as_configured(
  make: Callable[..., nn.Module], size: ModelSize
) -> nn.Module:
  """Builds the model of the config, without changes."""
  del size  # Nothing depends on it.
  return make()


class Recipe(NamedTuple):
  """A method, and what it needs from the run in addition.

  Attributes:
    method: how masks change during the run.
    initial_masks: computes the masks at step 0; `None` for those of `method`.
    build_model: builds the model.
    needs_init_from: whether the masks come from the run in
      `config.init_from`.
    equivalent_sparsity: the sparsity of the network that a dense one is
      compared with.
  """

  method: Method
  initial_masks: InitialMasks | None = None
  build_model: BuildModel = build_as_configured
  needs_init_from: bool = False
  equivalent_sparsity: float | None = None


def as_recipe(made: Method | Recipe) -> Recipe:
  """Wraps a plain method in a recipe."""
  return made if isinstance(made, Recipe) else Recipe(made)
