"""Examples that are decoded while they are used, read by Grain.

The order is a function of a seed and the position in the run: the images that
a batch holds, and their crops, do not depend on threads, workers, processes,
or where the run was interrupted. So a pipeline has no state to save; a resume
opens it at its step.
"""

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

Example = tuple[np.ndarray, int]


class Stream(NamedTuple):
  """Examples by their index, and how one is read.

  Attributes:
    records: anything with a length N that gives a record for an index.
    read: turns a record and a random generator into uint8[H, W, C] and its
      label; a part that is only judged ignores the generator. With `workers`
      it must be picklable, as the records.
    image_shape: H, W, C of what `read` returns.
    workers: processes that read beside this one; 0 reads in threads alone.
    threads: threads of each process; 0 takes one per core, or one in each
      worker.
  """

  records: Sequence[Any]
  read: Callable[[Any, np.random.Generator], Example]
  image_shape: tuple[int, ...]
  workers: int = 0
  threads: int = 0

  @property
  def examples(self) -> int:
    """Number of examples N."""
    return len(self.records)


class Share(NamedTuple):
  """Which part of every batch a process reads.

  Attributes:
    process: index of this process.
    processes: how many there are; they divide a batch.
  """

  process: int
  processes: int


class Counted(NamedTuple):
  """A process's share of a batch whose end may be padding.

  Attributes:
    images: uint8[b, H, W, C].
    labels: int32[b].
    counted: bool[b], false where there is no example.
  """

  images: np.ndarray
  labels: np.ndarray
  counted: np.ndarray


def shuffled(
  stream: Stream,
  *,
  seed: int,
  batch_size: int,
  first_batch: int,
  share: Share,
) -> Iterator[Counted]:
  """Read the batches of a run, from any of them on, without end.

  Each epoch is a new permutation of all examples, before they are shared
  among the processes; what does not fill a batch at its end is left out.

  Args:
    stream: N examples.
    seed: in [0, 2^32); decides the orders and what `read` draws.
    batch_size: examples B of a batch over all processes, at most N.
    first_batch: how many batches of the run are skipped, unread.
    share: of this process.

  Returns:
    The shares of this process, everything in them counted.
  """
  import grain  # Here and not above: a run on a small data set needs no Grain.

  epoch = stream.examples // batch_size * batch_size
  examples = (
    grain.MapDataset.source(stream.records)
    .seed(seed)
    .shuffle()[:epoch]
    .repeat()
    .random_map(functools.partial(_read_counted, stream.read))
  )
  mine = examples[share.process :: share.processes]
  size = batch_size // share.processes
  return _batches(stream, mine[first_batch * size :], size)


def in_order(
  stream: Stream, *, batch_size: int, share: Share
) -> Iterator[Counted]:
  """Read every example once, padded to whole batches.

  Args:
    stream: N examples.
    batch_size: examples B of a batch over all processes.
    share: of this process.

  Returns:
    The shares of this process of ceil(N / B) batches, in which each example
    is counted once over all processes.
  """
  import grain

  size = batch_size // share.processes
  batches = math.ceil(stream.examples / batch_size)
  positions = np.arange(batches * batch_size).reshape(
    batches, share.processes, size
  )
  read = functools.partial(_read_or_pad, stream)
  examples = grain.MapDataset.source(
    [int(position) for position in positions[:, share.process].ravel()]
  ).map(read)
  return _batches(stream, examples, size)


def _batches(stream: Stream, examples: Any, size: int) -> Iterator[Counted]:
  """Reads examples ahead and stacks them, in order.

  Threads read single examples, two batches ahead. A worker process reads whole
  batches, every so many of them, so that the order stays.
  """
  import grain

  if not stream.workers:
    threads = stream.threads or os.cpu_count() or 1
    options = grain.ReadOptions(threads, max(threads, 2 * size))
    return iter(examples.to_iter_dataset(options).batch(size, batch_fn=_stack))
  # Grain asks absl for a flag before it starts them.
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


def _read_counted(
  read: Callable[[Any, np.random.Generator], Example],
  record: Any,
  random: np.random.Generator,
) -> tuple[np.ndarray, int, bool]:
  return *read(record, random), True


def _read_or_pad(stream: Stream, position: int) -> tuple[np.ndarray, int, bool]:
  if position >= stream.examples:
    return np.zeros(stream.image_shape, np.uint8), 0, False
  # Nothing is drawn where a part is judged; were it, it would be repeatable.
  random = np.random.default_rng(position)
  return *stream.read(stream.records[position], random), True


def _stack(examples: Sequence[tuple[np.ndarray, int, bool]]) -> Counted:
  images, labels, counted = zip(*examples, strict=True)
  return Counted(
    np.stack(images), np.array(labels, np.int32), np.array(counted, bool)
  )
