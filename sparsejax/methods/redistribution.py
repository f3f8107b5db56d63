"""Methods whose weights move between layers, or may be pruned at every step."""

import jax.numpy as jnp

from sparsejax.components import (
  accumulators,
  arguments,
  counts,
  criteria,
  distributions,
  redistribution,
  schedules,
  scopes,
  storage as storages,
)
from sparsejax.method import (
  Count,
  Criterion,
  Distribution,
  Input,
  Leaf,
  Method,
  PruneAndRegrow,
)
from sparsejax.methods.compositions import initial, named


@named
def snfs(
  sparsity: float,
  *,
  every_steps: int,
  total_steps: int,
  regrow_fraction: float = 0.5,
  final_regrow_fraction: float = 0.005,
  distribution: Distribution = distributions.uniform,
  momentum: float | None = None,
  regrow_by: Criterion | None = None,
) -> Method:
  """Sparse momentum: weights move to layers with much momentum.

  The smallest weights of each layer are pruned; as many are regrown in all,
  where the mean |v| over active weights is large, at the positions of the
  largest |v|. As in the authors' code, v is the momentum of the optimizer,
  which gets the dense gradient and keeps its state at all positions: what
  regrows moves with it at once. For Adam v is divided by the root of its second
  moment. There is no mask update at `total_steps`: what it regrows could not
  train.

  Args:
    sparsity: fraction of zeros in [0, 1).
    every_steps: interval of the updates (the paper: an epoch).
    total_steps: length of the run, in optimizer steps.
    regrow_fraction: share of a layer's active weights at step 0; falls along a
      cosine.
    final_regrow_fraction: the share at `total_steps`.
    distribution: first sparsity per layer.
    momentum: if given, v is a momentum of the dense gradient with this decay,
      in [0, 1), next to the optimizer, whose state is that of active weights
      alone; for optimizers without momentum.
    regrow_by: what is regrown first inside a layer; |v| where it is None.

  References:
    Dettmers & Zettlemoyer, `Sparse networks from scratch
    <https://arxiv.org/abs/1907.04840>`_, 2019, algorithm 1.
  """
  arguments.check_steps("total_steps", total_steps)
  fraction = schedules.cosine(
    regrow_fraction, total_steps, final_regrow_fraction
  )
  score, storage = criteria.optimizer_momentum, storages.zeroed_with_momentum
  if momentum is not None:
    if not 0 <= momentum < 1:
      raise ValueError(f"`momentum` must be in [0, 1), got {momentum}.")
    trace = accumulators.gradient_trace("momentum", float(momentum))
    score, storage = criteria.accumulated_magnitude(trace), storages.zeroed
  return Method(
    initial=initial(scopes.layerwise(distribution), sparsity),
    regrow=PruneAndRegrow(
      by=score if regrow_by is None else regrow_by,
      prune_by=criteria.magnitude,
      prune_count=redistribution.careful_fraction(fraction, score),
      regrow_count=redistribution.by_momentum(score),
      when=schedules.Every(every_steps, until=total_steps - 1),
    ),
    storage=storage,
    target_sparsity=sparsity,
  )


@named
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

  Smaller weights are pruned, but never all of a layer; as many are regrown, in
  proportion to what the layers kept, at positions that were inactive before.
  The threshold is doubled where it pruned less than 0.9 times the count it
  should, and halved above 1.1 times.

  Args:
    sparsity: fraction of zeros in [0, 1).
    every_steps: interval of the updates, in optimizer steps.
    end_step: no update after this step.
    prune_count: how many weights of all layers an update should prune (the
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
  limit = accumulators.adaptive_threshold(float(threshold), int(prune_count))
  return Method(
    initial=initial(scopes.layerwise(distribution), sparsity),
    regrow=PruneAndRegrow(
      by=regrow_by,
      prune_by=criteria.magnitude,
      prune_count=redistribution.below(limit),
      regrow_count=redistribution.by_survivors,
      when=schedules.Every(every_steps, until=end_step),
      exclude_just_pruned=True,
    ),
    storage=storages.zeroed,
    target_sparsity=sparsity,
  )


@named
def deep_r(
  sparsity: float,
  *,
  penalty: float = 1e-5,
  noise: float = 1e-5,
  distribution: Distribution = distributions.erk,
  regrow_by: Criterion = criteria.random,
) -> Method:
  """Deep rewiring: a weight that changes its sign is replaced by another.

  Signs are those of the weights given to `init`; 0 counts as positive. Every
  step pulls the active weights to 0, adds noise, and replaces those that
  changed their sign by random ones at 0.

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
  signs = accumulators.first_signs
  reads = (Input.WEIGHTS, signs)
  return Method(
    initial=initial(scopes.layerwise(distribution), sparsity),
    regrow=PruneAndRegrow(
      by=regrow_by,
      prune_by=Criterion(
        lambda leaf: (~_changed_sign(leaf)).astype(jnp.uint32), reads
      ),
      prune_count=Count(
        lambda context, active: counts.count_active(context, _changed_sign),
        (*reads, Input.MASK),
      ),
      when=schedules.Every(1, until=schedules.FOREVER),
      restart=True,
    ),
    storage=storages.zeroed_with_noise(
      signs, penalty=float(penalty), noise=float(noise)
    ),
    target_sparsity=sparsity,
  )


def _changed_sign(leaf: Leaf):
  positive = accumulators.first_signs.of(leaf)
  return jnp.where(positive, leaf.weights < 0, leaf.weights > 0)
