"""The pure part of training: a state and data in, a state and metrics out.

Every function takes the static `Setup` first and is meant to be jitted with
it bound. Nothing here knows of clocks, files or devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import sparsejax
from sparsejax.data import Array, Augment, Split, batches
from sparsejax.training import flops, metric
from sparsejax.updates.gradients import DenseGradient

_EVAL_BATCH = 1024
# Folded into the run's data key; order and augmentation fold 0 and 1.
_DROPOUT = 2


class Setup(NamedTuple):
  """The static side of training.

  Attributes:
    model: a Flax module whose call takes images and `train=`.
    tx: a `sparsify`-ed optimizer.
    tx_with: the same that starts from given masks.
    batch_size: examples in a batch B, over all devices.
    steps_per_epoch: batches in an epoch.
    total_steps: steps of the run.
    dispatch_steps: the grid on which a call of `train_steps` ends.
    mean: of the train pixels; broadcasts against an image.
    std: of the train pixels, likewise.
    augment: changes the images of a training batch.
    label_smoothing: share of each label that is spread over all classes, in
      [0, 1); in training only.
    ema_decay: of the average of the parameters that is judged, in [0, 1); 0
      for the parameters themselves.
    dense_gradient: in which steps the method reads the gradient of weights
      that are off.
    metric: where the number comes from that the method follows, one of
      `metric.SOURCES`; `None` where it follows nothing.
    microbatches: parts of a batch whose gradients are taken one after the
      other, for networks whose activations do not fit at once; divides
      `batch_size`.
    shard: says how an array with a leading batch axis lies on the devices.
  """

  model: nn.Module
  tx: optax.GradientTransformationExtraArgs
  tx_with: Callable[[Any], optax.GradientTransformationExtraArgs]
  batch_size: int
  steps_per_epoch: int
  total_steps: int
  dispatch_steps: int
  mean: Array | float
  std: Array | float
  augment: Augment
  label_smoothing: float = 0.0
  ema_decay: float = 0.0
  dense_gradient: DenseGradient = "never"
  metric: str | None = None
  microbatches: int = 1
  shard: Callable[[jax.Array], jax.Array] = lambda x: x


class Weights(NamedTuple):
  """What training starts from, before any mask.

  Attributes:
    params: the dense network.
    model_state: the model's other collections.
  """

  params: Any
  model_state: Any


class TrainState(NamedTuple):
  """All that changes during a run, and all that a checkpoint holds.

  Attributes:
    step: int32[], completed steps of the trainer.
    params: the sparse network: exact zeros where a mask is off.
    model_state: the model's other collections, such as batch statistics.
    opt_state: masks and the inner optimizer's state.
    key: key data of the typed key that order, augmentation and dropout draw
      from.
    average: average of the parameters over the steps; `()` without one.
    meter: what the steps have cost.
    metric: how well the epochs went, where the method follows that; `()`
      elsewhere.
  """

  step: jax.Array
  params: Any
  model_state: Any
  opt_state: Any
  key: jax.Array
  average: Any
  meter: flops.Meter
  metric: metric.EpochMetric | tuple[()]


class Metrics(NamedTuple):
  """What one step tells; `train_steps` stacks them along a leading axis.

  Attributes:
    loss: float32[], mean over the batch.
    accuracy: float32[], share of the batch in [0, 1].
    grad_norm: float32[], of the whole dense gradient.
    finite: bool[], whether loss and gradient are.
    stats: int32[] scalars of `sparsejax.stats`.
    meter: what the steps up to this one have cost.
  """

  loss: jax.Array
  accuracy: jax.Array
  grad_norm: jax.Array
  finite: jax.Array
  stats: dict[str, jax.Array]
  meter: flops.Meter


class Totals(NamedTuple):
  """Sums over a split: float32[] loss and int32[] right answers."""

  loss: jax.Array
  correct: jax.Array


def initial_weights(setup: Setup, init_key: jax.Array, image: Array) -> Weights:
  """Draw the first parameters.

  Args:
    setup: static.
    init_key: typed key of the parameters.
    image: uint8[1, H, W, C], any image of the data set.

  Returns:
    Dense weights.
  """
  x = batches.normalize(image, setup.mean, setup.std)
  model_state = dict(setup.model.init(init_key, x, train=False))
  return Weights(model_state.pop("params"), model_state)


def begin(
  setup: Setup, weights: Weights, data_key: jax.Array, masks: Any = None
) -> TrainState:
  """Put masks on weights.

  Args:
    setup: static.
    weights: dense.
    data_key: typed key of order, augmentation and dropout.
    masks: the first ones; the method draws its own where this is `None`.

  Returns:
    The state at step 0, its parameters sparse.
  """
  tx = setup.tx if masks is None else setup.tx_with(masks)
  opt_state = tx.init(weights.params)
  params = sparsejax.apply_masks(weights.params, opt_state)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state=weights.model_state,
    opt_state=opt_state,
    key=jax.random.key_data(data_key),
    average=params if setup.ema_decay else (),
    meter=flops.start(opt_state),
    metric=metric.start(setup.metric),
  )


def initial_state(
  setup: Setup, init_key: jax.Array, data_key: jax.Array, image: Array
) -> TrainState:
  """Draw the first parameters and the method's own first masks.

  Args:
    setup: static.
    init_key: typed key of the parameters.
    data_key: typed key of order and augmentation.
    image: uint8[1, H, W, C], any image of the data set.

  Returns:
    The state at step 0, its parameters sparse. A run begins by `start.begin`,
    which knows of other weights and masks; shapes are the same.
  """
  return begin(setup, initial_weights(setup, init_key, image), data_key)


def train_steps(
  setup: Setup, state: TrainState, train: Split
) -> tuple[TrainState, Metrics]:
  """Train up to the next step of the grid, or the last step of the run.

  The number of steps is traced, so that a last, shorter call is not compiled
  again.

  Args:
    setup: static.
    state: at a step below `setup.total_steps`.
    train: the split to train on.

  Returns:
    The new state and the metrics of its steps, stacked along an axis of
    `setup.dispatch_steps`; entries past the last step are zeros.
  """
  first = state.step
  grid = setup.dispatch_steps
  end = jnp.minimum((first // grid + 1) * grid, setup.total_steps)
  first_epoch = first // setup.steps_per_epoch
  orders = batches.permutations(
    jax.random.wrap_key_data(state.key),
    first_epoch,
    epochs=(grid - 1) // setup.steps_per_epoch + 2,
    examples=train.labels.shape[0],
  )

  def one(index: jax.Array, carry: tuple) -> tuple:
    state, history = carry
    epoch, position = jnp.divmod(state.step, setup.steps_per_epoch)
    order = orders[epoch - first_epoch]
    batch = batches.take(train, order, position, setup.batch_size)
    state, metrics = _train_step(setup, state, batch)
    history = jax.tree.map(lambda h, m: h.at[index].set(m), history, metrics)
    return state, history

  size = setup.batch_size
  history = empty_history(
    setup, state, Split(train.images[:size], train.labels[:size])
  )
  if grid == 1:  # XLA's convolutions are slow in a loop on CPU.
    return one(jnp.zeros((), jnp.int32), (state, history))
  return jax.lax.fori_loop(0, end - first, one, (state, history))


def train_next(
  setup: Setup, state: TrainState, history: Metrics, train: Split
) -> tuple[TrainState, Metrics]:
  """Take one step of those that `train_steps` takes.

  Args:
    setup: static.
    state: at a step below `setup.total_steps`; dispatches start on the grid.
    history: of this dispatch, as `empty_history` gives it before the first.
    train: the split to train on.

  Returns:
    The new state and the history with the metrics of this step.
  """
  epoch, position = jnp.divmod(state.step, setup.steps_per_epoch)
  key = jax.random.wrap_key_data(state.key)
  (order,) = batches.permutations(key, epoch, epochs=1, examples=train.examples)
  batch = batches.take(train, order, position, setup.batch_size)
  return train_batch(setup, state, history, batch)


def train_batch(
  setup: Setup, state: TrainState, history: Metrics, batch: Split
) -> tuple[TrainState, Metrics]:
  """Take one step on a batch that the host brings.

  Args:
    setup: static.
    state: at a step below `setup.total_steps`; dispatches start on the grid.
    history: of this dispatch, as `empty_history` gives it before the first.
    batch: the batch of this step.

  Returns:
    The new state and the history with the metrics of this step.
  """
  index = state.step % setup.dispatch_steps
  state, metrics = _train_step(setup, state, batch)
  return state, jax.tree.map(lambda h, m: h.at[index].set(m), history, metrics)


def empty_history(setup: Setup, state: TrainState, batch: Split) -> Metrics:
  """Returns zeros for the metrics of a whole dispatch."""
  _, metrics = jax.eval_shape(
    lambda state, batch: _train_step(setup, state, batch), state, batch
  )
  return jax.tree.map(
    lambda m: jnp.zeros((setup.dispatch_steps, *m.shape), m.dtype), metrics
  )


def evaluate(setup: Setup, state: TrainState, split: Split) -> Totals:
  """Sum loss and right answers over a split, without augmentation.

  Args:
    setup: static.
    state: the state to judge.
    split: N examples; they are padded to whole batches and the padding is
      not counted.

  Returns:
    The sums; divide by N.
  """
  size = judged_size(setup, split.examples)
  padding = -split.examples % size
  real = jnp.ones(split.examples, bool)

  def batched(x: Array) -> jax.Array:
    padded = jnp.pad(x, ((0, padding),) + ((0, 0),) * (x.ndim - 1))
    return padded.reshape(-1, size, *x.shape[1:])

  def add(totals: Totals, batch: tuple) -> tuple[Totals, None]:
    images, labels, counted = jax.tree.map(setup.shard, batch)
    batch = Split(images, labels)
    return judge_batch(setup, state, totals, batch, counted), None

  examples = (batched(split.images), batched(split.labels), batched(real))
  totals, _ = jax.lax.scan(add, no_totals(), examples)
  return totals


def hear(
  setup: Setup,
  known: metric.EpochMetric,
  totals: Totals,
  *,
  examples: int,
) -> metric.EpochMetric:
  """Take up how well an epoch went that has just ended.

  Args:
    setup: static; its method follows the validation part.
    known: of the state after the last step of the epoch.
    totals: sums over the validation part, judged with that state.
    examples: of that part.

  Returns:
    What is known from then on.
  """
  assert setup.metric is not None
  return metric.judged(
    known,
    setup.metric,
    loss=totals.loss,
    correct=totals.correct,
    examples=examples,
  )


def judged_size(setup: Setup, examples: int) -> int:
  """Returns how many examples a batch holds while a split is judged."""
  # A multiple of the training batch divides among the devices.
  whole = -(-min(examples, _EVAL_BATCH) // setup.batch_size)
  return setup.batch_size * whole


def no_totals() -> Totals:
  """Returns the sums over no example."""
  return Totals(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))


def judge_batch(
  setup: Setup,
  state: TrainState,
  totals: Totals,
  batch: Split,
  counted: jax.Array,
) -> Totals:
  """Add a batch to the sums over a split.

  Args:
    setup: static.
    state: the state to judge.
    totals: sums over the batches before.
    batch: B examples.
    counted: bool[B]; the others are padding and left out.

  Returns:
    The new sums.
  """
  labels = jnp.asarray(batch.labels)
  images = jnp.asarray(batch.images)
  params = _judged(setup, state)
  logits, _ = _apply(setup, params, state.model_state, images)
  losses = _losses(logits, labels)
  correct = (logits.argmax(-1) == labels) & counted
  return Totals(
    totals.loss + jnp.where(counted, losses, 0).sum(),
    totals.correct + correct.sum(dtype=jnp.int32),
  )


def forward(
  model: nn.Module,
  params: Any,
  model_state: Any,
  inputs: jax.Array,
  *,
  dropout_key: jax.Array | None,
) -> tuple[jax.Array, Any]:
  """Apply a model to inputs that are normalized.

  Args:
    model: the module.
    params: its parameters.
    model_state: its other collections.
    inputs: float[B, H, W, C].
    dropout_key: typed key; the model is trained where there is one, and judged
      where it is `None`.

  Returns:
    float[B, K] logits and the other collections, as training changes them.
  """
  train = dropout_key is not None
  variables: dict[str, Any] = {"params": params, **model_state}
  # The collections that a model may change; none of them while it is judged.
  mutable = list(model_state) if train else []
  result: Any = model.apply(
    variables,
    inputs,
    train=train,
    mutable=mutable,
    rngs={"dropout": dropout_key} if train else None,
  )
  logits, changed = result
  return logits, model_state | dict(changed)


def _train_step(
  setup: Setup, state: TrainState, batch: Split
) -> tuple[TrainState, Metrics]:
  """Takes one step; the order of its lines is the definition of a step."""
  key = batches.augment_key(jax.random.wrap_key_data(state.key), state.step)
  images = setup.augment(key, jnp.asarray(batch.images))
  labels = setup.shard(jnp.asarray(batch.labels))
  images = setup.shard(images)

  found, model_state = _gradient(
    setup, state, Split(images, labels), _dropout_key(state)
  )
  loss, grads = found.loss, found.grads
  updates, opt_state = setup.tx.update(
    grads,
    state.opt_state,
    state.params,
    **metric.told(state.metric),
  )
  params = optax.apply_updates(state.params, updates)
  spent = flops.advance(
    state.meter, state.opt_state, opt_state, setup.dense_gradient
  )
  grad_norm = optax.tree.norm(grads)
  metrics = Metrics(
    loss=loss,
    accuracy=found.accuracy,
    grad_norm=grad_norm,
    finite=jnp.isfinite(loss) & jnp.isfinite(grad_norm),
    stats=sparsejax.stats(opt_state),
    meter=spent,
  )
  new_state = state._replace(
    step=state.step + 1,
    params=params,
    model_state=model_state,
    opt_state=opt_state,
    average=_averaged(setup, state.average, params),
    meter=spent,
    metric=metric.after_step(
      state.metric,
      setup.metric,
      loss=metrics.loss,
      accuracy=metrics.accuracy,
      step=state.step + 1,
      steps_per_epoch=setup.steps_per_epoch,
    ),
  )
  return new_state, metrics


class _Found(NamedTuple):
  """Of a batch, in the mean: float32[] loss and accuracy, and the gradient."""

  loss: jax.Array
  accuracy: jax.Array
  grads: Any


def _gradient(
  setup: Setup, state: TrainState, batch: Split, dropout_key: jax.Array
) -> tuple[_Found, Any]:
  """Returns the mean over a batch and the model's other collections.

  Microbatches follow one another: batch norm sees each by itself, and its
  running statistics pass from one to the next. The optimizer sees their mean,
  so a step, and a mask update, is one of the whole batch.
  """
  parts = setup.microbatches
  if parts == 1:
    return _gradient_of_part(
      setup, state.params, state.model_state, batch, dropout_key
    )

  def one(carry: tuple[_Found, Any], part: tuple) -> tuple:
    total, model_state = carry
    batch, index = part
    found, model_state = _gradient_of_part(
      setup,
      state.params,
      model_state,
      jax.tree.map(setup.shard, batch),
      jax.random.fold_in(dropout_key, index),
    )
    return (jax.tree.map(jnp.add, total, found), model_state), None

  # Every device splits its own share: no example moves between them.
  split = jax.tree.map(
    lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch
  )
  zero = jnp.zeros((), jnp.float32)
  start = _Found(zero, zero, jax.tree.map(jnp.zeros_like, state.params))
  (total, model_state), _ = jax.lax.scan(
    one, (start, state.model_state), (split, jnp.arange(parts))
  )
  return jax.tree.map(lambda x: x / parts, total), model_state


def _gradient_of_part(
  setup: Setup,
  params: Any,
  model_state: Any,
  batch: Split,
  dropout_key: jax.Array,
) -> tuple[_Found, Any]:
  """Returns the same of examples that the model sees at once."""
  labels = jnp.asarray(batch.labels)

  def loss_of(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
    images = jnp.asarray(batch.images)
    logits, changed = _apply(
      setup, params, model_state, images, dropout_key=dropout_key
    )
    losses = _losses(logits, labels, setup.label_smoothing)
    return losses.mean(), (logits, changed)

  (loss, (logits, changed)), grads = jax.value_and_grad(loss_of, has_aux=True)(
    params
  )
  accuracy = (logits.argmax(-1) == labels).mean(dtype=jnp.float32)
  return _Found(loss, accuracy, grads), changed


def _averaged(setup: Setup, average: Any, params: Any) -> Any:
  """Returns the average with one more step's parameters in it."""
  if not setup.ema_decay:
    return average
  return optax.incremental_update(params, average, 1 - setup.ema_decay)


def _judged(setup: Setup, state: TrainState) -> Any:
  """Returns the parameters that evaluation looks at.

  An average remembers weights that have been pruned since, so it is masked.
  """
  if not setup.ema_decay:
    return state.params
  return sparsejax.apply_masks(state.average, state.opt_state)


def _apply(
  setup: Setup,
  params: Any,
  model_state: Any,
  images: jax.Array,
  *,
  dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
  """Returns float32[B, K] logits and the model's other collections.

  The model is trained where there is a key to draw dropout from, and judged
  where there is none.
  """
  x = batches.normalize(images, setup.mean, setup.std)
  return forward(setup.model, params, model_state, x, dropout_key=dropout_key)


def _dropout_key(state: TrainState) -> jax.Array:
  """Returns the key of a step: a resumed run drops the same units."""
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key), _DROPOUT)
  return jax.random.fold_in(key, state.step)


def _losses(
  logits: jax.Array, labels: jax.Array, smoothing: float = 0.0
) -> jax.Array:
  """Returns float32[B] cross-entropies, with labels smoothed as in PyTorch."""
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  if not smoothing:
    return losses
  uniform = -jax.nn.log_softmax(logits).mean(-1)
  return (1 - smoothing) * losses + smoothing * uniform
