"""Densities per layer (Mocanu et al., 2018; Evci et al., 2020)."""

import math

from oracles import ranking


def uniform_densities(shapes, density):
  """The same density for every layer."""
  return [density] * len(shapes)


def erk_densities(shapes, density, *, kernel_dims=True):
  """Erdos-Renyi(-Kernel) at a given density of the whole network.

  raw_l = sum of the shape / product of the shape. While the largest density is
  above 1, the layers with the largest raw value are made dense and the factor
  is solved for again.
  """
  raws, sizes = [], []
  for shape in shapes:
    dims = shape if kernel_dims else shape[-2:]
    raws.append(sum(dims) / math.prod(dims))
    sizes.append(math.prod(shape))
  dense = set()
  while True:
    others = [layer for layer in range(len(shapes)) if layer not in dense]
    if not others:
      return [1.0] * len(shapes)
    target = sum(sizes[layer] for layer in others) * density
    target -= sum(sizes[layer] for layer in dense) * (1.0 - density)
    factor = target / sum(raws[layer] * sizes[layer] for layer in others)
    largest = max(raws[layer] for layer in others)
    if factor * largest <= 1.0 + 1e-9:
      break
    dense |= {layer for layer in others if raws[layer] == largest}
  return [
    1.0 if layer in dense else factor * raws[layer]
    for layer in range(len(shapes))
  ]


def epsilon_densities(shapes, epsilon):
  """SET's form: epsilon (n_in + n_out) / (n_in n_out), at most 1."""
  densities = []
  for shape in shapes:
    n_in, n_out = shape[-2:]
    densities.append(min(1.0, epsilon * (n_in + n_out) / (n_in * n_out)))
  return densities


def budgets(densities, sizes):
  """Integer counts per layer; they sum to floor_tol of the real-valued sum."""
  shares = [d * n for d, n in zip(densities, sizes, strict=True)]
  return ranking.largest_remainder(
    shares, sizes, ranking.floor_tol(sum(shares))
  )
