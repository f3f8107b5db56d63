"""Batches on the devices: replicated splits, or streams with prefetching.

Small data sets are copied to every device, and batches are selected inside the
compiled program. Large ones are streamed, with batches copied to the devices
ahead of time. There is no iterator state to save: the examples of a step are a
function of the data key and the step, which are both in the training state.
"""

import collections
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from sparsejax.data import Dataset, Resident, Stream, streams
from sparsejax.training import sharding

PREFETCH = 2
"""Batches on the devices in addition to the current one."""


def place_splits(dataset: Dataset, mesh: Mesh) -> dict[str, Resident | Stream]:
  """Copy the resident splits of a data set to every device.

  Args:
    dataset: resident or streamed.
    mesh: device mesh.

  Returns:
    "validation" if there is one, "test" and "train", in the order of the
    metrics.
  """
  splits = {
    "validation": dataset.validation,
    "test": dataset.test,
    "train": dataset.train,
  }
  return {
    name: split
    if isinstance(split, Stream)
    else sharding.replicate(split, mesh)
    for name, split in splits.items()
    if split is not None
  }


def train_batches(
  stream: Stream, *, seed: int, batch_size: int, first_step: int, mesh: Mesh
) -> Iterator[Any]:
  """Yields the batches of the steps from `first_step` on, prefetched.

  Args:
    stream: the training split.
    seed: of the data order.
    batch_size: global batch size B.
    first_step: completed steps.
    mesh: device mesh.
  """
  ahead: collections.deque[Any] = collections.deque()
  local = sharding.local_batch(mesh, batch_size)
  for batch in streams.train_batches(
    stream,
    seed=seed,
    batch_size=batch_size,
    first_batch=first_step,
    rows=local.rows,
  ):
    ahead.append(sharding.put_batch(batch.examples, local))
    if len(ahead) > PREFETCH:
      yield ahead.popleft()


def eval_batches(
  stream: Stream, *, batch_size: int, mesh: Mesh
) -> Iterator[tuple[Any, jax.Array]]:
  """Yields batches in order, each with bool[B], False for padding.

  Args:
    stream: the split to evaluate.
    batch_size: global batch size B.
    mesh: device mesh.
  """
  local = sharding.local_batch(mesh, batch_size)
  for padded in streams.eval_batches(
    stream, batch_size=batch_size, rows=local.rows
  ):
    batch = sharding.put_batch(padded, local)
    yield batch.examples, batch.valid


def batch_shapes(stream: Stream, *, batch_size: int, mesh: Mesh) -> Any:
  """Returns the shapes and shardings of a batch on the devices."""
  shard = sharding.batch_sharding(mesh)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      (batch_size, *x.shape[1:]), x.dtype, sharding=shard
    ),
    stream.example,
  )
