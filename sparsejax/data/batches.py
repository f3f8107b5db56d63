"""Batches, their order and their augmentation, as functions of (key, step).

Nothing here remembers anything, so there is nothing to checkpoint: the batch
of a step is the same whether the run was interrupted before it or not.
"""

import jax
import jax.numpy as jnp

from sparsejax.data.dataset import Array, Split

# Folded into the key, so that order and augmentation draw different bits.
_ORDER, _AUGMENT = 0, 1


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


def augment_key(key: jax.Array, step: jax.Array) -> jax.Array:
  """Returns the key that the augmentation of a step's batch draws from."""
  return jax.random.fold_in(jax.random.fold_in(key, _AUGMENT), step)


def stream_seed(key: jax.Array) -> int:
  """Returns the seed, in [0, 2^32), of a streamed run's order and crops."""
  # Grain orders epoch e by seed + e: neighbouring seeds would share epochs.
  return int(jax.random.bits(jax.random.fold_in(key, _ORDER)))


def normalize(
  images: Array, mean: Array | float, std: Array | float
) -> jax.Array:
  """Returns float32 images with the train split's mean 0 and deviation 1."""
  return (jnp.asarray(images, jnp.float32) - mean) / std
