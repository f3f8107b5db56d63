"""Sums of loss and metrics over a split; pure, like `train_step`."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.data import Resident
from sparsejax.training import forward, train_state
from sparsejax.training.train_state import Setup, TrainState

_EVAL_BATCH = 1024


class Totals(NamedTuple):
  """Sums over examples.

  Attributes:
    loss: float32[].
    metrics: by name, int32[] counts of those that are bools, float32[] sums of
      the others.
  """

  loss: jax.Array
  metrics: dict[str, jax.Array]


def evaluate(setup: Setup, state: TrainState, split: Resident) -> Totals:
  """Evaluate a split.

  Args:
    setup: static.
    state: the state to evaluate.
    split: N examples, padded to whole batches; padding is not counted.

  Returns:
    Sums; divide by N.
  """
  size = batch_size(setup, split.examples)
  padding = -split.examples % size
  positions = jnp.arange(split.examples + padding).reshape(-1, size)

  def body(totals: Totals, index: jax.Array) -> tuple[Totals, None]:
    counted = setup.shard(index < split.examples)
    examples = split.take(jnp.minimum(index, split.examples - 1))
    examples = jax.tree.map(setup.shard, examples)
    return add_batch(setup, state, totals, examples, counted), None

  zeros = zero_totals(setup, state, split.example)
  totals, _ = jax.lax.scan(body, zeros, positions)
  return totals


def add_batch(
  setup: Setup,
  state: TrainState,
  totals: Totals,
  examples: Any,
  counted: jax.Array,
) -> Totals:
  """Add a batch to the sums.

  Args:
    setup: static.
    state: the state to evaluate.
    totals: sums over the previous batches.
    examples: B examples, as the split stores them.
    counted: bool[B]; False marks padding.

  Returns:
    The new sums.
  """
  found = _sums(setup, state, examples, counted)
  return jax.tree.map(jnp.add, totals, found)


def zero_totals(setup: Setup, state: TrainState, example: Any) -> Totals:
  """Returns the sums over no examples.

  Args:
    setup: static.
    state: any state, or its shapes.
    example: any example, or its shapes.
  """
  shapes = jax.eval_shape(
    functools.partial(_sums, setup), state, example, jnp.ones(1, bool)
  )
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def batch_size(setup: Setup, examples: int) -> int:
  """Returns the batch size for evaluating so many examples."""
  # A multiple of the training batch size divides among the devices.
  whole = -(-min(examples, _EVAL_BATCH) // setup.batch_size)
  return setup.batch_size * whole


def _sums(
  setup: Setup, state: TrainState, examples: Any, counted: jax.Array
) -> Totals:
  batch = setup.task.draw(None, examples)
  params = train_state.eval_params(setup, state)
  outputs, _ = forward.apply_model(
    setup.model,
    params,
    state.model_state,
    batch.inputs,
    constants=setup.layout.collections(state.opt_state),
  )

  def total(values: jax.Array) -> jax.Array:
    if values.dtype == jnp.bool_:
      return (values & counted).sum(dtype=jnp.int32)
    return jnp.where(counted, values, 0).sum()

  return Totals(
    total(setup.task.loss(outputs, batch.targets)),
    jax.tree.map(total, setup.task.metrics(outputs, batch.targets)),
  )
