"""Networks with dead channels, as a method that prunes filters leaves them."""

import jax
import numpy as np

from sparsejax.components import trees


def with_random_norms(variables, seed=0):
  """Returns the variables with random vectors, as if they had been trained."""
  rng = np.random.default_rng(seed)

  def noisy(leaf):
    leaf = np.asarray(leaf)
    if leaf.ndim != 1 or leaf.dtype != np.float32:
      return leaf
    return leaf + 0.1 * np.abs(rng.normal(size=leaf.shape)).astype(np.float32)

  return jax.tree.map(noisy, variables)


def kill(groups, variables, *, fraction=0.5, seed=0):
  """Masks what writes random groups and what is added to them.

  Args:
    groups: groups of the network.
    variables: its variables.
    fraction: share of the free groups that die.
    seed: of the choice.

  Returns:
    The variables, and bool[G], which groups are dead.
  """
  rng = np.random.default_rng(seed)
  dead = ~groups.frozen & (rng.random(len(groups)) < fraction)
  masks = groups.masks(dead)
  leaves = [
    np.where(masks[name], leaf, np.zeros_like(leaf))
    for name, leaf in trees.named_leaves(variables)
  ]
  return jax.tree.unflatten(jax.tree.structure(variables), leaves), dead
