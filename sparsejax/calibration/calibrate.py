"""Calibration of a model, and how far pruning moves its outputs."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from sparsejax.calibration import layers, statistics, taps
from sparsejax.calibration.statistics import InputStatistic
from sparsejax.components.leaves import Overrides, Select


class Inputs(NamedTuple):
  """What the matrices of a leaf got as inputs.

  Attributes:
    tap: the matrices, S slices of a stack of B each, I inputs and O outputs.
    sums: float32[S, B, I] or [S, B, I, I], the statistic over all batches.
  """

  tap: taps.Tap
  sums: Float[Array, "s b ..."]


def calibrate(
  apply: Callable[[PyTree, Any], Any],
  params: PyTree,
  batches: Iterable[PyTree],
  *,
  statistic: InputStatistic = statistics.SQUARED_NORMS,
  select: Select = None,
  overrides: Overrides | None = None,
  max_bytes: int = statistics.MAX_BYTES,
) -> dict[str, tuple[Inputs, ...]]:
  """Sums up what the matrix products and convolutions of a model get as inputs.

  The forward pass is traced, and each sparse leaf is followed to the products
  that read it: through casts, reshapes, transposes and slices, inside `jit`,
  `checkpoint`, `custom_jvp` and `cond`, and into the body of a `scan`, where
  each slice of a stacked leaf has its own sums. A leaf that is read several
  times sums over all readings. The inputs of a convolution are its patches.

  Args:
    apply: (params, batch) -> anything, a pure function. It may close over other
      arrays, such as batch statistics.
    params: tree of arrays; may be sharded: sums are sharded along the inputs as
      the leaf is.
    batches: an iterable of batches; an iterator is read into a list.
    statistic: `SQUARED_NORMS`, `sum_t x_ti^2`, or `GRAM`, `sum_t x_ti x_tj`.
    select: which leaves are sparse, as in `sparsify`.
    overrides: as in `sparsify`.
    max_bytes: sums that are computed in one pass over the batches, at least
      those of one matrix.

  Returns:
    Leaf name -> its inputs: one entry, or one for each part of a leaf that is
    split before its products.

  Raises:
    ValueError: if a sparse leaf is read where it cannot be tapped, or by no
      product; it is named.

  Examples:
    >>> import jax.numpy as jnp, sparsejax
    >>> params = {"kernel": jnp.ones((2, 3))}
    >>> apply = lambda params, x: x @ params["kernel"]
    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> (inputs,) = sparsejax.calibrate(apply, params, [x])["kernel"]
    >>> inputs.sums.tolist()
    [[[10.0, 20.0]]]
  """
  params = jax.tree.map(jnp.asarray, params)
  forward = statistics.Forward(apply, params, batches)
  tapped = layers.find(forward.program, params, select, overrides)
  parts: dict[Any, list[Array]] = {tap.key: [] for tap in tapped.taps}
  for units in statistics.passes(tapped.taps, statistic, max_bytes):
    found = forward.sums(params, units, statistic)
    for unit, sums in zip(units, found, strict=True):
      parts[unit.tap.key].append(sums)
  return {
    leaf.name: tuple(
      Inputs(tap, _joined(parts[tap.key])) for tap in tapped.of(leaf)
    )
    for leaf in tapped.layout.leaves
  }


def output_errors(
  inputs: dict[str, tuple[Inputs, ...]], params: PyTree, pruned: PyTree
) -> dict[str, float]:
  """Returns how far the outputs of each leaf's matrices move.

  The error `||X W - X W'||^2 / ||X W||^2` over all its matrices, each with the
  inputs X that `inputs` was computed from. Take batches that pruning has not
  seen.

  Args:
    inputs: of `calibrate` with `statistic=GRAM`.
    params: the dense network.
    pruned: the pruned one.
  """
  old, new = (
    [jnp.asarray(x) for x in jax.tree.leaves(tree)] for tree in (params, pruned)
  )
  errors = {}
  for name, parts in inputs.items():
    moved, total = 0.0, 0.0
    for tap, gram in parts:
      before = tap.matrices(old[tap.leaf]).astype(jnp.float32)
      after = tap.matrices(new[tap.leaf]).astype(jnp.float32)
      moved += float(_energy(before - after, gram))
      total += float(_energy(before, gram))
    errors[name] = moved / total if total else 0.0
  return errors


@jax.jit
def _energy(
  matrices: Float[Array, "s b i o"], gram: Float[Array, "s b i i"]
) -> Float[Array, ""]:
  """Returns `||X W||^2`, summed over all matrices."""
  product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
  outputs = product("sbij,sbjo->sbio", gram, matrices)
  return jnp.maximum(product("sbio,sbio->", matrices, outputs), 0.0)


def _joined(parts: list[Array]) -> Array:
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts)
