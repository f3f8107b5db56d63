"""How examples come to the devices: one feed for each kind of data.

Small data lies on every device as a whole, and a dispatch is one program that
draws its batches; on CPUs a step is one, where the model has convolutions.
Large data streams: a step is one program, and batches are put on the devices
ahead of it. The loop sees the same `Feed` of either. Nothing in a feed has to
be saved: what a step trains on is a function of the data key and the step, both
in the training state.
"""

import collections
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sparsejax.data import Dataset, Split, Stream, batches, streams
from sparsejax.training import mesh, metric, step

# Batches on the devices beside the one that is trained on.
_AHEAD = 2

Train = Callable[[step.TrainState], tuple[step.TrainState, step.Metrics]]
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

  train: Train
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
  if metric.is_judged(setup.metric):
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
) -> Train:
  if _is_slow_in_a_loop(state, devices):
    return _one_by_one(
      setup,
      functools.partial(step.train_next, setup),
      lambda first: itertools.repeat(train),
      train,
      state,
      devices,
      trains,
    )
  train_steps: Any = jax.jit(
    functools.partial(step.train_steps, setup),
    donate_argnums=0,
    out_shardings=mesh.replicated(devices),
  )
  if trains:
    train_steps = train_steps.lower(state, train).compile()
  return lambda state: train_steps(state, train)


def _is_slow_in_a_loop(state: step.TrainState, devices: Mesh) -> bool:
  """Says whether the model has convolutions that a CPU computes.

  Their gradients take XLA 55 times as long inside a loop there (two layers of
  16 channels on 32 by 32 pixels, 128 images: 57 ms outside, 3 s inside).
  """
  kernels = [leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim > 2]
  return bool(kernels) and devices.devices.flat[0].platform == "cpu"


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
) -> Train:
  key = jax.random.wrap_key_data(mesh.fetch(state.key))
  seed = batches.stream_seed(key)
  return _one_by_one(
    setup,
    functools.partial(step.train_batch, setup),
    lambda first: _placed(stream, seed, setup.batch_size, first, devices),
    _blank_batch(stream, setup.batch_size, devices),
    state,
    devices,
    trains,
  )


def _one_by_one(
  setup: step.Setup,
  program: Callable[..., tuple[step.TrainState, step.Metrics]],
  source: Callable[[int], Iterator[Split]],
  like: Split,
  state: step.TrainState,
  devices: Mesh,
  trains: bool,
) -> Train:
  """Returns dispatches whose steps are calls of one program.

  Args:
    setup: static.
    program: (state, history, examples) -> state and history after a step.
    source: the examples of the steps from a given one on.
    like: their shapes, or some of them.
    state: as `open` takes it.
    devices: the mesh.
    trains: as `open` takes it.
  """
  whole = mesh.replicated(devices)

  def one(
    state: step.TrainState, history: step.Metrics, examples: Split
  ) -> tuple[step.TrainState, step.Metrics, jax.Array]:
    state, history = program(state, history, examples)
    return state, history, state.step

  take_step: Any = jax.jit(one, donate_argnums=(0, 1), out_shardings=whole)
  size = setup.batch_size
  shapes = jax.eval_shape(
    functools.partial(step.empty_history, setup),
    state,
    jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), like
    ),
  )
  empty_history = jax.jit(
    lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
    out_shardings=whole,
  )
  if trains:
    take_step = take_step.lower(state, shapes, like).compile()
  position, coming = -1, iter(())

  def train(
    state: step.TrainState,
  ) -> tuple[step.TrainState, step.Metrics]:
    nonlocal position, coming
    first = int(mesh.fetch(state.step))
    if first != position:
      coming = source(first)
    grid = setup.dispatch_steps
    position = min((first // grid + 1) * grid, setup.total_steps)
    history = empty_history()
    running: collections.deque[jax.Array] = collections.deque()
    for _ in range(first, position):
      state, history, tick = take_step(state, history, next(coming))
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
    for local in streams.eval_batches(part, batch_size=size, shard=_shard()):
      batch = mesh.put_batch(local, devices)
      images = Split(batch.images, batch.labels)
      totals = judge_batch(state, totals, images, batch.valid)
    return totals

  return judge


def _hear(
  setup: step.Setup, judge: Judge, examples: int, devices: Mesh
) -> Callable[[step.TrainState], step.TrainState]:
  told: Any = jax.jit(
    functools.partial(step.hear, setup, examples=examples),
    out_shardings=mesh.replicated(devices),
  )
  return lambda state: state._replace(metric=told(state.metric, judge(state)))


def _placed(
  stream: Stream, seed: int, batch_size: int, first: int, devices: Mesh
) -> Iterator[Split]:
  """Yields the batches of steps from `first` on, a few on the devices early."""
  ahead: collections.deque[Split] = collections.deque()
  for local in streams.train_batches(
    stream,
    seed=seed,
    batch_size=batch_size,
    first_batch=first,
    shard=_shard(),
  ):
    ahead.append(mesh.put_batch(Split(local.images, local.labels), devices))
    if len(ahead) > _AHEAD:
      yield ahead.popleft()


def _shard() -> streams.Shard:
  return streams.Shard(jax.process_index(), jax.process_count())


def _blank_batch(stream: Stream, size: int, devices: Mesh) -> Any:
  """Returns the shapes of a batch that lies on the devices."""
  sharding = mesh.split(devices)
  shapes = ((size, *stream.image_shape), jnp.uint8), ((size,), jnp.int32)
  return Split._make(
    jax.ShapeDtypeStruct(*shape, sharding=sharding) for shape in shapes
  )
