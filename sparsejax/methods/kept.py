"""Methods that keep the values of pruned weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
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
  storage as storages,
)
from sparsejax.method import (
  Accumulator,
  Context,
  Curve,
  Distribution,
  Initial,
  Input,
  Leaf,
  Masks,
  Method,
  Pattern,
  Prune,
  Scope,
  Storage,
)
from sparsejax.methods.compositions import ERK, UNIFORM, named
from sparsejax.selection import packing, search
from sparsejax.updates import orders


@named
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
  """Masks from scores that accumulate gradients, chosen again every epoch.

  Scores start at 0 and follow `-eta G w` at every position, with the dense
  gradient and the latent weights, so inactive weights compete as well. The
  masks of epoch k, chosen before its first step (call `update_masks` before its
  first gradient), have the sparsity
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
    scope: which weights compete; `layerwise` gives the budgets of its Table 5.
    reach_target: whether the last masks have exactly `sparsity`, where
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
  _check_momentum(score_momentum)
  if score_dtype not in ("float32", "bfloat16"):
    raise ValueError(
      f"`score_dtype` must be 'float32' or 'bfloat16', got {score_dtype!r}."
    )
  dtype = jnp.dtype(score_dtype)
  rising = schedules.ramp(
    0.0,
    sparsity,
    curve=schedules.sigmoid_curve(float(alpha), epochs / 2),
    end_step=(epochs - 1) * steps_per_epoch,
    every_steps=steps_per_epoch,
    reach_target=reach_target,
  )
  learning_rate = _score_learning_rate(
    score_learning_rate, float(alpha), epochs, steps_per_epoch
  )
  scores = accumulators.learned(
    "scores",
    optax.sgd(learning_rate, momentum=score_momentum or None),
    first=lambda leaf, weights: jnp.zeros_like(weights, dtype=dtype),
    gradient=_score_gradient,
    reads=(Input.GRADIENT, Input.WEIGHTS),
  )
  return Method(
    initial=Initial(ERK),
    prune=Prune(rising, scope, criteria.accumulated(scores)),
    storage=storages.kept,
    order=orders.update_then_step,
    target_sparsity=sparsity,
  )


@named
def supermask(
  sparsity: float,
  *,
  score_learning_rate: float | optax.Schedule,
  score_momentum: float = 0.9,
  every_steps: int = 1,
  scope: Scope = UNIFORM,
) -> Method:
  """Supermask training alone: weights never move, masks follow their scores.

  The scores of OptG, `-eta G w` summed over steps at every position, choose
  among weights that stay as they were initialized. They start at `|w|`, so that
  the first masks are those of the largest weights; edge-popup draws them at
  random. What is not sparse, such as biases, follows the optimizer as usual:
  wrap `optax.set_to_zero()` to fix it too.

  Args:
    sparsity: fraction of zeros in [0, 1).
    score_learning_rate: of the SGD that steps the scores, a number or a
      function of the completed steps.
    score_momentum: of that SGD, in [0, 1).
    every_steps: interval at which the masks are chosen, in optimizer steps.
    scope: which weights compete (edge-popup: those of a layer).

  References:
    Ramanujan et al., `What's hidden in a randomly weighted neural network?
    <https://arxiv.org/abs/1911.13299>`_, 2020; Zhang et al., OptG, 2022,
    equations 5 to 7.
  """
  _check_momentum(score_momentum)
  scores = accumulators.learned(
    "scores",
    optax.sgd(score_learning_rate, momentum=score_momentum or None),
    first=lambda leaf, weights: jnp.abs(weights.astype(jnp.float32)),
    gradient=_score_gradient,
    reads=(Input.GRADIENT, Input.WEIGHTS),
  )
  return Method(
    initial=Initial(scope, criterion=criteria.magnitude),
    prune=Prune(
      schedules.constant_sparsity(sparsity, every_steps=every_steps),
      scope,
      criteria.accumulated(scores),
    ),
    storage=storages.kept_fixed,
    target_sparsity=sparsity,
  )


def _check_momentum(score_momentum: float) -> None:
  if not 0 <= score_momentum < 1:
    raise ValueError(
      f"`score_momentum` must be in [0, 1), got {score_momentum}."
    )


def _score_learning_rate(
  of_weights: float | optax.Schedule,
  alpha: float,
  epochs: int,
  steps_per_epoch: int,
) -> optax.Schedule:
  """That of the weights times the sigmoid of the epoch (equation 17)."""

  def learning_rate(step: ArrayLike) -> ArrayLike:
    epoch = jnp.minimum(jnp.asarray(step) // steps_per_epoch, epochs - 1)
    rate = of_weights(step) if callable(of_weights) else of_weights
    return rate * jax.nn.sigmoid(alpha * (epoch - epochs / 2))

  return learning_rate


@named
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
  are chosen again from their magnitudes.

  Args:
    sparsity: final fraction of zeros in [0, 1).
    initial_sparsity: first fraction; above 0 the first masks are random (ERK).
    begin_step: no rise at or before this step.
    end_step: the sparsity rises until this step; masks are chosen to the
      end of the run.
    every_steps: interval of the updates, in optimizer steps.
    scope: which weights compete.
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
    until=schedules.FOREVER,
  )
  return Method(
    initial=Initial(ERK),
    prune=Prune(rising, scope, criteria.magnitude),
    storage=storages.kept_straight_through,
    target_sparsity=sparsity,
  )


@named
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
  return _largest(
    sparsity, distribution, storages.kept_straight_through, every_steps=1
  )


@named
def top_kast(
  sparsity: float,
  *,
  backward_sparsity: float,
  every_steps: int = 1,
  penalty: float = 1e-4,
  distribution: Distribution = distributions.uniform,
) -> Method:
  """The largest weights are used, a larger set of them learns.

  The inactive weights of the backward set keep learning from the gradient
  of the sparse network, under a stronger penalty on their norm; what is outside
  the set does not move.

  Args:
    sparsity: fraction of zeros in [0, 1).
    backward_sparsity: fraction of the weights outside the backward set, at
      most `sparsity`.
    every_steps: interval at which both sets are chosen, in optimizer steps.
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
  backward = _largest_set(distribution, float(backward_sparsity))
  storage = storages.kept_within(backward, float(penalty))
  return _largest(sparsity, distribution, storage, every_steps=every_steps)


@named
def sr_ste(
  sparsity: float | None = None,
  *,
  n: int | None = None,
  m: int | None = None,
  decay: float = 2e-4,
  distribution: Distribution = distributions.uniform,
) -> Method:
  """The largest latent weights after every step; the inactive ones decay.

  The gradient of the sparse network moves all latent weights.

  Args:
    sparsity: fraction of zeros in [0, 1), over `distribution`; or
    n: weights that stay of every m along the inputs, and
    m: weights of a group. A layer whose inputs are no multiple of it stays
      dense.
    decay: added to the gradient of inactive weights per unit of
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
    return _largest(sparsity, distribution, storage, every_steps=1)
  return _largest(
    None,
    functools.partial(distributions.n_of_m, n=n, m=m),
    storage,
    every_steps=1,
    pattern=patterns.n_of_m(n, m),
  )


@named
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
        " thresholds have their own optimizer."
      )
    threshold_tx = optax.chain(
      optax.add_decayed_weights(threshold_weight_decay),
      optax.sgd(threshold_learning_rate, momentum=threshold_momentum or None),
    )
  first = float(initial_threshold)
  threshold = accumulators.learned(
    "threshold",
    threshold_tx,
    first=lambda leaf, weights: jnp.full(
      leaf.one_per_layer, first, jnp.float32
    ),
    gradient=_threshold_gradient,
    reads=(Input.ACTIVE_GRADIENT, Input.WEIGHTS, Input.MASK),
  )
  return _largest(
    None,
    distributions.uniform,
    storages.soft_thresholded(threshold),
    every_steps=1,
    pattern=patterns.above_threshold(threshold),
  )


def _score_gradient(leaf: Leaf, score: Array) -> Array:
  """The gradient of a score: `G w`, 0 where that is not finite."""
  del score  # It does not depend on its value.
  assert leaf.gradient is not None  # There is one in every step.
  product = leaf.gradient.astype(jnp.float32) * leaf.weights.astype(jnp.float32)
  return jnp.where(jnp.isfinite(product), product, 0.0)


def _threshold_gradient(leaf: Leaf, s: Array) -> Array:
  """The gradient of s: `-sigmoid'(s) sum_active sign(w) G`."""
  assert leaf.gradient is not None  # There is one in every step.
  weight, grad = (x.astype(jnp.float32) for x in (leaf.weights, leaf.gradient))
  pushes = jnp.where(leaf.mask, jnp.sign(weight) * grad, 0.0)
  others = tuple(d for d in range(weight.ndim) if d != leaf.axis)
  total = jnp.sum(pushes, axis=others, keepdims=leaf.axis is not None)
  sigma = jax.nn.sigmoid(s)
  return -sigma * (1 - sigma) * total


def _largest(
  sparsity: float | None,
  distribution: Distribution,
  storage: Storage,
  *,
  every_steps: int,
  pattern: Pattern | None = None,
) -> Method:
  """Masks of the largest weights of each layer, from step 0 to the end."""
  scope = scopes.layerwise(distribution)
  return Method(
    initial=Initial(scope, criterion=criteria.magnitude, pattern=pattern),
    prune=Prune(
      schedules.constant_sparsity(sparsity, every_steps=every_steps),
      scope,
      criteria.magnitude,
      pattern,
    ),
    storage=storage,
    target_sparsity=sparsity,
  )


def _largest_set(distribution: Distribution, sparsity: float) -> Accumulator:
  """The largest weights of each layer, at a lower sparsity than the masks'.

  All active weights belong to the set. When the two sparsities are close,
  budgets of whole weights may leave a layer with one more than its budget.
  """

  def largest(context: Context) -> Masks:
    layout = context.layout
    scope = scopes.layerwise(distribution)
    budget = scope.budgets(layout, sparsity, 1.0, None)
    weights = [leaf.weights for leaf in context.leaves]
    packed = packing.packing_for(layout)
    magnitudes = [jnp.abs(x.astype(jnp.float32)) for x in packed.pack(weights)]
    chosen = search.select(
      magnitudes,
      budget.astype(np.int64),
      packed.groups(scopes.groups_of(scope, layout)),
      valid=packed.is_weight(),
    )
    pairs = zip(packed.unpack(chosen), context.leaves, strict=True)
    return layout.masked_tree([wide | leaf.mask for wide, leaf in pairs])

  return Accumulator(
    "backward",
    init=largest,
    after_update=lambda value, context, pruned: largest(context),
    per_leaf=lambda value: value,
    reads=(Input.WEIGHTS, Input.MASK),
  )
