"""Methods that keep the values of pruned weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from sparsejax.components import (
  accumulators,
  arguments,
  criteria,
  distributions,
  patterns,
  schedules,
  scopes,
)
from sparsejax.components import storage as storages
from sparsejax.method import (
  Curve,
  Distribution,
  Method,
  Order,
  Scope,
  Seen,
  SparsitySchedule,
  Storage,
)
from sparsejax.methods.compositions import composed, remember


def optg(
  sparsity: float,
  *,
  steps_per_epoch: int,
  epochs: int,
  alpha: float = 0.5,
  score_learning_rate: float | optax.Schedule,
  score_momentum: float = 0.9,
  scope: Scope = scopes.global_scope,
  reach_target: bool = True,
  score_dtype: str = "float32",
) -> Method:
  """Masks from scores that gradients accumulate in, drawn anew every epoch.

  Scores start at 0 and follow `-eta G w` at every position, with the dense
  gradient and the latent weights, so weights that are off compete as well. The
  masks of epoch k, drawn before its first step, leave out the share
  `P / (1 + exp(-alpha (k - epochs / 2)))`; the learning rate of the scores is
  that of the weights times the same factor. Epoch 0 trains the dense network:
  there are no scores yet.

  Args:
    sparsity: P, the final fraction of zeros in [0, 1).
    steps_per_epoch: optimizer steps of an epoch.
    epochs: of the run, at least 2.
    alpha: steepness of the sigmoid per epoch, above 0 (0.5 in the paper, 1 in
      its code).
    score_learning_rate: the learning rate of the weights, a number or a
      function of the completed steps.
    score_momentum: of the scores' SGD, in [0, 1); 0 is the paper's Eq. 10, 0.9
      its code.
    scope: who competes with whom; `layerwise` gives the budgets of its Table 5.
    reach_target: whether the last masks are drawn at `sparsity` itself, where
      the paper's formula ends below it.
    score_dtype: of scores and their momentum: float32, or bfloat16 for half of
      the memory and coarser sums.

  References:
    Zhang et al., `OptG: optimizing gradient-driven criteria in network sparsity
    <https://arxiv.org/abs/2201.12826>`_, 2022, Algorithm 1, equations 7, 10, 16
    and 17.
  """
  arguments.check_steps("steps_per_epoch", steps_per_epoch)
  arguments.check_steps("epochs", epochs, least=2)
  if not 0 <= score_momentum < 1:
    raise ValueError(
      f"`score_momentum` must be in [0, 1), got {score_momentum}."
    )
  if score_dtype not in ("float32", "bfloat16"):
    raise ValueError(
      f"`score_dtype` must be 'float32' or 'bfloat16', got {score_dtype!r}."
    )
  dtype = jnp.dtype(score_dtype)
  curve = schedules.sigmoid_curve(float(alpha), epochs / 2)

  if callable(score_learning_rate):
    of_weights = score_learning_rate
  else:
    of_weights = optax.constant_schedule(score_learning_rate)

  def learning_rate(step: ArrayLike) -> ArrayLike:
    epoch = jnp.minimum(jnp.asarray(step) // steps_per_epoch, epochs - 1)
    return of_weights(step) * jax.nn.sigmoid(alpha * (epoch - epochs / 2))

  scores = accumulators.learned(
    optax.sgd(learning_rate, momentum=score_momentum or None),
    first=lambda leaf, param: jnp.zeros_like(param, dtype=dtype),
    gradient=_of_score,
  )
  rising = schedules.ramp(
    0.0,
    sparsity,
    curve=curve,
    end_step=(epochs - 1) * steps_per_epoch,
    every_steps=steps_per_epoch,
    reach_target=reach_target,
  )
  method = composed(
    rising,
    scope,
    storage=storages.kept,
    target=sparsity,
    order=Order.MASKS_FIRST,
  )
  method = dataclasses.replace(method, criterion=criteria.remembered("scores"))
  return remember(method, scores=scores)


def dpf(
  sparsity: float,
  *,
  initial_sparsity: float = 0.0,
  begin_step: int = 0,
  end_step: int,
  every_steps: int = 16,
  scope: Scope = scopes.global_scope,
  curve: Curve = schedules.cubic_curve,
) -> Method:
  """Dynamic pruning with feedback.

  The gradient of the sparse network moves all latent weights, and the masks
  are drawn anew from their magnitudes.

  Args:
    sparsity: final fraction of zeros in [0, 1).
    initial_sparsity: first fraction; above 0 the first masks are random (ERK).
    begin_step: no rise at or before this step.
    end_step: the sparsity rises until this step; the masks are drawn to the
      end of the run.
    every_steps: interval of the updates, in optimizer steps.
    scope: who competes with whom.
    curve: how the sparsity rises.

  References:
    Lin et al., `Dynamic model pruning with feedback
    <https://arxiv.org/abs/2006.07253>`_, 2020, Algorithm 1.
  """
  rising = schedules.ramp(
    initial_sparsity,
    sparsity,
    curve=curve,
    begin_step=begin_step,
    end_step=end_step,
    every_steps=every_steps,
  )
  method = composed(
    rising, scope, storage=storages.kept_straight_through, target=sparsity
  )
  return _redrawn(method, every_steps, begin_step)


def dnw(
  sparsity: float, *, distribution: Distribution = distributions.uniform
) -> Method:
  """Discovering neural wirings: the largest latent weights after every step.

  The gradient of the sparse network moves all latent weights.

  Args:
    sparsity: fraction of zeros in [0, 1).
    distribution: sparsity per layer.

  References:
    Wortsman et al., `Discovering neural wirings
    <https://arxiv.org/abs/1906.00586>`_, 2019, Algorithm 1.
  """
  method = _largest(
    schedules.held(sparsity), distribution, storages.kept_straight_through
  )
  return dataclasses.replace(_redrawn(method, 1), target_sparsity=sparsity)


def top_kast(
  sparsity: float,
  *,
  backward_sparsity: float,
  every_steps: int = 1,
  penalty: float = 1e-4,
  distribution: Distribution = distributions.uniform,
) -> Method:
  """The largest weights are used, a larger set of them learns.

  The weights of the backward set that are off go on learning from the gradient
  of the sparse network, under a stronger penalty on their norm; what is outside
  the set does not move.

  Args:
    sparsity: fraction of zeros in [0, 1).
    backward_sparsity: fraction of the weights outside the backward set, at
      most `sparsity`.
    every_steps: interval at which both sets are drawn, in optimizer steps.
    penalty: coefficient of the norms, at least 0.
    distribution: sparsity per layer, of both sets.

  References:
    Jayakumar et al., `Top-KAST <https://arxiv.org/abs/2106.03517>`_, 2021.
  """
  arguments.check_sparsity(backward_sparsity, "backward_sparsity")
  if backward_sparsity > sparsity:
    raise ValueError(
      "`backward_sparsity` must not exceed `sparsity`, got"
      f" {backward_sparsity} > {sparsity}: the backward set is the larger one."
    )
  if penalty < 0:
    raise ValueError(f"`penalty` must be at least 0, got {penalty}.")
  method = _largest(
    schedules.held(sparsity),
    distribution,
    storages.kept_in("backward", float(penalty)),
  )
  method = dataclasses.replace(
    _redrawn(method, every_steps), target_sparsity=sparsity
  )
  backward = accumulators.widest(distribution, float(backward_sparsity))
  return remember(method, backward=backward)


def sr_ste(
  *,
  sparsity: float | None = None,
  n: int | None = None,
  m: int | None = None,
  decay: float = 2e-4,
  distribution: Distribution = distributions.uniform,
) -> Method:
  """The largest latent weights after every step; those that are off decay.

  The gradient of the sparse network moves all latent weights.

  Args:
    sparsity: fraction of zeros in [0, 1), over `distribution`; or
    n: weights that stay of every m along the inputs, and
    m: weights of a group. A layer whose inputs are no multiple of it stays
      dense.
    decay: added to the gradient of weights that are off for each unit of
      weight, at least 0.
    distribution: sparsity per layer.

  Raises:
    ValueError: unless either `sparsity` or `n` and `m` are given.

  References:
    Zhou et al., `Learning N:M fine-grained structured sparse neural networks
    from scratch <https://arxiv.org/abs/2102.04010>`_, 2021.
  """
  if (n is None) != (m is None) or (sparsity is None) == (n is None):
    raise ValueError(
      "`sparsity`, or `n` and `m`, must be given, and not both, got"
      f" sparsity={sparsity}, n={n}, m={m}."
    )
  if decay < 0:
    raise ValueError(f"`decay` must be at least 0, got {decay}.")
  storage = storages.kept_decayed(float(decay))
  if n is None or m is None:
    assert sparsity is not None
    method = _largest(schedules.held(sparsity), distribution, storage)
    return dataclasses.replace(_redrawn(method, 1), target_sparsity=sparsity)
  groups = functools.partial(distributions.n_of_m, n=n, m=m)
  method = _largest(schedules.held(1 - n / m), groups, storage)
  return dataclasses.replace(_redrawn(method, 1), pattern=patterns.n_of_m(n, m))


def soft_threshold(
  *,
  initial_threshold: float = -3200.0,
  threshold_learning_rate: float | optax.Schedule | None = None,
  threshold_momentum: float = 0.9,
  threshold_weight_decay: float = 0.0,
  threshold_tx: optax.GradientTransformation | None = None,
) -> Method:
  """STR: every layer learns the threshold below which its weights are 0.

  The user holds `sign(w) max(|w| - sigmoid(s), 0)`. There is no sparsity to
  ask for: it follows from the first s and its weight decay. The parameters
  given to `init` are what the user holds at first; those that are 0 stay so,
  because the loss has no gradient at them.

  Args:
    initial_threshold: s at step 0; -3200 for ResNet-50 and -12800 for MobileNet
      in the paper, where nothing but weight decay moves it for a long time.
    threshold_learning_rate: of the SGD that steps s, a number or a function of
      the completed steps.
    threshold_momentum: of that SGD, in [0, 1).
    threshold_weight_decay: of that SGD, coupled, at least 0.
    threshold_tx: an optimizer for s in place of that SGD.

  Raises:
    ValueError: unless one of `threshold_learning_rate` and `threshold_tx` is
      given.

  References:
    Kusupati et al., `Soft threshold weight reparameterization
    <https://arxiv.org/abs/2002.03231>`_, 2020, equations 4 to 6.
  """
  if threshold_tx is None:
    if threshold_learning_rate is None:
      raise ValueError(
        "`threshold_learning_rate` or `threshold_tx` must be given: the"
        " thresholds have an optimizer of their own."
      )
    threshold_tx = optax.chain(
      optax.add_decayed_weights(threshold_weight_decay),
      optax.sgd(threshold_learning_rate, momentum=threshold_momentum or None),
    )
  first = float(initial_threshold)
  thresholds = accumulators.learned(
    threshold_tx,
    first=lambda leaf, param: jnp.full(leaf.one_per_layer, first, jnp.float32),
    gradient=_of_threshold,
  )
  method = composed(
    schedules.held(0.0),
    scopes.layerwise(distributions.uniform),
    storage=storages.soft_thresholded("threshold"),
  )
  method = dataclasses.replace(
    _redrawn(method, 1),
    initial_pattern=patterns.nonzero,
    pattern=patterns.above_threshold("threshold"),
    finds_counts=True,
  )
  return remember(method, threshold=thresholds)


def _of_score(seen: Seen) -> Array:
  """The gradient of a score: `G w`; what is not finite tells nothing."""
  product = seen.grad.astype(jnp.float32) * seen.param.astype(jnp.float32)
  return jnp.where(jnp.isfinite(product), product, 0.0)


def _of_threshold(seen: Seen) -> Array:
  """The gradient of s: `-sigmoid'(s) sum_on sign(w) G`."""
  s = seen.memory["threshold"]
  weight, grad = (x.astype(jnp.float32) for x in (seen.param, seen.grad))
  pushes = jnp.where(seen.mask, jnp.sign(weight) * grad, 0.0)
  others = tuple(d for d in range(weight.ndim) if d != seen.axis)
  total = jnp.sum(pushes, axis=others, keepdims=seen.axis is not None)
  sigma = jax.nn.sigmoid(s)
  return -sigma * (1 - sigma) * total


def _largest(
  sparsity: SparsitySchedule, distribution: Distribution, storage: Storage
) -> Method:
  """Masks of the largest weights of each layer, the first ones too."""
  method = composed(sparsity, scopes.layerwise(distribution), storage=storage)
  return dataclasses.replace(method, initial_criterion=criteria.magnitude)


def _redrawn(method: Method, every_steps: int, begin_step: int = 0) -> Method:
  """The weights compete at an interval, whether or not the sparsity rises."""
  when = schedules.every(
    every_steps, begin_step=begin_step, until=schedules.FOREVER
  )
  return dataclasses.replace(method, when=when)
