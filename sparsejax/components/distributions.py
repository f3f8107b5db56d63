"""Distributions: network sparsity -> one sparsity per layer.

They run on the host in float64. Shapes are those of the kernels, with the
output dimension last: (in, out) or (height, width, in, out).
"""

import fnmatch
import math
from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]

_FULL = 1 + 1e-9
_TOLERANCE = 1e-6


def uniform(
  shapes: Shapes,
  sparsity: float,
  *,
  stem: str | None = None,
  classifier: str | None = None,
  classifier_sparsity: float = 0.8,
) -> dict[str, float]:
  """The same sparsity in every layer.

  Args:
    shapes: layer name -> shape.
    sparsity: fraction of zeros in [0, 1).
    stem: glob of layers that stay dense, as in RigL and GMP. The others do not
      compensate: the network ends below `sparsity`.
    classifier: glob of layers that stay at `classifier_sparsity` once
      `sparsity` reaches it. The others compensate, as in GraNet's code.
    classifier_sparsity: the cap of the classifier, in [0, 1).

  Returns:
    Layer name -> sparsity in [0, 1).

  Raises:
    ValueError: if a glob matches no layer.

  References:
    Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_,
    2020, section 3; Liu et al., `GraNet <https://arxiv.org/abs/2106.10404>`_,
    2021, appendix C.
  """
  dense = _matching(shapes, stem, "stem")
  capped = _matching(shapes, classifier, "classifier") - dense
  if sparsity < classifier_sparsity:
    capped = set()
  result = dict.fromkeys(shapes, sparsity) | dict.fromkeys(dense, 0.0)
  others = set(shapes) - dense - capped
  if capped and others:
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    total = sum(size[name] for name in others | capped)
    taken = (1 - classifier_sparsity) * sum(size[name] for name in capped)
    left = total * (1 - sparsity) - taken
    rest = 1 - left / sum(size[name] for name in others)
    result |= dict.fromkeys(capped, classifier_sparsity)
    result |= dict.fromkeys(others, rest)
  return result


def uniform_whole(shapes: Shapes, sparsity: float) -> dict[str, float]:
  """The same sparsity in every layer, where `floor(n s)` of n are pruned.

  `uniform` instead rounds layers so that they sum to the sparsity of the
  network; of few filters that differs.

  References:
    Liu et al., `GraNet <https://arxiv.org/abs/2106.10404>`_, 2021, appendix A
    and code.
  """
  size = {name: math.prod(shape) for name, shape in shapes.items()}
  return {n: math.floor(sparsity * k + _TOLERANCE) / k for n, k in size.items()}


def er(
  shapes: Shapes, sparsity: float, *, power: float = 1.0, dense: str = ""
) -> dict[str, float]:
  """Erdos-Renyi: density grows with (in + out) / (in * out).

  Arguments and result are those of `erk`, which counts the dimensions of the
  kernel as well.

  References:
    Mocanu et al., `SET <https://arxiv.org/abs/1707.04780>`_, 2018.
  """
  kernels = {name: shape[-2:] for name, shape in shapes.items()}
  return _erdos_renyi(shapes, kernels, sparsity, power, dense)


def erk(
  shapes: Shapes, sparsity: float, *, power: float = 1.0, dense: str = ""
) -> dict[str, float]:
  """Erdos-Renyi-Kernel: density grows with sum(shape) / prod(shape).

  Layers whose density would exceed 1 are made dense, all layers of the largest
  raw density at a time, until the rest fits.

  Args:
    shapes: layer name -> shape.
    sparsity: fraction of zeros in [0, 1).
    power: exponent of the raw density; 0 gives `uniform`.
    dense: glob of layers that are dense from the start, within the budget.

  Returns:
    Layer name -> sparsity in [0, 1]; `sum n_l s_l = N s`.

  Raises:
    ValueError: if `dense` matches no layer, or layers that exceed the budget.

  References:
    Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_,
    2020, section 3.
  """
  return _erdos_renyi(shapes, shapes, sparsity, power, dense)


def er_epsilon(
  shapes: Shapes, sparsity: float | None = None, *, epsilon: float
) -> dict[str, float]:
  """Erdos-Renyi with the density of SET: `min(1, eps (in+out) / (in out))`.

  Epsilon, the connections per unit, is above 0.

  References:
    Mocanu et al., `SET <https://arxiv.org/abs/1707.04780>`_, 2018, equation 3.
  """
  del sparsity  # Epsilon sets the density.
  if any(len(shape) < 2 for shape in shapes.values()):
    raise ValueError(
      "`epsilon` counts the connections of a unit, which whole filters do not"
      " have. Give a `sparsity`."
    )
  return {
    n: 1 - min(1.0, epsilon * sum(s[-2:]) / math.prod(s[-2:]))
    for n, s in shapes.items()
  }


def n_of_m(
  shapes: Shapes, sparsity: float | None = None, *, n: int, m: int
) -> dict[str, float]:
  """The sparsity of n active weights in every m along the inputs: `1 - n/m`.

  Below that sparsity more than n stay, `ceil(m (1 - s))`. It is 0 for a layer
  whose number of inputs is not a multiple of m.
  """
  active = n
  if sparsity is not None:
    active = max(n, math.ceil(m * (1 - sparsity) - _TOLERANCE))
  return {
    name: 0.0 if shape[-2] % m else 1 - active / m
    for name, shape in shapes.items()
  }


def _matching(shapes: Shapes, glob: str | None, argument: str) -> set[str]:
  if not glob:
    return set()
  names = set(fnmatch.filter(shapes, glob))
  if not names:
    raise ValueError(
      f"`{argument}` matches no sparse layer, got {glob!r}. Layers:"
      f" {', '.join(shapes)}."
    )
  return names


def _erdos_renyi(shapes, kernels, sparsity, power, dense_glob):
  """Scales the raw densities of the kernels to the budget."""
  size = {name: math.prod(shape) for name, shape in shapes.items()}
  raw = {n: (sum(s) / math.prod(s)) ** power for n, s in kernels.items()}
  dense = _matching(shapes, dense_glob, "dense")
  density, scale = 1 - sparsity, 0.0
  while True:
    rest = [name for name in shapes if name not in dense]
    taken = sum(size[n] * sparsity for n in dense)
    budget = sum(size[n] * density for n in rest) - taken
    if budget < 0:
      raise ValueError(
        f"`sparsity` of {sparsity} cannot be reached with the layers"
        f" {sorted(dense)} dense. Lower it, or leave them out of `dense`."
      )
    if not rest:
      break
    scale = budget / sum(raw[n] * size[n] for n in rest)
    largest = max(raw[n] for n in rest)
    if scale * largest <= _FULL:
      break
    dense |= {n for n in rest if raw[n] == largest}
  return {
    n: 0.0 if n in dense else max(0.0, 1 - scale * raw[n]) for n in shapes
  }
