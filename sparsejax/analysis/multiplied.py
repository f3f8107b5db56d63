"""Which leaves are kernels, by what a forward pass does with them."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from sparsejax.analysis import flops
from sparsejax.components import trees


def multiplied(
  apply: Callable[..., Any], params: PyTree, *example: Any
) -> PyTree:
  """Returns the leaves that are multiplied with data, for `select=`.

  Those are the matrices of products and convolutions, under any name.
  Biases, scales, norms and position information are added or scale elements, an
  example selects rows of embeddings, also of one that is the output layer as
  well: they stay dense.

  Args:
    apply: (params, *example) -> output, as for `flops.multiply_adds`.
    params: tree of arrays, or of shapes with dtypes.
    *example: inputs of one example, or their shapes.

  Returns:
    A tree of bools like `params`.

  Examples:
    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((8, 3)), "pos": jnp.ones((4, 8))}
    >>> apply = lambda p, x: (x + p["pos"]) @ p["w"]
    >>> multiplied(apply, params, jnp.ones((4, 8)))
    {'pos': False, 'w': True}
  """
  costs = flops.multiply_adds(apply, params, *example)
  chosen = [
    name in costs.kernels
    and name not in costs.lookups
    and sum(size > 1 for size in leaf.shape) > 1
    for name, leaf in trees.named_leaves(params)
  ]
  return jax.tree.unflatten(jax.tree.structure(params), chosen)
