"""Blocks whose parameters are stacked along a first axis."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn


def stacked(
  block: type[nn.Module], depth: int, *, remat: bool
) -> Callable[..., Any]:
  """Repeat a block, with new parameters for each repetition.

  Args:
    block: module whose call maps (x, None) to (x, None).
    depth: number of repetitions.
    remat: whether the backward pass computes each block again.

  Returns:
    A module class with the arguments of `block`. Its parameters have a leading
    axis of `depth`, and one block is compiled for all.
  """
  return nn.scan(
    nn.remat(block, prevent_cse=False) if remat else block,
    variable_axes={"params": 0},
    split_rngs={"params": True, "dropout": True},
    length=depth,
  )
