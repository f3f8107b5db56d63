"""Whether all numbers of a tree are finite, in little code for compilers."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, PyTree

from sparsejax.selection import bitmasks

_SMALL = 2**20  # elements of an array that is joined with others
# Integers that hold the bits of floating numbers.
_WORDS = {
  np.dtype(floating): np.dtype(word)
  for floating, word in (
    (jnp.float32, np.int32),
    (jnp.bfloat16, np.int16),
    (jnp.float16, np.int16),
  )
}


def all_finite(tree: PyTree) -> Bool[Array, ""]:
  """Says whether all floating numbers of a tree are finite.

  Args:
    tree: arrays and numbers of any shape and dtype, at least one of them
      floating; integers are not looked at.

  Returns:
    bool[].
  """
  leaves = map(jnp.asarray, jax.tree.leaves(tree))
  inexact = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]
  return jnp.all(jnp.stack([_is_finite(x) for x in _few(inexact)]))


def _few(arrays: list[Array]) -> list[Array]:
  """Returns the numbers of arrays in fewer ones: small ones are joined.

  Every array takes code of its own, and a network has many small leaves. Not
  where they may lie on several devices, which that would gather.
  """
  if bitmasks.is_sharded(arrays):
    return arrays
  few = [x for x in arrays if x.size > _SMALL]
  small = [x for x in arrays if x.size <= _SMALL]
  for dtype in dict.fromkeys(x.dtype for x in small):
    few.append(jnp.concatenate([x.ravel() for x in small if x.dtype == dtype]))
  return few


@jax.jit
def _is_finite(x: Array) -> Bool[Array, ""]:
  """Says whether all elements are finite.

  By their extremes: XLA makes one kernel of a reduction with two outputs, and
  three of one with a single output, half a second for a ResNet-50 on a CPU.
  """
  word = _WORDS.get(x.dtype)
  if word is None:
    return jnp.all(jnp.isfinite(x))
  # The difference is +0, of which all bits are 0, or not a number.
  bits = lax.bitcast_convert_type(x - x, word)
  least, most = lax.reduce(
    (bits, bits),
    (word.type(0), word.type(0)),
    lambda a, b: (lax.min(a[0], b[0]), lax.max(a[1], b[1])),
    tuple(range(x.ndim)),
  )
  return (least == 0) & (most == 0)
