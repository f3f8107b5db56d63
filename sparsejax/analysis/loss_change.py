"""How the loss changes when weights are removed: one by one, and together.

Gradient-driven criteria score each weight by the change of the loss if it alone
is removed, `L(w with w_i = 0) - L(w)`, to first order `-g_i w_i`, and then
remove many at once. OptG calls that the independence paradox: the changes of
single weights do not add up. `of_removal` measures by how much.

Its scores accumulate the same change. Every step adds `-eta g_i w_i` at all
positions, so after T steps a score is eta times the sum of the first-order
changes along the way, at weights and masks that moved in between: the score of
an active weight rises where its removal would raise the loss, that of an
inactive one where its return would lower it.

References:
  Zhang et al., `OptG: optimizing gradient-driven criteria in network sparsity
  <https://arxiv.org/abs/2201.12826>`_, 2022, sections 3.1 and 3.2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sparsejax.components import trees
from sparsejax.method import Key, Masks

LossFn = Callable[[PyTree], Float[Array, ""]]


class LossChange(NamedTuple):
  """What removing a set of weights does to the loss.

  Attributes:
    actual: `L(w with the set removed) - L(w)`.
    first_order: the sum of `-g_i w_i` over the set.
    alone: the sum over the set of `L(w with w_i = 0) - L(w)`, estimated from a
      sample; None without one.
    removed: number of weights in the set.
  """

  actual: float
  first_order: float
  alone: float | None
  removed: int

  @property
  def interaction(self) -> float:
    """The change that single weights do not explain: the paradox."""
    return self.actual - (
      self.first_order if self.alone is None else self.alone
    )


def first_order(params: PyTree, grads: PyTree) -> PyTree:
  """Returns the change of the loss if a weight alone is removed, `-g w`.

  Also at inactive positions, with the value that a weight would return with:
  there it is the loss that staying away costs.

  Args:
    params: tree of float arrays; latent weights where a method keeps them.
    grads: the plain gradient, like `params`.

  Returns:
    A tree of float32 arrays like `params`.
  """
  return jax.tree.map(
    lambda w, g: -g.astype(jnp.float32) * w.astype(jnp.float32), params, grads
  )


def of_removal(
  loss_fn: LossFn,
  params: PyTree,
  removed: Masks,
  *,
  sample: int = 0,
  key: Key | None = None,
) -> LossChange:
  """Measures what removing a set of weights does to the loss.

  Args:
    loss_fn: params -> the loss, on fixed data.
    params: tree of float arrays.
    removed: bool arrays like the parameters, `True` = in the set; `MaskedNode`
      at leaves without one.
    sample: how many weights of the set are removed one by one for `alone`; 0
      for none, and all of them if the set is no larger.
    key: random key of the sample; needed if it is not 0.

  Returns:
    Losses are computed in the dtype of `loss_fn`, sums in float64.

  Raises:
    ValueError: if `sample` is negative or needs a key.

  Examples:
    >>> loss = lambda p: (p["w"].sum() - 1.0) ** 2
    >>> params, both = {"w": jnp.ones(2)}, {"w": jnp.ones(2, bool)}
    >>> change = of_removal(loss, params, both, sample=2, key=jax.random.key(0))
    >>> change.actual, change.first_order, change.alone, change.interaction
    (0.0, -4.0, -2.0, 2.0)
  """
  if sample < 0 or (sample and key is None):
    raise ValueError(
      f"`sample` must be 0, or a number of weights together with `key`, got"
      f" {sample} and key={key}."
    )
  before, grads = jax.value_and_grad(loss_fn)(params)
  kept = jax.tree.map(
    lambda flag: flag if trees.is_masked_node(flag) else ~flag,
    removed,
    is_leaf=trees.is_masked_node,
  )
  after = loss_fn(trees.where(kept, params))
  positions = _positions(removed)
  predicted = _values(first_order(params, grads), positions)
  alone = None
  if sample:
    assert key is not None
    alone = _alone(loss_fn, params, positions, sample, key) - (
      float(before) * len(positions)
    )
  return LossChange(
    actual=float(after) - float(before),
    first_order=float(predicted.sum()),
    alone=alone,
    removed=len(positions),
  )


def _positions(removed: Masks) -> np.ndarray:
  """Returns int[removed, 2]: the leaf of each removed weight, and its index."""
  found = []
  leaves = jax.tree.leaves(removed, is_leaf=trees.is_masked_node)
  for number, flags in enumerate(leaves):
    if not trees.is_masked_node(flags):
      (index,) = np.nonzero(np.asarray(flags).ravel())
      found.append(np.stack([np.full_like(index, number), index], axis=1))
  return np.concatenate(found) if found else np.zeros((0, 2), int)


def _values(tree: PyTree, positions: np.ndarray) -> np.ndarray:
  """Returns float64[positions], the numbers of a tree at them."""
  leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
  return np.asarray([leaves[leaf][index] for leaf, index in positions])


def _alone(
  loss_fn: LossFn,
  params: PyTree,
  positions: np.ndarray,
  sample: int,
  key: Key,
) -> float:
  """Returns the sum of the losses with each weight of a set removed alone."""
  count = min(sample, len(positions))
  if not count:
    return 0.0
  order = jax.random.permutation(key, len(positions))[:count]
  chosen = jnp.asarray(positions[np.sort(np.asarray(order))])
  leaves, treedef = jax.tree.flatten(params)

  def without(position: Array) -> Array:
    changed = [
      jnp.where(
        (position[0] == number) & (jnp.arange(x.size) == position[1]),
        jnp.zeros((), x.dtype),
        x.ravel(),
      ).reshape(x.shape)
      for number, x in enumerate(leaves)
    ]
    return loss_fn(jax.tree.unflatten(treedef, changed))

  losses = jax.jit(lambda x: jax.lax.map(without, x))(chosen)
  return float(np.asarray(losses, np.float64).mean() * len(positions))
