"""The order of scores: floats as unsigned integers that rank alike everywhere."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, UInt32

HIGHEST_RANK = np.uint32(0xFFFFFFFF)
SIGN = np.uint32(0x80000000)
SMALLEST_NORMAL = np.float32(2.0**-126)


def canonical(scores: Float[Array, "*dims"]) -> Float32[Array, "*dims"]:
  """Returns float32 scores that every backend and platform ranks alike.

  NaN is -inf and a magnitude under 2^-126 is 0 (some platforms flush those).
  """
  x = scores.astype(jnp.float32)
  x = jnp.where(jnp.isnan(x), -jnp.inf, x)
  return jnp.where(jnp.abs(x) < SMALLEST_NORMAL, np.float32(0), x)


def ranks(
  scores: Float[Array, "*dims"] | UInt32[Array, "*dims"],
) -> UInt32[Array, "*dims"]:
  """Returns uint32 that order as the canonical scores do; -0 is 0.

  uint32 scores are ranks already.
  """
  if scores.dtype == jnp.uint32:
    return scores
  bits = lax.bitcast_convert_type(canonical(scores), jnp.uint32)
  bits = jnp.where(bits == SIGN, np.uint32(0), bits)
  return jnp.where(bits & SIGN != 0, ~bits, bits | SIGN)
