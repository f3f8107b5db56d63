"""The state at step 0 of a run, with its initial masks."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import sparsejax
from sparsejax import command_line
from sparsejax.data import Dataset, Stream, batches, streams
from sparsejax.training import (
  processes,
  recipes,
  sharding,
  train_state,
  weight_sharding,
)
from sparsejax.training.checkpointing import init_from
from sparsejax.training.config.experiment import Experiment
from sparsejax.training.train_state import TrainState, Weights

# Folded into the mask key for scoring; `sparsify` folds in step numbers.
_SCORING = 2**31 - 1


def create(
  experiment: Experiment,
  mesh: Mesh,
  *,
  save_weights: Callable[[Weights], None] = lambda weights: None,
) -> TrainState:
  """Create the state at step 0.

  Weights are initialized or loaded from `config.init_from`, then saved; then
  the recipe computes initial masks, or leaves that to the method.

  Args:
    experiment: what to train.
    mesh: device mesh.
    save_weights: called with the dense weights.

  Returns:
    The state, sharded as `abstract` says.

  Raises:
    InputError: if the source run does not fit, or the masks cannot be computed.
  """
  setup, places = experiment.setup, sharding.of(abstract(experiment, mesh))
  placed = Weights(places.params, places.model_state)
  initialize = jax.jit(
    functools.partial(
      train_state.init_weights,
      setup,
      experiment.init_key,
      experiment.dataset.example,
    ),
    out_shardings=placed,
  )
  weights, source = initialize(), None
  if experiment.source_run is not None:
    weights, source = init_from.load(
      experiment.source_run,
      experiment.config["init_mode"],
      experiment.config["init_step"],
      sharding.fetch(weights),
    )
    weights = sharding.put(weights, placed)
  save_weights(weights)
  masks = None
  if experiment.recipe.initial_masks is not None:
    params, masks = _initial_network(
      experiment, experiment.recipe.initial_masks, weights, source
    )
    if params is not None:
      weights = weights._replace(params=sharding.put(params, placed.params))
    masks = sharding.put(
      masks, weight_sharding.follow(masks, weights.params, placed.params, mesh)
    )
  start: Any = jax.jit(
    lambda weights, masks: train_state.from_weights(
      setup, weights, experiment.data_key, masks
    ),
    out_shardings=places,
  )
  return jax.block_until_ready(start(weights, masks))


def abstract(experiment: Experiment, mesh: Mesh) -> TrainState:
  """Returns the shapes of the state, with the shardings of `config.mesh`.

  What belongs to a parameter lies where it lies; all else is replicated.

  Args:
    experiment: what to train.
    mesh: device mesh.

  Raises:
    InputError: if a rule of the config does not fit the parameters.
  """
  shapes = jax.eval_shape(
    functools.partial(
      train_state.init,
      experiment.setup,
      experiment.init_key,
      experiment.data_key,
      experiment.dataset.example,
    )
  )
  params, rules = shapes.params, experiment.config["mesh"]["rules"]
  placed = weight_sharding.shardings(params, mesh, rules)
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    weight_sharding.follow(shapes, params, placed, mesh),
  )


def sparse_leaves(abstract: TrainState) -> tuple[str, ...]:
  """Returns the names of the parameters that have a mask."""
  masks = jax.eval_shape(sparsejax.get_masks, abstract.opt_state)
  return tuple(
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, _ in jax.tree.leaves_with_path(masks)
  )


def _initial_network(
  experiment: Experiment,
  initial_masks: recipes.InitialMasks,
  weights: Weights,
  source: recipes.SparseNetwork | None,
) -> recipes.SparseNetwork:
  """Computes masks in every process, and uses those of process 0.

  Equal devices compute equal masks; the broadcast guarantees it. Parameters are
  None where those of the weights stay.
  """
  key = jax.random.fold_in(experiment.mask_key, _SCORING)
  inputs = recipes.MaskInputs(
    setup=experiment.setup,
    weights=sharding.fetch(weights),
    examples=functools.partial(examples, experiment.dataset, key),
    train_examples=experiment.dataset.train.examples,
    example=experiment.dataset.example,
    key=experiment.mask_key,
    source=source,
    select=experiment.select,
    overrides=experiment.overrides,
  )
  try:
    found = initial_masks(inputs)
  except command_line.InputError:
    raise  # It says what is wrong, such as a damaged record of the data set.
  except ValueError as error:
    raise command_line.InputError(
      f"`config.method` cannot compute its initial masks: {error}"
    ) from error
  if not isinstance(found, recipes.SparseNetwork):
    found = recipes.SparseNetwork(None, found)
  on_host = jax.tree.map(np.asarray, found)
  return processes.broadcast_from_first(on_host)


def examples(dataset: Dataset, key: jax.Array, size: int) -> Iterator[Any]:
  """Yields batches of the training split, endlessly and as it stores them.

  A stream decodes its records as it does for training.
  """
  train = dataset.train
  if size > train.examples:
    raise ValueError(
      f"`batch_size` must be at most {train.examples}, the number of training"
      f" examples, got {size}."
    )
  seed = batches.stream_seed(key)
  if isinstance(train, Stream):
    for batch in streams.train_batches(
      train, seed=seed, batch_size=size, first_batch=0
    ):
      yield batch.examples
    return
  # The streams of RandomState are frozen; those of default_rng may change.
  random = np.random.RandomState(seed)
  on_host = jax.tree.map(np.asarray, train)
  while True:
    order = random.permutation(train.examples)
    for begin in range(0, train.examples - size + 1, size):
      yield on_host.take(order[begin : begin + size])
