"""Budgets that follow from calibration: OWL."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sparsejax.method import Distribution


class Measured(NamedTuple):
  """Matrices of one layer, and the norms of their inputs.

  Attributes:
    layer: its name.
    weights: float32[M, I, O].
    squared_norms: float32[M, I].
  """

  layer: str
  weights: Float[Array, "m i o"]
  squared_norms: Float[Array, "m i"]


class CalibratedDistribution(NamedTuple):
  """A distribution that is fitted to calibration data first.

  Attributes:
    fit: all layers, as often as it likes to read them -> the distribution.
  """

  fit: Callable[[Callable[[], Iterable[Measured]]], Distribution]


def owl(
  *,
  outlier: float = 5.0,
  spread: float = 0.08,
  block: Callable[[str], Hashable] = lambda layer: layer,
) -> CalibratedDistribution:
  """OWL: layers with many outliers keep more weights.

  An outlier is a weight whose `|w| ||x||` exceeds `outlier` times the mean of
  its block. Sparsities fall linearly with the share of outliers, over a range
  of `2 spread`, and are shifted so that the network reaches the requested one;
  the paper makes their plain mean that one, which is the same for blocks of
  equal size.

  Args:
    outlier: M of the paper, above 0 (5 or 7 there).
    spread: lambda of the paper: a sparsity is at most about this far from the
      mean, at least 0.
    block: layer name, like `blocks/mlp/up[3]` -> what it shares a sparsity with
      others by. The paper takes transformer blocks.

  Raises:
    ValueError: if a number is out of range.

  References:
    Yin et al., `Outlier weighed layerwise sparsity (OWL)
    <https://arxiv.org/abs/2310.05175>`_, 2024, section 3.
  """
  if not outlier > 0:
    raise ValueError(f"`outlier` must be above 0, got {outlier}.")
  if not spread >= 0:
    raise ValueError(f"`spread` must be at least 0, got {spread}.")

  def fit(measured: Callable[[], Iterable[Measured]]) -> Distribution:
    shares = _outlier_shares(measured, outlier, block)

    def distribution(shapes, sparsity) -> dict[str, float]:
      sizes = {name: float(np.prod(shape)) for name, shape in shapes.items()}
      raw = np.asarray([shares[block(name)] for name in shapes])
      width = raw.max() - raw.min()
      scaled = (raw - raw.min()) / width if width else np.zeros_like(raw)
      weight = np.asarray([sizes[name] for name in shapes])
      density = 2 * spread * scaled
      density = _shifted(density, weight, 1 - sparsity)
      return dict(zip(shapes, (1 - density).tolist(), strict=True))

    return distribution

  return CalibratedDistribution(fit)


def _shifted(
  density: np.ndarray, weight: np.ndarray, mean: float
) -> np.ndarray:
  """Shifts densities to a weighted mean; none leaves [0, 1]."""
  low, high = -1.0 - density.max(), 1.0
  for _ in range(100):
    shift = (low + high) / 2
    reached = np.average(np.clip(density + shift, 0, 1), weights=weight)
    low, high = (shift, high) if reached < mean else (low, shift)
  return np.clip(density + high, 0, 1)


def _outlier_shares(
  measured: Callable[[], Iterable[Measured]],
  outlier: float,
  block: Callable[[str], Hashable],
) -> dict[Hashable, float]:
  sums: dict[Hashable, float] = defaultdict(float)
  sizes: dict[Hashable, int] = defaultdict(int)
  for x in measured():
    sums[block(x.layer)] += float(jnp.sum(_products(x)))
    sizes[block(x.layer)] += x.weights.size
  found: dict[Hashable, int] = defaultdict(int)
  for x in measured():
    bound = outlier * sums[block(x.layer)] / sizes[block(x.layer)]
    found[block(x.layer)] += int(jnp.sum(_products(x) > bound))
  return {name: found[name] / size for name, size in sizes.items()}


@jax.jit
def _product(weights: Array, squared_norms: Array) -> Float[Array, "m i o"]:
  return jnp.abs(weights) * jnp.sqrt(squared_norms)[..., None]


def _products(x: Measured) -> Float[Array, "m i o"]:
  return _product(x.weights, x.squared_norms)
