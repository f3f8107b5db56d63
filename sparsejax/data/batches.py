"""Shuffling, batching and normalization as pure functions of (key, step).

There is no iterator state to checkpoint: a resumed run sees the same batches as
an uninterrupted one.
"""

import jax
import jax.numpy as jnp

from sparsejax.data.dataset import Array, Split

# Folded into the key, so that shuffling and augmentation use different bits.
_SHUFFLE, _AUGMENT = 0, 1


def permutations(
  key: jax.Array, first_epoch: jax.Array, *, epochs: int, examples: int
) -> jax.Array:
  """Sample the order of the examples for several epochs.

  Args:
    key: typed PRNG key of the run's data.
    first_epoch: int32[]; may be traced.
    epochs: number of epochs; static.
    examples: number of examples N; static.

  Returns:
    int32[epochs, N]; row i is the permutation of epoch `first_epoch + i` and
    depends only on the key and that epoch.
  """
  key = jax.random.fold_in(key, _SHUFFLE)

  def permutation(epoch: jax.Array) -> jax.Array:
    return jax.random.permutation(jax.random.fold_in(key, epoch), examples)

  return jax.vmap(permutation)(first_epoch + jnp.arange(epochs))


def take(split: Split, order: jax.Array, batch: jax.Array, size: int) -> Split:
  """Take one batch of a split.

  Args:
    split: uint8[N, H, W, C] images, int32[N] labels.
    order: int32[N], one row of `permutations`.
    batch: int32[], index of the batch within the epoch, below N // size.
    size: batch size B; static.

  Returns:
    The batch as a `Split` of B examples.
  """
  index = jax.lax.dynamic_slice_in_dim(order, batch * size, size)
  images, labels = jnp.asarray(split.images), jnp.asarray(split.labels)
  return Split(images[index], labels[index])


def augment_key(key: jax.Array, step: jax.Array) -> jax.Array:
  """Returns the PRNG key for augmenting the batch of a step."""
  return jax.random.fold_in(jax.random.fold_in(key, _AUGMENT), step)


def stream_seed(key: jax.Array) -> int:
  """Returns the seed, in [0, 2^32), for the order and crops of a stream."""
  # Grain shuffles epoch e with seed + e: adjacent seeds would share epochs.
  return int(jax.random.bits(jax.random.fold_in(key, _SHUFFLE)))


def normalize(
  images: Array, mean: Array | float, std: Array | float
) -> jax.Array:
  """Returns float32 images, standardized with the mean and std of training."""
  return (jnp.asarray(images, jnp.float32) - mean) / std
