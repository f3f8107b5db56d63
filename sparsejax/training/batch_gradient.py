"""Loss, metrics and gradient of a batch, optionally in microbatches."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.tasks import Batch
from sparsejax.training import forward
from sparsejax.training.train_state import Setup, TrainState


class BatchGradient(NamedTuple):
  """Means over a batch.

  Attributes:
    loss: float32[], with label smoothing.
    metrics: float32[] by name, those of the task.
    grads: the dense gradient, a tree like the parameters.
  """

  loss: jax.Array
  metrics: dict[str, jax.Array]
  grads: Any


def batch_gradient(
  setup: Setup, state: TrainState, batch: Batch, dropout_key: jax.Array
) -> tuple[BatchGradient, Any]:
  """Compute the gradient of a batch.

  Microbatches run one after another: batch norm normalizes each one separately,
  and its running statistics pass from one to the next. The optimizer sees the
  mean gradient, so a step and a mask update are those of the whole batch.

  Args:
    setup: static.
    state: current state.
    batch: as the task draws it.
    dropout_key: typed key for this step.

  Returns:
    Means over the batch, and the updated model state.
  """
  parts = setup.microbatches
  if parts == 1:
    return _gradient(setup, state, state.model_state, batch, dropout_key)

  def accumulate(carry: tuple[BatchGradient, Any], part: tuple) -> tuple:
    total, model_state = carry
    microbatch, index = part
    found, model_state = _gradient(
      setup,
      state,
      model_state,
      jax.tree.map(setup.shard, microbatch),
      jax.random.fold_in(dropout_key, index),
    )
    return (jax.tree.map(jnp.add, total, found), model_state), None

  # Each device splits its local examples, so no data moves between devices.
  microbatches = jax.tree.map(
    lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch
  )
  shapes, _ = jax.eval_shape(
    lambda part: _gradient(setup, state, state.model_state, part, dropout_key),
    jax.tree.map(lambda x: x[0], microbatches),
  )
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  (total, model_state), _ = jax.lax.scan(
    accumulate, (zeros, state.model_state), (microbatches, jnp.arange(parts))
  )
  return jax.tree.map(lambda x: x / parts, total), model_state


def _gradient(
  setup: Setup,
  state: TrainState,
  model_state: Any,
  batch: Batch,
  dropout_key: jax.Array,
) -> tuple[BatchGradient, Any]:
  """Returns the same for examples that pass through the model at once."""

  def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, Any]]:
    outputs, changed = forward.apply_model(
      setup.model,
      setup.gather(params),
      model_state,
      batch.inputs,
      dropout_key=dropout_key,
      constants=setup.layout.collections(state.opt_state),
    )
    losses = setup.train_loss(outputs, batch.targets)
    return losses.mean(), (outputs, changed)

  (loss, (outputs, changed)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
    state.params
  )
  metrics = {
    name: values.mean(dtype=jnp.float32)
    for name, values in setup.task.metrics(outputs, batch.targets).items()
  }
  return BatchGradient(loss, metrics, grads), changed
