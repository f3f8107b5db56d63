"""The training state, and the static setup that compiled code closes over."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

import sparsejax
from sparsejax.method import DenseGradient
from sparsejax.tasks import Loss, Task
from sparsejax.training import metric, run_flops, weight_layouts
from sparsejax.training.weight_layouts import WeightLayout


class Setup(NamedTuple):
  """The static side of training; jitted functions bind it first.

  Attributes:
    model: Flax module, called with inputs and `train=`.
    task: what is trained.
    tx: the `sparsify`-wrapped optimizer.
    tx_from_masks: builds the same transformation from given initial masks.
    batch_size: global batch size B, over all devices.
    steps_per_epoch: steps per epoch.
    total_steps: steps in the run.
    dispatch_steps: dispatches end at multiples of this.
    label_smoothing: in [0, 1); applied in training only.
    ema_decay: decay of the parameter average used for evaluation, in [0, 1);
      0 evaluates the parameters themselves.
    dense_gradient: the steps at which the method reads the gradient of
      inactive weights.
    metric: which metric the method follows, one of `metric.sources`; `None`
      if it follows none.
    mask_update_steps: interval at which masks are updated between two steps; 0
      for methods that update them in a step.
    layout: how sparse weights lie in memory.
    microbatches: number of parts a batch is split into for gradient
      accumulation, when activations do not fit in memory; divides
      `batch_size`.
    shard: constrains an array with a leading batch axis to the batch sharding.
    gather: makes parameters that are sharded over `fsdp` whole, for the network
      to read.
    replicas: how many replicas the state holds, see `training.replicas`.
  """

  model: nn.Module
  task: Task
  tx: sparsejax.SparseTransformation
  tx_from_masks: Callable[[Any], sparsejax.SparseTransformation]
  batch_size: int
  steps_per_epoch: int
  total_steps: int
  dispatch_steps: int
  label_smoothing: float = 0.0
  ema_decay: float = 0.0
  dense_gradient: DenseGradient = "never"
  metric: str | None = None
  mask_update_steps: int = 0
  layout: WeightLayout = weight_layouts.MASKED
  microbatches: int = 1
  shard: Callable[[jax.Array], jax.Array] = lambda x: x
  gather: Callable[[Any], Any] = lambda params: params
  replicas: int = 1

  @property
  def train_loss(self) -> Loss:
    """The loss of training, with smoothed labels if they are configured."""
    if not self.label_smoothing:
      return self.task.loss
    assert self.task.smoothed is not None
    return self.task.smoothed(self.label_smoothing)

  def dispatch_ends(self, first: Any) -> list[Any]:
    """Returns steps after `first`: a dispatch ends at the lowest of them.

    The host acts between dispatches: it evaluates the metric that the method
    follows, and updates masks. `first` may be traced.
    """
    every = [self.dispatch_steps]
    if metric.uses_validation(self.metric):
      every.append(self.steps_per_epoch)
    if self.mask_update_steps:
      every.append(self.mask_update_steps)
    ends = [(first // steps + 1) * steps for steps in every]
    return [*ends, self.total_steps]


class Weights(NamedTuple):
  """A network: dense before any mask, or the sparse one of a later step.

  Attributes:
    params: parameters.
    model_state: the other Flax collections.
  """

  params: Any
  model_state: Any


class TrainState(NamedTuple):
  """Everything that changes during a run; the content of a checkpoint.

  Attributes:
    step: int32[], completed steps of the trainer.
    params: the sparse network: exact zeros where a mask is False, or the values
      of active weights, as the layout has it.
    model_state: the other Flax collections, such as batch statistics.
    opt_state: everything in `state.SparseState`: masks, inner optimizer state,
      latent weights, accumulators and key.
    key: key data of the typed key for data order, draws and dropout.
    average: exponential moving average of the parameters; `()` without one.
    counters: what FLOPs are computed from.
    metric: the epoch metric, if the method follows one; otherwise `()`.
  """

  step: jax.Array
  params: Any
  model_state: Any
  opt_state: Any
  key: jax.Array
  average: Any
  counters: run_flops.Counters
  metric: metric.EpochMetric | tuple[()]


def kernel_parameters(params: Any) -> int:
  """Returns the number of weights of all kernels, without biases and norms."""
  return sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim > 1)


def init_weights(setup: Setup, init_key: jax.Array, example: Any) -> Weights:
  """Initialize the model.

  Args:
    setup: static.
    init_key: typed key for the parameters.
    example: any example of the data set.

  Returns:
    The dense network.
  """
  inputs = setup.task.draw(None, example).inputs
  model_state = dict(setup.model.init(init_key, inputs, train=False))
  return Weights(model_state.pop("params"), model_state)


def from_weights(
  setup: Setup, weights: Weights, data_key: jax.Array, masks: Any = None
) -> TrainState:
  """Apply initial masks to dense weights.

  Args:
    setup: static.
    weights: the dense network.
    data_key: typed key for data order, draws and dropout.
    masks: initial masks; `None` for those of the method.

  Returns:
    The state at step 0, with sparse parameters.
  """
  tx = setup.tx if masks is None else setup.tx_from_masks(masks)
  opt_state = tx.init(weights.params)
  params = setup.layout.hold(weights.params, opt_state)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state=weights.model_state,
    opt_state=opt_state,
    key=jax.random.key_data(data_key),
    average=params if setup.ema_decay else (),
    counters=run_flops.init(opt_state),
    metric=metric.init(setup.metric),
  )


def init(
  setup: Setup, init_key: jax.Array, data_key: jax.Array, example: Any
) -> TrainState:
  """Initialize the model and the method's initial masks.

  A run uses `initial_state.create` instead, which also handles `init_from` and
  pruning at initialization; its result has the same shapes.

  Args:
    setup: static.
    init_key: typed key for the parameters.
    data_key: typed key for data order, draws and dropout.
    example: any example of the data set.

  Returns:
    The state at step 0, with sparse parameters.
  """
  return from_weights(setup, init_weights(setup, init_key, example), data_key)


def eval_params(setup: Setup, state: TrainState) -> Any:
  """Returns the parameters to evaluate.

  The moving average still holds values of weights that have been pruned, so it
  is masked.
  """
  params = state.params
  if setup.ema_decay:
    params = sparsejax.apply_masks(state.average, state.opt_state)
  return setup.gather(params)
