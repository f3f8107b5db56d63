"""The compiled programs of a run, with its data bound.

The loop calls the same `Programs` for resident and for streamed data.
"""

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sparsejax.data import Dataset, Resident, Stream
from sparsejax.tasks import Task
from sparsejax.training import (
  dispatches,
  evaluation,
  input_pipeline,
  metric,
  replicas,
  sharding,
)
from sparsejax.training.dispatches import Target
from sparsejax.training.train_state import Setup, TrainState

Between = Callable[[], None]
Evaluate = Callable[..., evaluation.Totals]
UpdateMetric = Callable[..., TrainState]


def nothing() -> None:
  """What is called between batches by default."""


class Programs(NamedTuple):
  """Compiled programs.

  Attributes:
    train: one dispatch, up to the next of `Setup.dispatch_ends`; donates the
      state.
    update_masks: updates the masks if the method does so between steps, to be
      called before every dispatch and after the last one; donates the state.
      `None` for other methods.
    evaluate: sums over a split, by name: "test", "validation" if there is one,
      and "train", the split or its sample, if it is resident (compiled when it
      is first called). Takes a state and, like `update_metric`, a function to
      call before each batch, which may raise.
    examples: number of examples in each of these splits.
    task: what is trained.
    replicas: number of replicas in the state.
    update_metric: evaluates the validation split and updates the epoch metric
      of the state, to be called after every epoch; `None` if the method does
      not follow a validation metric.
    compile_seconds: time spent compiling.
  """

  train: dispatches.TrainDispatch
  update_masks: dispatches.MaskUpdate | None
  evaluate: Mapping[str, Evaluate]
  examples: Mapping[str, int]
  task: Task
  replicas: int
  update_metric: UpdateMetric | None
  compile_seconds: float


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
  target = Target(setup, state, mesh)
  splits = input_pipeline.place_splits(dataset, mesh)
  train = dispatches.compile_dispatches(target, splits["train"], trains=trains)
  if isinstance(splits["train"], Stream):
    # Evaluating it would take another epoch of reading.
    splits.pop("train")
  elif dataset.train_sample is not None:
    splits["train"] = sharding.replicate(dataset.train_sample, mesh)
  evaluate = {
    name: _evaluate(target, split, compile_now=name != "train")
    for name, split in splits.items()
  }
  examples = {name: split.examples for name, split in splits.items()}
  update_metric = None
  if metric.uses_validation(setup.metric):
    update_metric = _update_metric(
      target, evaluate["validation"], examples["validation"]
    )
  return Programs(
    train=train,
    update_masks=dispatches.compile_mask_update(target, trains=trains),
    evaluate=evaluate,
    examples=examples,
    task=setup.task,
    replicas=setup.replicas,
    update_metric=update_metric,
    compile_seconds=time.perf_counter() - started,
  )


def mean_metrics(
  programs: Programs,
  names: Iterable[str],
  state: TrainState,
  *,
  between: Between = nothing,
) -> list[dict[str, float]]:
  """Evaluate splits.

  Args:
    programs: compiled.
    names: names of splits.
    state: the state to evaluate.
    between: called before each batch; what it raises ends the evaluation.

  Returns:
    For each replica `{name}_loss`, and the metrics and measures of the task,
    such as `{name}_accuracy`: means over each split, and what follows from
    them.
  """
  totals = {name: programs.evaluate[name](state, between) for name in names}
  fetched = sharding.fetch(jax.block_until_ready(totals))
  return [
    _means(programs, each)
    for each in replicas.split(fetched, programs.replicas)
  ]


def _means(
  programs: Programs, totals: Mapping[str, evaluation.Totals]
) -> dict[str, float]:
  """Returns the means of one replica."""
  means: dict[str, float] = {}
  for name, sums in totals.items():
    count = programs.examples[name]
    found = {"loss": sums.loss.item() / count}
    found |= {key: sum.item() / count for key, sum in sums.metrics.items()}
    found |= programs.task.derived(found)
    means |= {f"{name}_{key}": value for key, value in found.items()}
  return means


def _evaluate(
  target: Target, split: Resident | Stream, *, compile_now: bool
) -> Evaluate:
  """Returns an evaluation, compiled now or when it is first called.

  Each batch is one call, so that the host can stop in between.
  """
  setup, state, mesh = target
  if isinstance(split, Stream):
    sum_batch, read = _sum_streamed(target, split)
  else:
    sum_batch, read = _sum_resident(target, split, compile_now)
  add: Any = jax.jit(
    lambda one, other: jax.tree.map(jnp.add, one, other),
    out_shardings=sharding.replicated(mesh),
  )

  def evaluate(
    state: TrainState, between: Between = nothing
  ) -> evaluation.Totals:
    before = totals = None
    for batch in read():
      between()
      found = sum_batch(state, *batch)
      before, totals = totals, found if totals is None else add(totals, found)
      # The host may run a batch ahead, but not a whole evaluation.
      jax.block_until_ready(before)
    assert totals is not None
    return totals

  return evaluate


def _sum_resident(
  target: Target, split: Resident, compile_now: bool
) -> tuple[Any, Callable[[], Iterable[tuple[Any, ...]]]]:
  """Returns what sums over a batch, and what lists the batches."""
  setup, state, mesh = target
  count = evaluation.batches(setup, split.examples)
  indices = sharding.replicate(
    [np.asarray(i, np.int32) for i in range(count)], mesh
  )
  sum_nth: Any = jax.jit(
    replicas.mapped(
      functools.partial(evaluation.sum_nth, setup),
      setup.replicas,
      in_axes=(replicas.STATE, None, None),
      out_axes=0,
    ),
    out_shardings=sharding.replicated(mesh),
  )
  if compile_now:
    sum_nth = sum_nth.lower(state, split, indices[0]).compile()
  return sum_nth, lambda: ((split, index) for index in indices)


def _sum_streamed(
  target: Target, split: Stream
) -> tuple[Any, Callable[[], Iterable[tuple[Any, ...]]]]:
  """Returns the same for batches that are read meanwhile."""
  setup, _, mesh = target
  sum_batch = jax.jit(
    functools.partial(evaluation.sum_batch, setup),
    out_shardings=sharding.replicated(mesh),
  )
  size = evaluation.batch_size(setup, split.examples)
  return sum_batch, functools.partial(
    input_pipeline.eval_batches, split, batch_size=size, mesh=mesh
  )


def _update_metric(
  target: Target, evaluate: Evaluate, examples: int
) -> UpdateMetric:
  setup, _, mesh = target
  assert setup.metric is not None
  source = setup.metric

  def after_validation(
    known: metric.EpochMetric, totals: evaluation.Totals
  ) -> metric.EpochMetric:
    return metric.after_validation(
      known,
      source,
      totals={"loss": totals.loss, **totals.metrics},
      examples=examples,
    )

  update: Any = jax.jit(
    after_validation, out_shardings=sharding.replicated(mesh)
  )

  def update_from_validation(
    state: TrainState, between: Between = nothing
  ) -> TrainState:
    return state._replace(metric=update(state.metric, evaluate(state, between)))

  return update_from_validation
