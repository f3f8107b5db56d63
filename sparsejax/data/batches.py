"""Batches, their order and their augmentation, as functions of (key, step).

Nothing here remembers anything, so there is nothing to checkpoint: the batch
of a step is the same whether the run was interrupted before it or not.
"""

import jax
import jax.numpy as jnp

from sparsejax.data.dataset import Array, Split

# Folded into the key, so that order and augmentation draw different bits.
_ORDER, _SHIFT = 0, 1


def orders(
  key: jax.Array, first_epoch: jax.Array, *, epochs: int, examples: int
) -> jax.Array:
  """Draw the order of the examples in several epochs.

  Args:
    key: typed key of the run's data.
    first_epoch: int32[], may be traced.
    epochs: how many epochs to draw, static.
    examples: N, static.

  Returns:
    int32[epochs, N]; row i is the order of epoch `first_epoch + i`, a
    permutation that depends on the key and that epoch alone.
  """
  key = jax.random.fold_in(key, _ORDER)

  def order(epoch: jax.Array) -> jax.Array:
    return jax.random.permutation(jax.random.fold_in(key, epoch), examples)

  return jax.vmap(order)(first_epoch + jnp.arange(epochs))


def take(split: Split, order: jax.Array, batch: jax.Array, size: int) -> Split:
  """Take one batch of a split.

  Args:
    split: uint8[N, H, W, C] images, int32[N] labels.
    order: int32[N], a row of `orders`.
    batch: int32[], index of the batch within the epoch, below N // size.
    size: examples in a batch B, static.

  Returns:
    The batch as a `Split` of B examples.
  """
  index = jax.lax.dynamic_slice_in_dim(order, batch * size, size)
  images, labels = jnp.asarray(split.images), jnp.asarray(split.labels)
  return Split(images[index], labels[index])


def shift(
  key: jax.Array, step: jax.Array, images: Array, max_shift: int
) -> jax.Array:
  """Move each image by up to `max_shift` pixels along both axes.

  Args:
    key: typed key of the run's data.
    step: int32[], the step that the batch belongs to.
    images: [B, H, W, C]; what moves in from outside is 0.
    max_shift: static; 0 returns the images as they are.

  Returns:
    The moved images, of the same shape and dtype.
  """
  if max_shift == 0:
    return jnp.asarray(images)
  count, height, width, _ = images.shape
  key = jax.random.fold_in(jax.random.fold_in(key, _SHIFT), step)
  moves = jax.random.randint(key, (2, count, 1), 0, 2 * max_shift + 1)
  edge = (max_shift, max_shift)
  padded = jnp.pad(images, ((0, 0), edge, edge, (0, 0)))
  rows = moves[0] + jnp.arange(height)
  columns = moves[1] + jnp.arange(width)
  example = jnp.arange(count)[:, None, None]
  return padded[example, rows[:, :, None], columns[:, None, :]]


def normalize(images: Array, mean: float, std: float) -> jax.Array:
  """Returns float32 images with the train split's mean 0 and deviation 1."""
  return (jnp.asarray(images, jnp.float32) - mean) / std
