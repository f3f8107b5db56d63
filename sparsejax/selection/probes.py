"""Probes: the ranks at which a pass of the search counts.

After a pass we know, for the interval (low, high] of ranks, that `reached` of
the scores have rank >= low, `above` of them rank > high, and
`reached >= k >= above`. So m = reached - above ranks lie inside, and the k-th
highest is number `reached - k` of them from below. If the ranks inside were
uniform, that order statistic would lie at the share

    p = (reached - k + 1/2) / m   of the interval,

with standard deviation sqrt(p (1 - p) / m), at least 1/m. Four probes stand at
-1.5, -0.5, 0.5 and 1.5 deviations around p, so the interval shrinks by about
sqrt(m) a pass where the guess is right. Three probes at the quarters guarantee
two bits a pass where it is wrong, 16 passes for 32 bits in the worst case. Once
the interval is as narrow as the number of probes, all its ranks are probed.
The first pass of float scores probes powers of two, where the magnitudes of
weights lie.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from sparsejax.components import wide_counts
from sparsejax.components.ranking import NORMAL_RANK, SIGN
from sparsejax.components.wide_counts import Counted

_DEVIATIONS = (-1.5, -0.5, 0.5, 1.5)  # probes around the expected bound
_QUARTERS = (0.25, 0.5, 0.75)
_LARGEST_FLOAT32_BELOW_2_32 = 4294967040.0
_FIRST_OF_RANKS = (np.arange(7) * (2**32 / 7)).astype(np.uint32)
_FIRST_OF_FLOATS = np.concatenate(
  [
    np.array([0, NORMAL_RANK], np.uint32),
    (2.0 ** np.array([-12, -9, -7, -5, -3])).astype(np.float32).view(np.uint32)
    | SIGN,
  ]
)


def first_probes(*, of_floats: bool) -> np.ndarray:
  """Returns uint32[probes], those of the first pass."""
  return _FIRST_OF_FLOATS if of_floats else _FIRST_OF_RANKS


def next_probes(
  low: UInt32[Array, " groups"],
  high: UInt32[Array, " groups"],
  above: Counted,
  reached: Counted,
  counts: Counted,
) -> UInt32[Array, "probes groups"]:
  """Returns uint32[probes, groups], each in (low, high].

  float32 is exact enough for a guess: a bad one costs a pass, not a result.
  """
  width = high - low
  wide = width.astype(jnp.float32)
  inside = wide_counts.maximum(reached - above, 1)
  inside = wide_counts.as_float32(inside)
  share = wide_counts.as_float32(reached - counts) + 0.5
  share = jnp.clip(share / inside, 0, 1)
  spread = jnp.maximum(share * (1 - share), 1 / inside) / inside
  deviation = jnp.sqrt(spread)
  places = [share + x * deviation for x in _DEVIATIONS]
  places += [jnp.full_like(share, x) for x in _QUARTERS]
  last = jnp.maximum(width, 1) - 1
  far = [jnp.clip(wide * x, 0, _LARGEST_FLOAT32_BELOW_2_32) for x in places]
  offsets = [jnp.minimum(x.astype(jnp.uint32), last) for x in far]
  # The last few ranks are counted one by one.
  few = width <= len(places)
  offsets = [
    jnp.where(few, jnp.minimum(np.uint32(i), last), offset)
    for i, offset in enumerate(offsets)
  ]
  return low + np.uint32(1) + jnp.stack(offsets)
