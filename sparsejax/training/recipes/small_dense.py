"""Small-Dense: a narrow dense network with the size of a sparse one."""

import functools
from collections.abc import Callable

import flax.linen as nn

from sparsejax import methods
from sparsejax.components import counts
from sparsejax.training.recipes.recipe import ModelSize, Recipe

_WIDTHS = 1024  # Widths are multiples of 1 / 1024.


def small_dense(sparsity: float, *, count_masks: bool = True) -> Recipe:
  """Train the widest dense network within the size of a sparse one.

  Args:
    sparsity: fraction of zeros in the equivalent sparse network, in [0, 1).
    count_masks: whether the size of the sparse network includes its masks, one
      bit per weight, in addition to 32 bits per parameter.

  Returns:
    The recipe.

  References:
    Evci et al., `Rigging the lottery <https://arxiv.org/abs/1911.11134>`_,
    2020, Section 4.1.
  """
  methods.static(sparsity)  # Validates `sparsity`.
  return Recipe(
    methods.dense(),
    build_model=functools.partial(
      _narrow, sparsity=sparsity, count_masks=count_masks
    ),
    equivalent_sparsity=sparsity,
  )


def _narrow(
  make: Callable[..., nn.Module],
  size: ModelSize,
  *,
  sparsity: float,
  count_masks: bool,
) -> nn.Module:
  """Returns the widest model within the bits of the sparse one."""
  sparse, parameters = size.sparse_weights(make()), size.parameters(make())
  active = counts.requested_count(sparse, sparsity)
  budget = 32 * (active + parameters - sparse) + count_masks * sparse
  low, high = 0, _WIDTHS  # A model of width low / _WIDTHS fits.
  while low < high:
    middle = (low + high + 1) // 2
    fits = 32 * size.parameters(make(width=middle / _WIDTHS)) <= budget
    low, high = (middle, high) if fits else (low, middle - 1)
  if not low:
    least = size.parameters(make(width=1 / _WIDTHS))
    raise ValueError(
      f"`sparsity` of {sparsity} leaves {budget // 32} parameters, but the"
      f" narrowest model has {least}. Lower it."
    )
  return make(width=low / _WIDTHS)
