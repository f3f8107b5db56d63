"""Sums of loss and metrics over a split; pure, like `train_step`."""

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
  """Evaluate a split in one program, which nothing interrupts.

  Args:
    setup: static.
    state: the state to evaluate.
    split: N examples.

  Returns:
    Sums; divide by N.
  """

  def body(totals: Totals, index: jax.Array) -> tuple[Totals, None]:
    found = sum_nth(setup, state, split, index)
    return jax.tree.map(jnp.add, totals, found), None

  indices = jnp.arange(batches(setup, split.examples))
  shapes = jax.eval_shape(lambda: sum_nth(setup, state, split, indices[0]))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  totals, _ = jax.lax.scan(body, zeros, indices)
  return totals


def sum_nth(
  setup: Setup, state: TrainState, split: Resident, index: jax.Array
) -> Totals:
  """Sum over one batch of a split.

  Args:
    setup: static.
    state: the state to evaluate.
    split: N examples, padded to whole batches; padding is not counted.
    index: int32[], of the batch, below `batches`.

  Returns:
    The sums over this batch.
  """
  size = batch_size(setup, split.examples)
  positions = index * size + jnp.arange(size)
  counted = setup.shard(positions < split.examples)
  examples = split.take(jnp.minimum(positions, split.examples - 1))
  examples = jax.tree.map(setup.shard, examples)
  return sum_batch(setup, state, examples, counted)


def batches(setup: Setup, examples: int) -> int:
  """Returns the number of batches of a split of so many examples."""
  return -(-examples // batch_size(setup, examples))


def batch_size(setup: Setup, examples: int) -> int:
  """Returns the batch size for evaluating so many examples."""
  # A multiple of the training batch size divides among the devices.
  whole = -(-min(examples, _EVAL_BATCH) // setup.batch_size)
  return setup.batch_size * whole


def sum_batch(
  setup: Setup, state: TrainState, examples: Any, counted: jax.Array
) -> Totals:
  """Sum over a batch.

  Args:
    setup: static.
    state: the state to evaluate.
    examples: B examples, as the split stores them.
    counted: bool[B]; False marks padding.

  Returns:
    The sums.
  """
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
