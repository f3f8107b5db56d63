"""The training step, and dispatches of several steps.

Pure functions: a state and data in, a new state and metrics out. Each takes the
static `Setup` first and is jitted with it bound.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax.analysis import summary
from sparsejax.components.wide_counts import Counted
from sparsejax.data import Resident, batches
from sparsejax.training import metric, run_flops
from sparsejax.training.batch_gradient import BatchGradient, batch_gradient
from sparsejax.training.train_state import Setup, TrainState

# Folded into the run's data key; the order of the examples and `Task.draw`
# fold in 0 and 1.
_DROPOUT = 2


class Metrics(NamedTuple):
  """Metrics of one step; a dispatch stacks them along a leading axis.

  Attributes:
    loss: float32[], mean over the batch.
    metrics: float32[] by name, means over the batch.
    grad_norm: float32[], norm of the dense gradient.
    finite: bool[], whether loss and gradient are finite.
    stats: of `analysis.summary.leaf_stats`.
    counters: what FLOPs are computed from, after this step.
  """

  loss: jax.Array
  metrics: dict[str, jax.Array]
  grad_norm: jax.Array
  finite: jax.Array
  stats: dict[str, Counted]
  counters: run_flops.Counters


def train_step(
  setup: Setup, state: TrainState, examples: Any
) -> tuple[TrainState, Metrics]:
  """Take one step.

  Args:
    setup: static.
    state: before the step.
    examples: B examples, as the split stores them.

  Returns:
    The new state and the metrics of this step.
  """
  key = batches.draw_key(jax.random.wrap_key_data(state.key), state.step)
  batch = jax.tree.map(setup.shard, setup.task.draw(key, examples))

  dropout_key = _dropout_key(state)

  def gradient(params: Any) -> tuple[BatchGradient, Any]:
    return batch_gradient(
      setup, state._replace(params=params), batch, dropout_key
    )

  def hvp(direction: Any) -> Any:
    """Called by methods that score by it, where a mask update is due."""
    return jax.jvp(
      lambda params: gradient(params)[0].grads, (state.params,), (direction,)
    )[1]

  found, model_state = gradient(state.params)
  updates, opt_state = setup.tx.update(
    found.grads,
    state.opt_state,
    state.params,
    hvp=hvp,
    **metric.update_kwargs(state.metric),
  )
  params = optax.apply_updates(state.params, updates)
  counters = run_flops.count_step(
    state.counters, state.opt_state, opt_state, setup.dense_gradient
  )
  grad_norm = optax.tree.norm(found.grads)
  metrics = Metrics(
    loss=found.loss,
    metrics=found.metrics,
    grad_norm=grad_norm,
    finite=jnp.isfinite(found.loss) & jnp.isfinite(grad_norm),
    stats=summary.leaf_stats(opt_state),
    counters=counters,
  )
  new_state = state._replace(
    step=state.step + 1,
    params=params,
    model_state=model_state,
    opt_state=opt_state,
    average=_update_average(setup, state.average, params),
    counters=counters,
    metric=metric.after_step(
      state.metric,
      setup.metric,
      loss=found.loss,
      metrics=found.metrics,
      step=state.step + 1,
      steps_per_epoch=setup.steps_per_epoch,
    ),
  )
  return new_state, metrics


def update_masks(setup: Setup, state: TrainState) -> TrainState:
  """Updates the masks between two steps, if an update is due."""
  params, opt_state = setup.tx.update_masks(
    state.params, state.opt_state, **metric.update_kwargs(state.metric)
  )
  return state._replace(
    params=params,
    opt_state=opt_state,
    counters=run_flops.count_mask_update(
      state.counters, state.opt_state, opt_state
    ),
  )


def run_dispatch(
  setup: Setup, state: TrainState, train: Resident
) -> tuple[TrainState, Metrics]:
  """Train up to the next of `setup.dispatch_ends`.

  The number of steps is traced, so a shorter last dispatch does not recompile.

  Args:
    setup: static.
    state: at a step below `setup.total_steps`.
    train: the training split.

  Returns:
    The new state and the metrics of its steps, stacked along an axis of size
    `setup.dispatch_steps`, where step t has the entry t modulo that size; the
    entries of other dispatches are zeros.
  """
  first = state.step
  grid = setup.dispatch_steps
  end = functools.reduce(jnp.minimum, setup.dispatch_ends(first))
  first_epoch = first // setup.steps_per_epoch
  orders = batches.permutations(
    jax.random.wrap_key_data(state.key),
    first_epoch,
    epochs=(grid - 1) // setup.steps_per_epoch + 2,
    examples=train.examples,
  )

  def body(_: Any, carry: tuple) -> tuple:
    state, history = carry
    epoch, position = jnp.divmod(state.step, setup.steps_per_epoch)
    order = orders[epoch - first_epoch]
    examples = batches.take(train, order, position, setup.batch_size)
    return step_on_batch(setup, state, history, examples)

  history = empty_history(
    setup, state, batch_shapes(train.example, setup.batch_size)
  )
  if grid == 1:  # XLA's convolutions are slow in CPU loops.
    return body(0, (state, history))
  return jax.lax.fori_loop(0, end - first, body, (state, history))


def step_from_split(
  setup: Setup, state: TrainState, history: Metrics, train: Resident
) -> tuple[TrainState, Metrics]:
  """Take one of the steps of `run_dispatch`.

  Args:
    setup: static.
    state: at a step below `setup.total_steps`.
    history: metrics of this dispatch so far, at first `empty_history`.
    train: the training split.

  Returns:
    The new state, and the history with the metrics of this step.
  """
  epoch, position = jnp.divmod(state.step, setup.steps_per_epoch)
  key = jax.random.wrap_key_data(state.key)
  (order,) = batches.permutations(key, epoch, epochs=1, examples=train.examples)
  examples = batches.take(train, order, position, setup.batch_size)
  return step_on_batch(setup, state, history, examples)


def step_on_batch(
  setup: Setup, state: TrainState, history: Metrics, examples: Any
) -> tuple[TrainState, Metrics]:
  """Take one step on a batch from the host.

  Args:
    setup: static.
    state: at a step below `setup.total_steps`.
    history: metrics of this dispatch so far, at first `empty_history`.
    examples: those of this step.

  Returns:
    The new state, and the history with the metrics of this step.
  """
  index = state.step % setup.dispatch_steps
  state, metrics = train_step(setup, state, examples)
  return state, _write(history, index, metrics)


def batch_shapes(example: Any, size: int) -> Any:
  """Returns the shapes of a batch, given one example."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), example
  )


def empty_history(setup: Setup, state: TrainState, examples: Any) -> Metrics:
  """Returns zeros for the metrics of a whole dispatch."""
  _, metrics = jax.eval_shape(
    lambda state, examples: train_step(setup, state, examples), state, examples
  )
  return jax.tree.map(
    lambda m: jnp.zeros((setup.dispatch_steps, *m.shape), m.dtype), metrics
  )


def _write(history: Metrics, index: jax.Array, metrics: Metrics) -> Metrics:
  return jax.tree.map(lambda h, m: h.at[index].set(m), history, metrics)


def _update_average(setup: Setup, average: Any, params: Any) -> Any:
  if not setup.ema_decay:
    return average
  return optax.incremental_update(params, average, 1 - setup.ema_decay)


def _dropout_key(state: TrainState) -> jax.Array:
  """Returns the key for a step: a resumed run drops the same units."""
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key), _DROPOUT)
  return jax.random.fold_in(key, state.step)
