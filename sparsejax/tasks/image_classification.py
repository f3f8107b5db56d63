"""Image classification: cross-entropy and accuracy."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.tasks import cross_entropy
from sparsejax.tasks.task import Batch, Measure, Task

Array = jax.Array | np.ndarray

ACCURACY = Measure("accuracy", "accuracy", "acc", "{:.2%}", "{:.1%}")


def image_classification(
  *,
  mean: Array | float,
  std: Array | float,
  augment: Callable[[jax.Array, jax.Array], jax.Array],
) -> Task:
  """Classify images.

  Args:
    mean: mean training pixel in uint8 units; broadcasts against an image.
    std: standard deviation of the training pixels, likewise.
    augment: (key, uint8 images) -> uint8 images, for training batches.

  Returns:
    The task; its examples have `images`, uint8[B, H, W, C], and `labels`,
    int32[B]. The model maps float32 images to [B, K] logits.
  """

  def draw(key: jax.Array | None, examples: Any) -> Batch:
    images = jnp.asarray(examples.images)
    if key is not None:
      images = augment(key, images)
    return Batch(normalize(images, mean, std), jnp.asarray(examples.labels))

  return Task(
    name="image_classification",
    draw=draw,
    loss=cross_entropy.losses,
    metrics=lambda logits, labels: {"accuracy": logits.argmax(-1) == labels},
    measures=(ACCURACY,),
    smoothed=lambda smoothing: functools.partial(
      cross_entropy.losses, smoothing=smoothing
    ),
  )


def normalize(
  images: Array, mean: Array | float, std: Array | float
) -> jax.Array:
  """Returns float32 images, standardized with the mean and std of training."""
  return (jnp.asarray(images, jnp.float32) - mean) / std
