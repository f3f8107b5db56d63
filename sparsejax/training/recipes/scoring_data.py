"""Batches for scores at initialization: normalized, without augmentation."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.data import Split, batches
from sparsejax.training.recipes.recipe import MaskInputs

# Returns normalized inputs [n, B, H, W, C] and labels [n, B] of n batches.
ScoringData = Callable[[MaskInputs], tuple[jax.Array, jax.Array]]


def shuffled(count: int, batch_size: int) -> ScoringData:
  """The first batches in a random order.

  Args:
    count: number of batches, at least 1.
    batch_size: examples per batch, from 1 to the size of the training split.
  """
  if min(count, batch_size) < 1:
    raise ValueError(
      "`batches` and `batch_size` must be at least 1, got"
      f" {count}, {batch_size}."
    )

  def load(inputs: MaskInputs) -> tuple[jax.Array, jax.Array]:
    loaded = itertools.islice(inputs.examples(batch_size), count)
    return _normalized(inputs, jax.tree.map(lambda *x: np.stack(x), *loaded))

  return load


def balanced(classes: int, per_class: int, *, batch_count: int) -> ScoringData:
  """Equally many examples of every class, also within each batch.

  Args:
    classes: number of classes K.
    per_class: examples per class, a positive multiple of `batch_count`.
    batch_count: number of batches.
  """
  if per_class < 1 or per_class % batch_count:
    raise ValueError(
      f"`samples_per_class` must be a positive multiple of {batch_count}, got"
      f" {per_class}."
    )

  def load(inputs: MaskInputs) -> tuple[jax.Array, jax.Array]:
    found = _images_by_class(inputs, classes, per_class)
    images = np.stack([np.stack(of_class) for of_class in found], axis=1)
    labels = np.broadcast_to(
      np.arange(classes, dtype=np.int32), images.shape[:2]
    )
    shape = (batch_count, -1)
    return _normalized(
      inputs,
      Split(images.reshape(*shape, *images.shape[2:]), labels.reshape(shape)),
    )

  return load


def ones(inputs: MaskInputs) -> tuple[jax.Array, jax.Array]:
  """No data: a single input of ones, after normalization."""
  images = jnp.ones((1, 1, *inputs.image_shape), jnp.float32)
  return images, jnp.zeros((1, 1), jnp.int32)


def _images_by_class(
  inputs: MaskInputs, classes: int, per_class: int
) -> list[list[np.ndarray]]:
  found: list[list[np.ndarray]] = [[] for _ in range(classes)]
  # At most one epoch: the next one has the same examples.
  for images, labels in itertools.islice(
    inputs.examples(classes), inputs.train_examples // classes
  ):
    for image, label in zip(images, labels, strict=True):
      if len(found[label]) < per_class:
        found[label].append(image)
    if sum(map(len, found)) == per_class * classes:
      break
  short = min(range(classes), key=lambda label: len(found[label]))
  if len(found[short]) < per_class:
    raise ValueError(
      f"`samples_per_class` is {per_class}, but class {short} has only"
      f" {len(found[short])} training examples."
    )
  return found


def _normalized(
  inputs: MaskInputs, batch: Split
) -> tuple[jax.Array, jax.Array]:
  setup = inputs.setup
  images = batches.normalize(batch.images, setup.mean, setup.std)
  return images, jnp.asarray(batch.labels, jnp.int32)
