"""Batches decoded on the fly by Grain, for data sets larger than memory.

Order and crops are functions of a seed and the position in the run: they do not
depend on threads, workers, processes or interruptions. So there is no iterator
state to checkpoint; a resumed run opens the stream at its step.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from sparsejax.data import records
from sparsejax.data.splits import Split

Example = tuple[np.ndarray, int]


class Stream(NamedTuple):
  """Encoded examples, and the function that decodes one.

  Attributes:
    records: N encoded examples, such as a list.
    read: (record, random generator) -> uint8[H, W, C] image and label; splits
      for evaluation ignore the generator. `workers` need it, and the records,
      to be picklable.
    image_shape: H, W, C of the images that `read` returns.
    classes: number of classes K; the labels that `read` returns are in [0, K).
    workers: decoding processes; 0 decodes in threads of this process.
    threads: threads per process; 0 is one per core, or one per worker.
  """

  records: records.Records
  read: Callable[[Any, np.random.Generator], Example]
  image_shape: tuple[int, ...]
  classes: int
  workers: int = 0
  threads: int = 0

  @property
  def examples(self) -> int:
    """Number of examples N."""
    return len(self.records)

  @property
  def example(self) -> Split:
    """One blank image of label 0, for shape inference."""
    return Split(
      np.zeros((1, *self.image_shape), np.uint8), np.zeros(1, np.int32)
    )


class PaddedBatch(NamedTuple):
  """Rows of a batch that may end in padding.

  Attributes:
    images: uint8[b, H, W, C].
    labels: int32[b].
    valid: bool[b], false for padding.
  """

  images: np.ndarray
  labels: np.ndarray
  valid: np.ndarray

  @property
  def examples(self) -> Split:
    """The rows, padding included, for `Task.draw`."""
    return Split(self.images, self.labels)


def train_batches(
  stream: Stream,
  *,
  seed: int,
  batch_size: int,
  first_batch: int,
  rows: Sequence[int] | None = None,
) -> Iterator[PaddedBatch]:
  """Iterate over shuffled batches forever, from any batch of a run on.

  Each epoch is a new permutation of all examples, sampled before they are split
  over processes; the last incomplete batch of an epoch is dropped. A row of a
  batch has the same example and crop whoever reads it, so together any number
  of processes read each example of an epoch once, also after a resume with
  another number.

  Args:
    stream: N examples.
    seed: in [0, 2^32); determines permutations and crops.
    batch_size: global batch size B, at most N.
    first_batch: number of batches to skip, without reading them.
    rows: positions in the batch, in [0, B), to read; all of them by default.

  Returns:
    These rows of every batch, without padding. A damaged record raises
    `InputError` when its batch is decoded.
  """
  import grain  # Imported here: small data sets do not need Grain.

  epoch = stream.examples // batch_size * batch_size
  examples = (
    grain.MapDataset.range(stream.examples)
    .seed(seed)
    .shuffle()[:epoch]
    .repeat()
    .random_map(functools.partial(_read_valid, stream))
  )
  rows = range(batch_size) if rows is None else rows
  source = _Rows(examples, batch_size, rows, first_batch)
  return _prefetch(stream, grain.MapDataset.source(source), len(rows))


def eval_batches(
  stream: Stream, *, batch_size: int, rows: Sequence[int] | None = None
) -> Iterator[PaddedBatch]:
  """Iterate over every example once, in order, padded to full batches.

  Args:
    stream: N examples.
    batch_size: global batch size B.
    rows: as in `train_batches`.

  Returns:
    These rows of ceil(N / B) batches; over all rows, each example is valid
    exactly once. A damaged record raises as in `train_batches`.
  """
  import grain

  rows = range(batch_size) if rows is None else rows
  positions = range(math.ceil(stream.examples / batch_size) * batch_size)
  read = functools.partial(_read_or_pad, stream)
  source = grain.MapDataset.source(_Rows(positions, batch_size, rows, 0))
  return _prefetch(stream, source.map(read), len(rows))


@dataclasses.dataclass(frozen=True)
class _Rows:
  """Some rows of every batch of a sequence, as a source of Grain's.

  Attributes:
    examples: a multiple of B, or far more than are read.
    batch_size: B.
    rows: positions in a batch.
    first_batch: batches to skip.
  """

  examples: Any
  batch_size: int
  rows: Sequence[int]
  first_batch: int

  def __len__(self) -> int:
    batches = len(self.examples) // self.batch_size - self.first_batch
    return batches * len(self.rows)

  def __getitem__(self, index: int) -> Any:
    batch, row = divmod(index, len(self.rows))
    begin = (self.first_batch + batch) * self.batch_size
    return self.examples[begin + self.rows[row]]


def _prefetch(
  stream: Stream, examples: Any, size: int
) -> Iterator[PaddedBatch]:
  """Decodes ahead and stacks batches, in order.

  Threads decode single examples, two batches ahead. Of W worker processes each
  decodes every W-th batch, which keeps the order.
  """
  import grain

  if not stream.workers:
    threads = stream.threads or os.cpu_count() or 1
    options = grain.ReadOptions(threads, max(threads, 2 * size))
    return iter(examples.to_iter_dataset(options).batch(size, batch_fn=_stack))
  # Grain reads an absl flag before it starts them.
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  threads = stream.threads or 1
  return iter(
    examples.batch(size, batch_fn=_stack)
    .to_iter_dataset(grain.ReadOptions(threads, threads))
    .mp_prefetch(
      grain.MultiprocessingOptions(stream.workers, per_worker_buffer_size=1)
    )
  )


def _read_valid(
  stream: Stream, position: int, random: np.random.Generator
) -> tuple[np.ndarray, int, bool]:
  def decode(record: Any) -> Example:
    image, label = stream.read(record, random)
    return image, records.check_label(label, stream.classes)

  return *records.read(stream.records, position, decode), True


def _read_or_pad(stream: Stream, position: int) -> tuple[np.ndarray, int, bool]:
  if position >= stream.examples:
    return np.zeros(stream.image_shape, np.uint8), 0, False
  # Evaluation ignores the generator; if it did not, it would still be fixed.
  random = np.random.default_rng(position)
  return _read_valid(stream, position, random)


def _stack(examples: Sequence[tuple[np.ndarray, int, bool]]) -> PaddedBatch:
  images, labels, valid = zip(*examples, strict=True)
  return PaddedBatch(
    np.stack(images), np.array(labels, np.int32), np.array(valid, bool)
  )
