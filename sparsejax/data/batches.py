"""Shuffling and batching as pure functions of (key, step).

There is no iterator state to checkpoint: a resumed run sees the same batches as
an uninterrupted one.
"""

from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.data.splits import Resident

# Folded into the key, so that shuffling and augmentation use different bits.
_SHUFFLE, _DRAW = 0, 1


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


def take(split: Resident, order: jax.Array, batch: jax.Array, size: int) -> Any:
  """Take one batch of a split.

  Args:
    split: N examples.
    order: int32[N], one row of `permutations`.
    batch: int32[], index of the batch within the epoch, below N // size.
    size: batch size B; static.

  Returns:
    B examples, as the split stores them.
  """
  return split.take(jax.lax.dynamic_slice_in_dim(order, batch * size, size))


def draw_key(key: jax.Array, step: jax.Array) -> jax.Array:
  """Returns the PRNG key for drawing the batch of a step."""
  return jax.random.fold_in(jax.random.fold_in(key, _DRAW), step)


def stream_seed(key: jax.Array) -> int:
  """Returns the seed, in [0, 2^32), for the order and crops of a stream."""
  # Grain shuffles epoch e with seed + e: adjacent seeds would share epochs.
  return int(jax.random.bits(jax.random.fold_in(key, _SHUFFLE)))
