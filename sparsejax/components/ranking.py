"""The order of scores: floats as unsigned integers, alike on every backend."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt32

HIGHEST_RANK = np.uint32(0xFFFFFFFF)
SIGN = np.uint32(0x80000000)
_SMALLEST_NORMAL = np.float32(2.0**-126)


def ranks(
  scores: Float[Array, "*dims"] | UInt32[Array, "*dims"],
) -> UInt32[Array, "*dims"]:
  """Returns uint32 in the order of the scores; uint32 scores are ranks already.

  Scores are compared as float32. NaN ranks as -inf, -0 as 0, and magnitudes
  under 2^-126 as 0, because some platforms flush those.
  """
  if scores.dtype == jnp.uint32:
    return scores
  x = scores.astype(jnp.float32)
  x = jnp.where(jnp.isnan(x), -jnp.inf, x)
  x = jnp.where(jnp.abs(x) < _SMALLEST_NORMAL, np.float32(0), x)
  bits = lax.bitcast_convert_type(x, jnp.uint32)
  bits = jnp.where(bits == SIGN, np.uint32(0), bits)
  return jnp.where(bits & SIGN != 0, ~bits, bits | SIGN)
