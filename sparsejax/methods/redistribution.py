"""Methods whose weights move between layers, or may leave at every step."""

import jax.numpy as jnp

from sparsejax.components import (
  accumulators,
  arguments,
  criteria,
  distributions,
  redistribution,
  schedules,
  scopes,
)
from sparsejax.components import storage as storages
from sparsejax.method import Criterion, Distribution, Method, Regrow, Seen
from sparsejax.methods.compositions import (
  MOMENTUM,
  composed,
  momentum,
  remember,
)


def snfs(
  sparsity: float,
  *,
  every_steps: int,
  total_steps: int,
  regrow_fraction: float = 0.5,
  final_regrow_fraction: float = 0.005,
  distribution: Distribution = distributions.uniform,
  regrow_by: Criterion = momentum,
) -> Method:
  """Sparse momentum: weights move to layers of much momentum.

  The smallest weights of each layer leave; what left in all comes back where
  the mean |v| over active weights is large, at the positions of the largest
  |v|, v the momentum of the dense gradient.

  Args:
    sparsity: fraction of zeros in [0, 1).
    every_steps: interval of the updates (the paper: an epoch).
    total_steps: length of the run, in optimizer steps.
    regrow_fraction: share of a layer's active weights at step 0; falls along a
      cosine.
    final_regrow_fraction: the share at `total_steps`.
    distribution: first sparsity per layer.
    regrow_by: what is regrown first inside a layer.

  References:
    Dettmers & Zettlemoyer, `Sparse networks from scratch
    <https://arxiv.org/abs/1907.04840>`_, 2019, algorithm 1.
  """
  fraction = schedules.cosine(
    regrow_fraction, total_steps, final_regrow_fraction
  )
  method = composed(
    schedules.held(sparsity),
    scopes.layerwise(distribution),
    regrow=Regrow(
      by=regrow_by,
      lose=redistribution.careful_share_of(fraction, MOMENTUM),
      gain=redistribution.by_momentum(MOMENTUM),
      when=schedules.every(every_steps, until=total_steps),
      prune_by=criteria.magnitude,
    ),
    target=sparsity,
  )
  return remember(method, **momentum.memory)


def dsr(
  sparsity: float,
  *,
  every_steps: int,
  end_step: int,
  prune_count: int,
  threshold: float = 1e-3,
  distribution: Distribution = distributions.uniform,
  regrow_by: Criterion = criteria.random,
) -> Method:
  """Dynamic sparse reparameterization: one threshold for all layers.

  What is smaller leaves, but never all of a layer; as many come back, in
  proportion to what the layers kept, at positions that were off before. The
  threshold is doubled where it pruned less than 0.9 times the count it should,
  and halved above 1.1 times.

  Args:
    sparsity: fraction of zeros in [0, 1).
    every_steps: interval of the updates, in optimizer steps.
    end_step: no update after this step.
    prune_count: how many weights an update is to exchange in all layers (the
      paper: 20,000 of a wide ResNet, 400,000 of ResNet-50).
    threshold: of the first update, above 0.
    distribution: first sparsity per layer.
    regrow_by: what is regrown first inside a layer.

  References:
    Mostafa & Wang, `Parameter efficient training of deep convolutional neural
    networks by dynamic sparse reparameterization
    <https://arxiv.org/abs/1902.05967>`_, 2019, algorithm 1.
  """
  arguments.check_steps("end_step", end_step)
  if prune_count != int(prune_count) or prune_count < 1:
    raise ValueError(
      f"`prune_count` must be a whole number of weights, at least 1, got"
      f" {prune_count!r}."
    )
  if not 0 < threshold < float("inf"):
    raise ValueError(
      f"`threshold` must be above 0 and finite, got {threshold}."
    )
  method = composed(
    schedules.held(sparsity),
    scopes.layerwise(distribution),
    regrow=Regrow(
      by=regrow_by,
      lose=redistribution.below("threshold"),
      gain=redistribution.by_survivors,
      when=schedules.every(every_steps, until=end_step),
      prune_by=criteria.magnitude,
      exclude_just_pruned=True,
    ),
    target=sparsity,
  )
  adaptive = redistribution.adaptive_threshold(
    float(threshold), int(prune_count)
  )
  return remember(method, threshold=adaptive)


def deep_r(
  sparsity: float,
  *,
  penalty: float = 1e-5,
  noise: float = 1e-5,
  distribution: Distribution = distributions.erk,
  regrow_by: Criterion = criteria.random,
) -> Method:
  """Deep rewiring: a weight that changes its sign leaves, another comes.

  Signs are those of the weights given to `init`; 0 counts as positive. Every
  step pulls the active weights to 0, adds noise, and replaces those that left
  their sign by random ones at 0.

  Args:
    sparsity: fraction of zeros in [0, 1).
    penalty: of the L1 norm, added to the gradient, at least 0.
    noise: standard deviation of what is added to the gradient, at least 0.
    distribution: sparsity per layer.
    regrow_by: what is regrown first.

  References:
    Bellec et al., `Deep rewiring <https://arxiv.org/abs/1711.05136>`_, 2018,
    algorithm 1.
  """
  for name, value in (("penalty", penalty), ("noise", noise)):
    if not 0 <= value < float("inf"):
      raise ValueError(f"`{name}` must be at least 0 and finite, got {value}.")
  method = composed(
    schedules.held(sparsity),
    scopes.layerwise(distribution),
    regrow=Regrow(
      by=regrow_by,
      lose=lambda layers: layers.counted(_left_its_sign),
      when=schedules.every(1, until=schedules.FOREVER),
      prune_by=criteria.Elementwise(
        lambda seen: (~_left_its_sign(seen)).astype(jnp.uint32)
      ),
      restart=True,
    ),
    storage=storages.zeroed_walking(
      "signs", pull=float(penalty), noise=float(noise)
    ),
    target=sparsity,
  )
  return remember(method, signs=accumulators.first_signs)


def _left_its_sign(seen: Seen):
  positive = seen.memory["signs"]
  return jnp.where(positive, seen.param < 0, seen.param > 0)
