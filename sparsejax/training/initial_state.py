"""The first state of a run: its weights, and the masks that it begins with."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sparsejax import command_line
from sparsejax.data import Dataset, Split, Stream, batches, streams
from sparsejax.training import mesh, plans, processes, step
from sparsejax.training.checkpointing import init_from
from sparsejax.training.config import build

# Folded into the key of the masks; `sparsify` folds steps into it.
_SCORED = 2**31 - 1


def begin(
  experiment: build.Experiment,
  devices: Mesh,
  *,
  keep: Callable[[step.Weights], None] = lambda weights: None,
) -> step.TrainState:
  """Make the state at step 0.

  Weights are drawn, or those of an earlier run; then they are kept; then the
  plan draws masks, or leaves that to the method.

  Args:
    experiment: what to train.
    devices: the mesh.
    keep: is told the weights before any mask.

  Returns:
    The state, on all devices.

  Raises:
    InputError: if an earlier run does not fit, or masks cannot be drawn.
  """
  setup, whole = experiment.setup, mesh.replicated(devices)
  draw = jax.jit(
    functools.partial(
      step.initial_weights,
      setup,
      experiment.init_key,
      experiment.dataset.example,
    ),
    out_shardings=whole,
  )
  weights, found = draw(), None
  if experiment.earlier is not None:
    weights, found = init_from.load(
      experiment.earlier,
      experiment.config["init_mode"],
      experiment.config["init_step"],
      mesh.fetch(weights),
    )
    weights = mesh.replicate(weights, devices)
  keep(weights)
  masks = None
  if experiment.plan.first is not None:
    masks = _first_masks(experiment, experiment.plan.first, weights, found)
    masks = mesh.replicate(masks, devices)
  start: Any = jax.jit(
    lambda weights, masks: step.begin(
      setup, weights, experiment.data_key, masks
    ),
    out_shardings=whole,
  )
  return jax.block_until_ready(start(weights, masks))


def _first_masks(
  experiment: build.Experiment,
  first: plans.First,
  weights: step.Weights,
  found: plans.Found | None,
) -> Any:
  """Draws masks in every process; those of the first one count.

  Devices of one kind give the same masks; the exchange makes sure of it.
  """
  key = jax.random.fold_in(experiment.mask_key, _SCORED)
  view = plans.View(
    setup=experiment.setup,
    weights=mesh.fetch(weights),
    examples=functools.partial(_examples, experiment.dataset, key),
    train_examples=experiment.dataset.train.examples,
    image_shape=experiment.dataset.train.image_shape,
    key=experiment.mask_key,
    found=found,
    select=experiment.select,
    overrides=experiment.overrides,
  )
  try:
    masks = jax.tree.map(np.asarray, first(view))
  except ValueError as error:
    raise command_line.InputError(
      f"`config.method` cannot draw its first masks: {error}"
    ) from error
  return processes.of_the_first(masks)


def _examples(dataset: Dataset, key: jax.Array, size: int) -> Iterator[Split]:
  """Yields batches of the train split, without end and without augmentation.

  A stream reads as it does for training.
  """
  train = dataset.train
  if size > train.examples:
    raise ValueError(
      f"`batch_size` must be at most {train.examples}, the training examples,"
      f" got {size}."
    )
  if isinstance(train, Stream):
    for batch in streams.train_batches(
      train,
      seed=batches.stream_seed(key),
      batch_size=size,
      first_batch=0,
      shard=streams.Shard(0, 1),
    ):
      yield Split(batch.images, batch.labels)
    return
  # RandomState's streams are frozen; those of default_rng may change.
  random = np.random.RandomState(batches.stream_seed(key))
  images, labels = np.asarray(train.images), np.asarray(train.labels)
  while True:
    order = random.permutation(train.examples)
    for begin in range(0, train.examples - size + 1, size):
      index = order[begin : begin + size]
      yield Split(images[index], labels[index])
