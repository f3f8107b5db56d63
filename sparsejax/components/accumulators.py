"""Accumulators: what a method sums up besides its masks."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from sparsejax.components import counts, wide_counts
from sparsejax.components.wide_counts import Counted
from sparsejax.method import (
  Accumulator,
  Context,
  Input,
  Leaf,
  Reads,
  SparseLeaf,
)


def _itself(value: PyTree) -> PyTree:
  return value


def _per_weight(context: Context, f: Callable[[Leaf], Array]) -> PyTree:
  """Returns a tree like the masks, with one array per sparse leaf."""
  return context.layout.masked_tree([f(leaf) for leaf in context.leaves])


def _union(value: PyTree, context: Context, pruned: Array) -> PyTree:
  del pruned  # The masks say it all.
  masks = _per_weight(context, lambda leaf: leaf.mask)
  return jax.tree.map(jnp.bitwise_or, value, masks)


ever_active = Accumulator(
  "ever_active",
  init=lambda context: _per_weight(context, lambda leaf: jnp.array(leaf.mask)),
  after_update=_union,
  per_leaf=_itself,
  reads=(Input.MASK,),
)
"""Which weights were ever active; their share is the ITOP rate R_s.

References:
  Liu et al., `Do we actually need dense over-parameterization?
  <https://arxiv.org/abs/2102.02887>`_, 2021.
"""


class Learned(NamedTuple):
  """Numbers that an optimizer learns, in a tree like the masks."""

  values: PyTree
  opt_state: optax.OptState


def learned(
  name: str,
  tx: optax.GradientTransformation,
  first: Callable[[SparseLeaf, Array], Array],
  gradient: Callable[[Leaf, Array], Array],
  reads: Reads,
) -> Accumulator:
  """Numbers that their own optimizer `tx` steps, once per step of the weights.

  `first` makes those of a leaf from its weights, `gradient` their gradient from
  the leaf and the numbers.
  """

  def init(context: Context) -> Learned:
    pairs = zip(context.layout.leaves, context.leaves, strict=True)
    numbers = [first(sparse, leaf.weights) for sparse, leaf in pairs]
    values = context.layout.masked_tree(numbers)
    return Learned(values, tx.init(values))

  def after_step(value: Learned, context: Context) -> Learned:
    values, opt_state = value
    pairs = zip(context.leaves, jax.tree.leaves(values), strict=True)
    grads = context.layout.masked_tree(
      [gradient(leaf, x).astype(x.dtype) for leaf, x in pairs]
    )
    updates, opt_state = tx.update(grads, opt_state, values)
    return Learned(optax.apply_updates(values, updates), opt_state)

  return Accumulator(
    name,
    init=init,
    after_step=after_step,
    per_leaf=lambda value: value.values,
    reads=reads,
  )


def gradient_trace(name: str, decay: float) -> Accumulator:
  """Momentum of the dense gradient, `v <- decay v + G`, in float32.

  The decay is in [0, 1).
  """

  def after_step(value: PyTree, context: Context) -> PyTree:
    grads = context.layout.masked_tree([x.gradient for x in context.leaves])
    return jax.tree.map(
      lambda v, g: decay * v + g.astype(jnp.float32), value, grads
    )

  return Accumulator(
    name,
    init=lambda context: _per_weight(
      context, lambda leaf: jnp.zeros_like(leaf.weights, dtype=jnp.float32)
    ),
    after_step=after_step,
    per_leaf=_itself,
    reads=(Input.GRADIENT,),
  )


momentum = gradient_trace("momentum", 0.9)
"""Momentum of the dense gradient with decay 0.9, as in SNFS."""


class History(NamedTuple):
  """The metrics of the epochs.

  Attributes:
    epochs: int32[], their number so far.
    first: float32[], that of the first epoch.
    recent: float32[lag + 1], the last ones, the newest last.
  """

  epochs: Int[Array, ""]
  first: Float[Array, ""]
  recent: Float[Array, " lags"]

  def with_metric(self, metric: Float[Array, ""] | None) -> "History":
    """Returns the history with one more metric."""
    assert metric is not None  # `sparsify` requires it.
    return History(
      self.epochs + 1,
      jnp.where(self.epochs == 0, metric, self.first),
      jnp.append(self.recent[1:], metric),
    )


def metric_history(lag: int) -> Accumulator:
  """The metrics that `update` got at its mask updates, the last `lag + 1`."""
  return Accumulator(
    "metric_history",
    init=lambda context: History(
      jnp.zeros((), jnp.int32),
      jnp.zeros((), jnp.float32),
      jnp.zeros(lag + 1, jnp.float32),
    ),
    after_update=lambda value, context, pruned: value.with_metric(
      context.metric
    ),
  )


first_counts = Accumulator(
  "first_counts",
  init=lambda context: counts.count_active(
    context.counted, lambda leaf: jnp.ones_like(leaf.mask)
  ),
)
"""[layers], the active weights, or units, of each layer at step 0."""

first_signs = Accumulator(
  "signs",
  init=lambda context: _per_weight(context, lambda leaf: leaf.weights >= 0),
  per_leaf=_itself,
)
"""Which weights were at or above 0 at `init`, before the first masks."""


def adaptive_threshold(first: float, prune_count: int) -> Accumulator:
  """A threshold that is halved where it pruned too many, doubled at too few.

  Too many are above 1.1 times `prune_count`, too few below 0.9 times. The first
  update has the threshold `first`, above 0.

  References:
    Mostafa & Wang, `Parameter efficient training of deep convolutional neural
    networks by dynamic sparse reparameterization
    <https://arxiv.org/abs/1902.05967>`_, 2019, algorithm 1.
  """
  most, least = 11 * prune_count // 10, -(-9 * prune_count // 10)

  def after_update(
    threshold: Array, context: Context, pruned: Counted
  ) -> Array:
    limbs = counts.limbs_of_all(context.counted.layout)
    total = wide_counts.total(pruned, limbs)
    lower = jnp.where(total > most, threshold / 2, threshold)
    return jnp.where(total < least, threshold * 2, lower)

  return Accumulator(
    "threshold",
    init=lambda context: jnp.full((), first, jnp.float32),
    after_update=after_update,
  )
