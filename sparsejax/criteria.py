"""Criteria: (param, grad, key) -> what each weight is worth."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped, UInt32

from sparsejax.base import Key


def magnitude(
  param: Shaped[Array, "*dims"],
  grad: Shaped[Array, "*dims"],
  key: Key | None,
) -> Float[Array, "*dims"]:
  """Scores a weight by `|w|`, in float32."""
  del grad, key  # Unused by magnitude.
  return jnp.abs(param.astype(jnp.float32))


def gradient(
  param: Shaped[Array, "*dims"],
  grad: Shaped[Array, "*dims"],
  key: Key | None,
) -> Float[Array, "*dims"]:
  """Scores a position by `|dL/dw|` of the dense gradient, in float32."""
  del param, key  # Unused by the gradient criterion.
  return jnp.abs(grad.astype(jnp.float32))


def random(
  param: Shaped[Array, "*dims"],
  grad: Shaped[Array, "*dims"],
  key: Key | None,
) -> UInt32[Array, "*dims"]:
  """Scores every position by 32 random bits."""
  del grad  # Unused by the random criterion.
  if key is None:
    raise ValueError(
      "`key` must be given to a method that draws at random, got None. Pass"
      " key=jax.random.key(0) to `sparsify`."
    )
  return jax.random.bits(key, param.shape, jnp.uint32)


ELEMENTWISE = frozenset({magnitude, gradient})
"""Criteria that need no key and no neighbours, so any packing may hold them."""
