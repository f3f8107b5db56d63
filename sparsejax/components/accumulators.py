"""Memories: what a method accumulates, beside its masks."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from sparsejax.components import scopes, trees
from sparsejax.components.trees import Layout, SparseLeaf
from sparsejax.method import (
  Criterion,
  Distribution,
  Memory,
  Moment,
  Scores,
  Seen,
  Start,
  Update,
)
from sparsejax.selection import packing, search


@dataclasses.dataclass(frozen=True)
class Recalling:
  """A criterion, and the memories that it reads.

  Attributes:
    score: the criterion.
    memory: by name.
  """

  score: Criterion
  memory: Mapping[str, Memory] = dataclasses.field(hash=False)

  def __call__(self, seen: Seen) -> Scores:
    """Scores one leaf."""
    return self.score(seen)


def _itself(memory: PyTree) -> PyTree:
  return memory


def _like(tree: PyTree, leaves: list[Array]) -> PyTree:
  return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _union(memory: PyTree, update: Update) -> PyTree:
  pairs = zip(jax.tree.leaves(memory), update.seen, strict=True)
  return _like(memory, [ever | seen.mask for ever, seen in pairs])


ever_active = Memory(
  init=lambda start: jax.tree.map(jnp.array, start.masks),
  observe=_union,
  leaves=_itself,
)
"""Which weights were ever active; their share is the ITOP rate R_s.

References:
  Liu et al., `Do we actually need dense over-parameterization?
  <https://arxiv.org/abs/2102.02887>`_, 2021.
"""


class Learned(NamedTuple):
  """Numbers with an optimizer of their own.

  Attributes:
    values: tree like the masks.
    opt_state: the state of their optimizer.
  """

  values: PyTree
  opt_state: optax.OptState


def learned(
  tx: optax.GradientTransformation,
  first: Callable[[SparseLeaf, Array], Array],
  gradient: Callable[[Seen], Array],
) -> Memory:
  """Numbers that an optimizer of their own steps, once a step of the weights.

  Args:
    tx: their optimizer.
    first: (leaf, its parameters) -> the first numbers of the leaf.
    gradient: seen of a leaf -> the gradient of its numbers.
  """

  def init(start: Start) -> Learned:
    numbers = [
      first(leaf, param)
      for leaf, param in zip(
        start.layout.leaves, start.layout.take(start.params), strict=True
      )
    ]
    values = trees.masks_tree(start.params, start.layout, numbers)
    return Learned(values, tx.init(values))

  def step(memory: Learned, moment: Moment) -> Learned:
    grads = [
      gradient(seen).astype(value.dtype)
      for seen, value in zip(
        moment.seen, jax.tree.leaves(memory.values), strict=True
      )
    ]
    updates, opt_state = tx.update(
      _like(memory.values, grads), memory.opt_state, memory.values
    )
    return Learned(optax.apply_updates(memory.values, updates), opt_state)

  return Memory(init=init, step=step, leaves=lambda memory: memory.values)


def gradient_trace(decay: float) -> Memory:
  """Momentum of the dense gradient, `v <- decay v + G`, in float32.

  Args:
    decay: in [0, 1).
  """

  def step(memory: PyTree, moment: Moment) -> PyTree:
    pairs = zip(jax.tree.leaves(memory), moment.seen, strict=True)
    return _like(
      memory, [decay * v + s.grad.astype(jnp.float32) for v, s in pairs]
    )

  return Memory(
    init=lambda start: trees.map_masked(
      lambda m, p: jnp.zeros_like(p, dtype=jnp.float32),
      start.masks,
      start.params,
      dense=lambda p: optax.MaskedNode(),
    ),
    step=step,
    leaves=_itself,
  )


def widest(distribution: Distribution, sparsity: float) -> Memory:
  """The set of the largest weights of each layer, at a sparsity of its own.

  All weights that are on belong to it. When the two sparsities are close,
  budgets of whole weights may leave a layer with one on more than the set has.

  Args:
    distribution: sparsity per layer.
    sparsity: fraction of the weights outside the set, in [0, 1).
  """

  def largest(
    layout: Layout, leaves: list[Array], on: list[Array]
  ) -> list[Array]:
    scope = scopes.layerwise(distribution)
    counts = scope.budgets(layout, sparsity, 1.0, None)
    packed = packing.choose(layout, packing.is_apart(leaves))
    magnitudes = [jnp.abs(x.astype(jnp.float32)) for x in packed.pack(leaves)]
    chosen = search.select(
      magnitudes,
      counts.astype(np.int32),
      packed.contest(scope.groups(layout), layout.sizes),
      valid=packed.inside(),
    )
    return [c | m for c, m in zip(packed.unpack(chosen), on, strict=True)]

  def init(start: Start) -> PyTree:
    weights = start.layout.take(start.params)
    chosen = largest(start.layout, weights, jax.tree.leaves(start.masks))
    return trees.masks_tree(start.params, start.layout, chosen)

  def observe(memory: PyTree, update: Update) -> PyTree:
    weights = [seen.param for seen in update.seen]
    on = [seen.mask for seen in update.seen]
    return _like(memory, largest(update.layout, weights, on))

  return Memory(init=init, observe=observe, leaves=_itself)


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


def history(lag: int) -> Memory:
  """The metrics that `update` was given at its mask updates.

  Args:
    lag: how many epochs back the oldest one is, at least 0.
  """

  def observe(memory: History, update: Update) -> History:
    assert update.metric is not None  # `sparsify` requested it.
    return heard(memory, update.metric)

  return Memory(
    init=lambda start: History(
      jnp.zeros((), jnp.int32),
      jnp.zeros((), jnp.float32),
      jnp.zeros(lag + 1, jnp.float32),
    ),
    observe=observe,
  )


def heard(memory: History, metric: Float[Array, ""]) -> History:
  """Returns the history with one more metric."""
  return History(
    memory.epochs + 1,
    jnp.where(memory.epochs == 0, metric, memory.first),
    jnp.append(memory.recent[1:], metric),
  )


def _count_first(start: Start) -> Int[Array, " layers"]:
  layout = start.layout
  return search.count_active(
    jax.tree.leaves(start.masks),
    search.each_layer(layout.axes, len(layout.sizes)),
  )


first_counts = Memory(init=_count_first)
"""int32[layers], the active weights of each layer at step 0."""

first_signs = Memory(
  init=lambda start: trees.map_masked(
    lambda m, p: p >= 0,
    start.masks,
    start.params,
    dense=lambda p: optax.MaskedNode(),
  ),
  leaves=_itself,
)
"""Which weights were at or above 0 at `init`, before the first masks."""
