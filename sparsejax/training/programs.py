"""The compiled programs of a run, with its data bound.

With resident data a dispatch is one program that selects its batches. With
streamed data each step is one call, and so it is with convolutions on a CPU.
The loop sees the same `Programs` in all cases.
"""

import collections
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sparsejax.data import Dataset, Split, Stream, batches
from sparsejax.training import (
  evaluation,
  input_pipeline,
  metric,
  sharding,
  train_step,
)
from sparsejax.training.train_state import Setup, TrainState

Train = Callable[[TrainState], tuple[TrainState, train_step.Metrics]]
Evaluate = Callable[[TrainState], evaluation.Totals]
UpdateMetric = Callable[[TrainState], TrainState]


class Programs(NamedTuple):
  """Compiled programs.

  Attributes:
    train: one dispatch, up to the next multiple of `dispatch_steps` or the last
      step of the run; donates the state.
    evaluate: sums over a split, by name: "test", "validation" if there is one,
      and "train" if it is resident (compiled when it is first called).
    examples: number of examples in each of these splits.
    update_metric: evaluates the validation split and updates the epoch metric
      of the state, to be called after every epoch; `None` if the method does
      not follow a validation metric.
    compile_seconds: time spent compiling.
  """

  train: Train
  evaluate: Mapping[str, Evaluate]
  examples: Mapping[str, int]
  update_metric: UpdateMetric | None
  compile_seconds: float


class _Compiler(NamedTuple):
  """What every program is compiled for.

  Attributes:
    setup: static.
    state: a state, or its shapes with shardings.
    mesh: device mesh.
  """

  setup: Setup
  state: TrainState
  mesh: Mesh


def compile(
  setup: Setup,
  dataset: Dataset,
  state: TrainState,
  mesh: Mesh,
  *,
  trains: bool = True,
) -> Programs:
  """Compile everything that the loop calls.

  Args:
    setup: static; its `shard` shards batches over the devices.
    dataset: resident or streamed.
    state: the state to start from, or its shapes with shardings.
    mesh: device mesh.
    trains: whether any step is left; if not, the training step is not compiled.

  Returns:
    The programs.
  """
  started = time.perf_counter()
  compiler = _Compiler(setup, state, mesh)
  splits = input_pipeline.place_splits(dataset, mesh)
  train = _train(compiler, splits["train"], trains)
  if isinstance(splits["train"], Stream):
    # Evaluating it would take another epoch of reading.
    splits.pop("train")
  evaluate = {
    name: _evaluate(compiler, split, compile_now=name != "train")
    for name, split in splits.items()
  }
  examples = {name: split.examples for name, split in splits.items()}
  update_metric = None
  if metric.uses_validation(setup.metric):
    update_metric = _update_metric(
      compiler, evaluate["validation"], examples["validation"]
    )
  return Programs(
    train=train,
    evaluate=evaluate,
    examples=examples,
    update_metric=update_metric,
    compile_seconds=time.perf_counter() - started,
  )


def dispatch_end(setup: Setup, first: int) -> int:
  """Returns the step at which the dispatch that starts after `first` ends."""
  grid = setup.dispatch_steps
  return min((first // grid + 1) * grid, setup.total_steps)


def mean_metrics(
  programs: Programs, names: Iterable[str], state: TrainState
) -> dict[str, float]:
  """Evaluate splits.

  Args:
    programs: compiled.
    names: names of splits.
    state: the state to evaluate.

  Returns:
    `{name}_loss` and `{name}_accuracy`, means over each split.
  """
  totals = {name: programs.evaluate[name](state) for name in names}
  means: dict[str, float] = {}
  for name, sums in jax.block_until_ready(totals).items():
    sums, count = sharding.fetch(sums), programs.examples[name]
    means[f"{name}_loss"] = float(sums.loss) / count
    means[f"{name}_accuracy"] = int(sums.correct) / count
  return means


def _train(compiler: _Compiler, train: Split | Stream, trains: bool) -> Train:
  """Compiles dispatches of training steps."""
  setup, state, mesh = compiler
  if isinstance(train, Stream):
    key = jax.random.wrap_key_data(sharding.fetch(state.key))
    seed = batches.stream_seed(
      key
    )  # Now: transfers are disallowed in the loop.
    return _step_by_step(
      compiler,
      functools.partial(train_step.step_on_batch, setup),
      lambda first: input_pipeline.train_batches(
        train,
        seed=seed,
        batch_size=setup.batch_size,
        first_step=first,
        mesh=mesh,
      ),
      input_pipeline.batch_shapes(
        train, batch_size=setup.batch_size, mesh=mesh
      ),
      trains,
    )
  if _is_slow_in_a_loop(state, mesh):
    return _step_by_step(
      compiler,
      functools.partial(train_step.step_from_split, setup),
      lambda first: itertools.repeat(train),
      train,
      trains,
    )
  dispatch: Any = jax.jit(
    functools.partial(train_step.run_dispatch, setup),
    donate_argnums=0,
    out_shardings=sharding.replicated(mesh),
  )
  if trains:
    dispatch = dispatch.lower(state, train).compile()
  return lambda state: dispatch(state, train)


def _is_slow_in_a_loop(state: TrainState, mesh: Mesh) -> bool:
  """Returns whether the model has convolutions, and runs on a CPU.

  There, XLA takes 55 times as long for their gradients inside a loop (two
  layers of 16 channels on 32 by 32 pixels, 128 images: 57 ms outside, 3 s
  inside).
  """
  kernels = [leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim > 2]
  return bool(kernels) and mesh.devices.flat[0].platform == "cpu"


def _step_by_step(
  compiler: _Compiler,
  step: Callable[..., tuple[TrainState, train_step.Metrics]],
  source: Callable[[int], Iterator[Split]],
  like: Split,
  trains: bool,
) -> Train:
  """Returns dispatches in which every step is one call.

  Args:
    compiler: what to compile for.
    step: (state, history, examples) -> state and history after a step.
    source: the examples of the steps from a given one on.
    like: the examples of one step, or their shapes.
    trains: whether to compile the step.
  """
  setup, state, mesh = compiler
  take_step, empty_history = _step_programs(compiler, step, like, trains)
  position, examples = -1, iter(())

  def train(state: TrainState) -> tuple[TrainState, train_step.Metrics]:
    nonlocal position, examples
    first = int(sharding.fetch(state.step))
    if first != position:
      examples = source(first)
    position = dispatch_end(setup, first)
    history = empty_history()
    running: collections.deque[jax.Array] = collections.deque()
    for _ in range(first, position):
      state, history, done = take_step(state, history, next(examples))
      running.append(done)
      # The host may run a few steps ahead, but not a whole dispatch.
      if len(running) > input_pipeline.PREFETCH:
        jax.block_until_ready(running.popleft())
    return state, history

  return train


def _step_programs(
  compiler: _Compiler,
  step: Callable[..., tuple[TrainState, train_step.Metrics]],
  like: Split,
  trains: bool,
) -> tuple[Any, Callable[[], train_step.Metrics]]:
  """Returns the compiled step, and a program that makes an empty history."""
  setup, state, mesh = compiler
  whole = sharding.replicated(mesh)

  def take_step(
    state: TrainState, history: train_step.Metrics, examples: Split
  ) -> tuple[TrainState, train_step.Metrics, jax.Array]:
    state, history = step(state, history, examples)
    return state, history, state.step

  shapes = jax.eval_shape(
    functools.partial(train_step.empty_history, setup),
    state,
    jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((setup.batch_size, *x.shape[1:]), x.dtype),
      like,
    ),
  )
  compiled: Any = jax.jit(take_step, donate_argnums=(0, 1), out_shardings=whole)
  if trains:
    compiled = compiled.lower(state, shapes, like).compile()
  empty_history = jax.jit(
    lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
    out_shardings=whole,
  )
  return compiled, empty_history


def _evaluate(
  compiler: _Compiler, split: Split | Stream, *, compile_now: bool
) -> Evaluate:
  """Returns an evaluation, compiled now or when it is first called."""
  setup, state, mesh = compiler
  whole = sharding.replicated(mesh)
  if isinstance(split, Stream):
    return _evaluate_stream(compiler, split)
  evaluate: Any = jax.jit(
    functools.partial(evaluation.evaluate, setup), out_shardings=whole
  )
  if compile_now:
    evaluate = evaluate.lower(state, split).compile()
  return lambda state: evaluate(state, split)


def _evaluate_stream(compiler: _Compiler, split: Stream) -> Evaluate:
  setup, _, mesh = compiler
  whole = sharding.replicated(mesh)
  size = evaluation.batch_size(setup, split.examples)
  zero_totals = jax.jit(evaluation.zero_totals, out_shardings=whole)
  add_batch = jax.jit(
    functools.partial(evaluation.add_batch, setup),
    donate_argnums=1,
    out_shardings=whole,
  )

  def evaluate(state: TrainState) -> evaluation.Totals:
    totals = zero_totals()
    for batch, counted in input_pipeline.eval_batches(
      split, batch_size=size, mesh=mesh
    ):
      totals = add_batch(state, totals, batch, counted)
    return totals

  return evaluate


def _update_metric(
  compiler: _Compiler, evaluate: Evaluate, examples: int
) -> UpdateMetric:
  setup, _, mesh = compiler
  assert setup.metric is not None
  source = setup.metric

  def after_validation(
    known: metric.EpochMetric, totals: evaluation.Totals
  ) -> metric.EpochMetric:
    return metric.after_validation(
      known,
      source,
      loss=totals.loss,
      correct=totals.correct,
      examples=examples,
    )

  update: Any = jax.jit(
    after_validation, out_shardings=sharding.replicated(mesh)
  )
  return lambda state: state._replace(
    metric=update(state.metric, evaluate(state))
  )
