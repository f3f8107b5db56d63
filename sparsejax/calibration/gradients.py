"""Squared gradients of a loss, summed over batches or examples."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from sparsejax.calibration.solvers import GradientStatistic


def squares(
  loss: Callable[[PyTree, PyTree], Array],
  params: PyTree,
  batches: Iterable[PyTree],
  each: GradientStatistic,
) -> PyTree:
  """Returns a tree like `params` of float32: squared gradients, summed.

  Raises:
    ValueError: if `loss` returns no scalar.
  """

  def of_batch(params: PyTree, batch: PyTree) -> PyTree:
    gradient = jax.grad(loss)(params, batch)
    return jax.tree.map(lambda g: jnp.square(g.astype(jnp.float32)), gradient)

  def of_examples(params: PyTree, batch: PyTree) -> PyTree:
    def add(total: PyTree, example: PyTree) -> tuple[PyTree, None]:
      one = jax.tree.map(lambda x: x[None], example)
      return jax.tree.map(jnp.add, total, of_batch(params, one)), None

    return lax.scan(add, _zeros(params), batch)[0]

  of = of_batch if each == "batch" else of_examples

  @jax.jit
  def add_batch(total: PyTree, params: PyTree, batch: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, total, of(params, batch))

  total = _zeros(params)
  for batch in batches:
    _check_scalar(loss, params, batch)
    total = add_batch(total, params, batch)
  return total


def _zeros(params: PyTree) -> PyTree:
  return jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params)


def _check_scalar(loss: Callable[..., Any], params: Any, batch: Any) -> None:
  found = jax.eval_shape(loss, params, batch)
  if getattr(found, "shape", None) != ():
    raise ValueError(
      "`apply` must return the loss, a scalar, for a solver that reads"
      f" gradients, got {found}."
    )
