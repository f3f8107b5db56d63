"""Matrix products and convolutions as matrices: weights, and their inputs."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jaxtyping import Array, Float, Shaped

from sparsejax.analysis import jaxprs

PRODUCTS = ("dot_general", "conv_general_dilated")


class Product(NamedTuple):
  """One product of data and weights, seen as products of matrices.

  Its operand that holds weights is matrices [B, I, O]: B products that share
  nothing (the batch dimensions of a `dot_general`, the feature groups of a
  convolution), I inputs, O outputs. Inputs of a convolution are the taps of its
  window, with the channels innermost.

  Attributes:
    weights: the operand -> its matrices [B, I, O].
    inputs: the other operand -> what the matrices multiply, [B, T, I].
    key: of products whose `weights` are the same function.
  """

  weights: Callable[[Shaped[Array, "..."]], Shaped[Array, "b i o"]]
  inputs: Callable[[Shaped[Array, "..."]], Shaped[Array, "b t i"]]
  key: tuple[Any, ...]


def product(eqn: core.JaxprEqn, side: int) -> Product | str:
  """Describes the product of an equation.

  Args:
    eqn: one of `PRODUCTS`.
    side: which operand holds the weights, 0 or 1.

  Returns:
    The product, or why it cannot be seen as one.
  """
  if eqn.primitive.name == "dot_general":
    return _dot_general(eqn, side)
  if side == 0:
    return "slides over data, as the first operand of a convolution"
  if eqn.params["batch_group_count"] != 1:
    return "is read by a convolution with `batch_group_count`"
  return _convolution(eqn)


def _dot_general(eqn: core.JaxprEqn, side: int) -> Product:
  contracted, batch = eqn.params["dimension_numbers"]
  shape = jaxprs.shape(eqn.invars[side])
  # In the order of the weights' axes, so that an index counts as in the leaf.
  inside, outside = _paired(contracted, side)
  groups, groups_outside = _paired(batch, side)
  others = [d for d in range(len(shape)) if d not in (*inside, *groups)]
  sizes = [math.prod(shape[d] for d in dims) for dims in (groups, inside)]

  def weights(operand: Shaped[Array, "..."]) -> Shaped[Array, "b i o"]:
    ordered = operand.transpose(*groups, *inside, *others)
    return ordered.reshape(*sizes, -1)

  def inputs(operand: Shaped[Array, "..."]) -> Shaped[Array, "b t i"]:
    rows = [
      d for d in range(operand.ndim) if d not in (*outside, *groups_outside)
    ]
    ordered = operand.transpose(*groups_outside, *rows, *outside)
    return ordered.reshape(sizes[0], -1, sizes[1])

  return Product(weights, inputs, (tuple(groups), tuple(inside)))


def _paired(
  pairs: Sequence[Sequence[int]], side: int
) -> tuple[list[int], list[int]]:
  """Returns the axes of the weights in order, and those of the data."""
  both = sorted(zip(pairs[side], pairs[1 - side], strict=True))
  return [int(a) for a, _ in both], [int(b) for _, b in both]


def _convolution(eqn: core.JaxprEqn) -> Product:
  params = eqn.params
  numbers, groups = params["dimension_numbers"], params["feature_group_count"]
  out, channel, *window = numbers.rhs_spec
  shape = jaxprs.shape(eqn.invars[1])
  size = [shape[d] for d in window]
  inputs_per_group = math.prod(size) * shape[channel]

  def weights(operand: Shaped[Array, "..."]) -> Shaped[Array, "b i o"]:
    ordered = operand.transpose(out, *window, channel)
    matrices = ordered.reshape(groups, -1, inputs_per_group)
    return matrices.transpose(0, 2, 1)

  def inputs(operand: Shaped[Array, "..."]) -> Shaped[Array, "b t i"]:
    patches = lax.conv_general_dilated_patches(
      operand.astype(jnp.float32),
      size,
      params["window_strides"],
      params["padding"],
      lhs_dilation=params["lhs_dilation"],
      rhs_dilation=params["rhs_dilation"],
      dimension_numbers=lax.ConvDimensionNumbers(
        numbers.lhs_spec, numbers.rhs_spec, numbers.lhs_spec
      ),
      precision=lax.Precision.HIGHEST,
    )
    last = jnp.moveaxis(patches, numbers.lhs_spec[1], -1)
    last = last.reshape(-1, groups, shape[channel], math.prod(size))
    return last.transpose(1, 0, 3, 2).reshape(groups, -1, inputs_per_group)

  return Product(weights, inputs, (tuple(numbers.rhs_spec), groups))


def squared_norms(inputs: Float[Array, "b t i"]) -> Float[Array, "b i"]:
  """Returns `sum_t x_ti^2` in float32."""
  return jnp.sum(jnp.square(inputs.astype(jnp.float32)), axis=1)


def gram(inputs: Float[Array, "b t i"]) -> Float[Array, "b i i"]:
  """Returns `sum_t x_ti x_tj` in float32."""
  x = inputs.astype(jnp.float32)
  return jnp.einsum("bti,btj->bij", x, x, precision=lax.Precision.HIGHEST)
