"""Batches for scores at initialization, as the task draws for evaluation."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.tasks import Batch
from sparsejax.training.recipes.recipe import MaskInputs

ScoringData = Callable[[MaskInputs], Batch]
"""Returns n batches, stacked along a leading axis."""


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

  def load(inputs: MaskInputs) -> Batch:
    found = itertools.islice(inputs.examples(batch_size), count)
    return _stack([_draw(inputs, examples) for examples in found])

  return load


def balanced(classes: int, per_class: int, *, batch_count: int) -> ScoringData:
  """Equally many examples of every class, also within each batch.

  Args:
    classes: number of classes K; the targets of an example are its class.
    per_class: examples per class, a positive multiple of `batch_count`.
    batch_count: number of batches.
  """
  if per_class < 1 or per_class % batch_count:
    raise ValueError(
      f"`samples_per_class` must be a positive multiple of {batch_count}, got"
      f" {per_class}."
    )

  def load(inputs: MaskInputs) -> Batch:
    found = _by_class(inputs, classes, per_class)
    each = [_stack(of_class) for of_class in found]
    # From [K, per class, ...] to alternating classes, in batches.
    return jax.tree.map(
      lambda *x: jnp.stack(x, axis=1).reshape(batch_count, -1, *x[0].shape[1:]),
      *each,
    )

  return load


def ones(inputs: MaskInputs) -> Batch:
  """No data: a single input of ones, and targets of zeros."""
  blank = _draw(inputs, inputs.example)
  return Batch(
    jax.tree.map(lambda x: jnp.ones((1, *x.shape), x.dtype), blank.inputs),
    jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), blank.targets),
  )


def _by_class(
  inputs: MaskInputs, classes: int, per_class: int
) -> list[list[Batch]]:
  """Returns single examples, drawn, for each class."""
  found: list[list[Batch]] = [[] for _ in range(classes)]
  # At most one epoch: the next one has the same examples.
  for examples in itertools.islice(
    inputs.examples(classes), inputs.train_examples // classes
  ):
    batch = jax.tree.map(np.asarray, _draw(inputs, examples))
    for index, label in enumerate(np.asarray(batch.targets)):
      if len(found[label]) < per_class:
        found[label].append(jax.tree.map(lambda x, i=index: x[i], batch))
    if sum(map(len, found)) == per_class * classes:
      break
  short = min(range(classes), key=lambda label: len(found[label]))
  if len(found[short]) < per_class:
    raise ValueError(
      f"`samples_per_class` is {per_class}, but class {short} has only"
      f" {len(found[short])} training examples."
    )
  return found


def _draw(inputs: MaskInputs, examples: Any) -> Batch:
  return inputs.setup.task.draw(None, examples)


def _stack(batches: list[Batch]) -> Batch:
  return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *batches)
