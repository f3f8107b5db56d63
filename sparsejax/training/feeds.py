"""How examples come to the devices: one feed for each kind of data.

Small data lies on every device as a whole, and a dispatch is one program that
draws its batches (`_resident`). Large data streams: a step is one program, and
batches are put on the devices ahead of it (`_streamed`). The loop sees the
same `Feed` of either. Nothing in a feed has to be saved: what a step trains on
is a function of the data key and the step, both in the training state.
"""

import collections
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sparsejax.data import Dataset, Split, Stream, batches, streams
from sparsejax.training import mesh, performance, step

# Batches on the devices beside the one that is trained on.
_AHEAD = 2

Judge = Callable[[step.TrainState], step.Totals]


class Feed(NamedTuple):
  """What runs on the devices, compiled, data bound.

  Attributes:
    train: one dispatch, up to the next step of the grid or the last of the
      run; the state that goes in is donated.
    judge: sums over a part of the data, by its name: "test", "validation"
      where one is held out, and "train" where it is resident, compiled when
      it is called.
    examples: number of examples by the same names.
    hear: to be called at the end of every epoch: judges the validation part
      and tells the state; `None` where the method does not follow it.
    seconds: what compiling took.
  """

  train: Callable[[step.TrainState], tuple[step.TrainState, step.Metrics]]
  judge: Mapping[str, Judge]
  examples: Mapping[str, int]
  hear: Callable[[step.TrainState], step.TrainState] | None
  seconds: float


def open(
  setup: step.Setup,
  dataset: Dataset,
  state: step.TrainState,
  devices: Mesh,
  *,
  trains: bool,
) -> Feed:
  """Compile what the loop runs, once for the whole run.

  Args:
    setup: static; its `shard` lays batches on the devices.
    dataset: resident or streamed.
    state: the one to go on from, or its shapes with shardings.
    devices: the mesh.
    trains: whether there is anything left to train; if not, the step is not
      compiled.

  Returns:
    The feed.
  """
  started = time.perf_counter()
  parts = {
    name: mesh.replicate(part, devices) if isinstance(part, Split) else part
    for name, part in _parts(dataset).items()
  }
  train = parts["train"]
  if isinstance(train, Split):
    run = _train_resident(setup, train, state, devices, trains)
  else:
    run = _train_streamed(setup, train, state, devices, trains)
    # Reading all of it once more, as long as an epoch, is not worth a number.
    parts.pop("train")
  judge = {
    name: _judge_resident(setup, part, state, devices, name != "train")
    if isinstance(part, Split)
    else _judge_streamed(setup, part, devices)
    for name, part in parts.items()
  }
  examples = {name: part.examples for name, part in parts.items()}
  hear = None
  if performance.is_judged(setup.performance):
    hear = _hear(setup, judge["validation"], examples["validation"], devices)
  return Feed(
    train=run,
    judge=judge,
    examples=examples,
    hear=hear,
    seconds=time.perf_counter() - started,
  )


def _parts(dataset: Dataset) -> dict[str, Split | Stream]:
  """Returns the parts of a data set by name, in the order of the records."""
  found = {
    "validation": dataset.validation,
    "test": dataset.test,
    "train": dataset.train,
  }
  return {name: part for name, part in found.items() if part is not None}


def _train_resident(
  setup: step.Setup,
  train: Split,
  state: step.TrainState,
  devices: Mesh,
  trains: bool,
) -> Callable[[step.TrainState], tuple[step.TrainState, step.Metrics]]:
  train_steps: Any = jax.jit(
    functools.partial(step.train_steps, setup),
    donate_argnums=0,
    out_shardings=mesh.replicated(devices),
  )
  if trains:
    train_steps = train_steps.lower(state, train).compile()
  return lambda state: train_steps(state, train)


def _judge_resident(
  setup: step.Setup,
  part: Split,
  state: step.TrainState,
  devices: Mesh,
  at_once: bool,
) -> Judge:
  """Compiles at once, or when it is called."""
  evaluate: Any = jax.jit(
    functools.partial(step.evaluate, setup),
    out_shardings=mesh.replicated(devices),
  )
  if at_once:
    evaluate = evaluate.lower(state, part).compile()
  return lambda state: evaluate(state, part)


def _train_streamed(
  setup: step.Setup,
  stream: Stream,
  state: step.TrainState,
  devices: Mesh,
  trains: bool,
) -> Callable[[step.TrainState], tuple[step.TrainState, step.Metrics]]:
  whole = mesh.replicated(devices)
  blank = _blank_batch(stream, setup.batch_size, devices)
  key = jax.random.wrap_key_data(mesh.fetch(state.key))
  seed = batches.stream_seed(key)

  def one(
    state: step.TrainState, history: step.Metrics, batch: Split
  ) -> tuple[step.TrainState, step.Metrics, jax.Array]:
    state, history = step.train_batch(setup, state, history, batch)
    return state, history, state.step

  train_batch: Any = jax.jit(one, donate_argnums=(0, 1), out_shardings=whole)
  shapes = jax.eval_shape(
    functools.partial(step.empty_history, setup), state, blank
  )
  empty_history = jax.jit(
    lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
    out_shardings=whole,
  )
  if trains:
    train_batch = train_batch.lower(state, shapes, blank).compile()
  position, coming = -1, iter(())

  def train(
    state: step.TrainState,
  ) -> tuple[step.TrainState, step.Metrics]:
    nonlocal position, coming
    first = int(mesh.fetch(state.step))
    if first != position:
      coming = _placed(stream, seed, setup.batch_size, first, devices)
    grid = setup.dispatch_steps
    position = min((first // grid + 1) * grid, setup.total_steps)
    history = empty_history()
    running: collections.deque[jax.Array] = collections.deque()
    for _ in range(first, position):
      state, history, tick = train_batch(state, history, next(coming))
      running.append(tick)
      # The host may run ahead by a few batches, not by the whole dispatch.
      if len(running) > _AHEAD:
        jax.block_until_ready(running.popleft())
    return state, history

  return train


def _judge_streamed(setup: step.Setup, part: Stream, devices: Mesh) -> Judge:
  whole = mesh.replicated(devices)
  size = step.judged_size(setup, part.examples)
  no_totals = jax.jit(step.no_totals, out_shardings=whole)
  judge_batch = jax.jit(
    functools.partial(step.judge_batch, setup),
    donate_argnums=1,
    out_shardings=whole,
  )

  def judge(state: step.TrainState) -> step.Totals:
    totals = no_totals()
    for local in streams.in_order(part, batch_size=size, share=_share()):
      batch = mesh.put_batch(local, devices)
      images = Split(batch.images, batch.labels)
      totals = judge_batch(state, totals, images, batch.counted)
    return totals

  return judge


def _hear(
  setup: step.Setup, judge: Judge, examples: int, devices: Mesh
) -> Callable[[step.TrainState], step.TrainState]:
  told: Any = jax.jit(
    functools.partial(step.hear, setup, examples=examples),
    out_shardings=mesh.replicated(devices),
  )
  return lambda state: state._replace(
    performance=told(state.performance, judge(state))
  )


def _placed(
  stream: Stream, seed: int, batch_size: int, first: int, devices: Mesh
) -> Iterator[Split]:
  """Yields the batches of steps from `first` on, a few on the devices early."""
  ahead: collections.deque[Split] = collections.deque()
  for local in streams.shuffled(
    stream,
    seed=seed,
    batch_size=batch_size,
    first_batch=first,
    share=_share(),
  ):
    ahead.append(mesh.put_batch(Split(local.images, local.labels), devices))
    if len(ahead) > _AHEAD:
      yield ahead.popleft()


def _share() -> streams.Share:
  return streams.Share(jax.process_index(), jax.process_count())


def _blank_batch(stream: Stream, size: int, devices: Mesh) -> Any:
  """Returns the shapes of a batch that lies on the devices."""
  sharding = mesh.split(devices)
  shapes = ((size, *stream.image_shape), jnp.uint8), ((size,), jnp.int32)
  return Split._make(
    jax.ShapeDtypeStruct(*shape, sharding=sharding) for shape in shapes
  )
