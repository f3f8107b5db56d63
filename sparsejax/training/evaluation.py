"""Loss and accuracy sums over a split; pure, like `train_step`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.data import Array, Split, batches
from sparsejax.training import forward, train_state
from sparsejax.training.train_state import Setup, TrainState

_EVAL_BATCH = 1024


class Totals(NamedTuple):
  """Sums over examples.

  Attributes:
    loss: float32[].
    correct: int32[], number of correct predictions.
  """

  loss: jax.Array
  correct: jax.Array


def evaluate(setup: Setup, state: TrainState, split: Split) -> Totals:
  """Evaluate a split, without augmentation.

  Args:
    setup: static.
    state: the state to evaluate.
    split: N examples, padded to whole batches; padding is not counted.

  Returns:
    Sums; divide by N.
  """
  size = batch_size(setup, split.examples)
  padding = -split.examples % size
  real = jnp.ones(split.examples, bool)

  def batched(x: Array) -> jax.Array:
    padded = jnp.pad(x, ((0, padding),) + ((0, 0),) * (x.ndim - 1))
    return padded.reshape(-1, size, *x.shape[1:])

  def body(totals: Totals, batch: tuple) -> tuple[Totals, None]:
    images, labels, counted = jax.tree.map(setup.shard, batch)
    batch = Split(images, labels)
    return add_batch(setup, state, totals, batch, counted), None

  examples = (batched(split.images), batched(split.labels), batched(real))
  totals, _ = jax.lax.scan(body, zero_totals(), examples)
  return totals


def add_batch(
  setup: Setup,
  state: TrainState,
  totals: Totals,
  batch: Split,
  counted: jax.Array,
) -> Totals:
  """Add a batch to the sums.

  Args:
    setup: static.
    state: the state to evaluate.
    totals: sums over the previous batches.
    batch: B examples.
    counted: bool[B]; False marks padding.

  Returns:
    The new sums.
  """
  labels = jnp.asarray(batch.labels)
  inputs = batches.normalize(jnp.asarray(batch.images), setup.mean, setup.std)
  params = train_state.eval_params(setup, state)
  logits, _ = forward.apply_model(
    setup.model,
    params,
    state.model_state,
    inputs,
    constants=setup.layout.collections(state.opt_state),
  )
  losses = forward.cross_entropy(logits, labels)
  correct = (logits.argmax(-1) == labels) & counted
  return Totals(
    totals.loss + jnp.where(counted, losses, 0).sum(),
    totals.correct + correct.sum(dtype=jnp.int32),
  )


def zero_totals() -> Totals:
  """Returns the sums over no examples."""
  return Totals(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))


def batch_size(setup: Setup, examples: int) -> int:
  """Returns the batch size for evaluating so many examples."""
  # A multiple of the training batch size divides among the devices.
  whole = -(-min(examples, _EVAL_BATCH) // setup.batch_size)
  return setup.batch_size * whole
