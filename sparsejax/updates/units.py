"""Units in the place of weights: filters or blocks that are pruned as one.

The parts of a method see a unit as one weight, so that search, counts and
random bits are those of single weights. The score of a unit is the sum of those
of its weights; what draws at random or looks at other positions sees the units
themselves. The sums come before the conditional that holds the search, as its
operands: one that is computed twice may differ in the last bit.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool

from sparsejax.components import criteria
from sparsejax.method import (
  Accumulator,
  Context,
  Criterion,
  Layout,
  Leaf,
  Method,
  Units,
)


def named(
  method: Method, layout: Layout, masks: Sequence[Array]
) -> tuple[dict[str, Bool[Array, "..."]], ...]:
  """Returns masks of units as `SparseState` has them; none for weights."""
  units = method.units(layout)
  if units is None:
    return ()
  pairs = zip(units.layout.leaves, masks, strict=True)
  return tuple({array.name: mask} for array, mask in pairs)


def with_units(
  method: Method, context: Context, masks: Sequence[Array]
) -> Context:
  """Returns the context with its units, whose masks are given in order."""
  units = method.units(context.layout)
  if units is None:
    return context
  leaves = _leaves(units, context.leaves, masks)
  return context._replace(
    units=context._replace(layout=units.layout, leaves=leaves)
  )


def scored(method: Method, context: Context) -> Context:
  """Returns the context whose units have the scores that `in_units` reads."""
  units = method.units(context.layout)
  if units is None:
    return context
  sums = {
    _SCORES[part].name: score(units, criterion, context.leaves)
    for part, criterion in _criteria(method).items()
    if criterion.is_elementwise
  }
  leaves = [
    leaf._replace(
      accumulators={**leaf.accumulators, **{n: x[i] for n, x in sums.items()}}
    )
    for i, leaf in enumerate(context.units.leaves)
  ]
  return context._replace(units=context.units._replace(leaves=leaves))


def score(
  units: Units, criterion: Criterion, leaves: Sequence[Leaf]
) -> list[Array]:
  """Returns the score of each unit, the sum of those of its weights."""
  return units.sums([criterion(leaf) for leaf in leaves])


def in_units(method: Method) -> Method:
  """Returns the method whose criteria read the scores of `scored`."""
  if method.granularity.units is None:
    return method
  found = {
    part: criteria.accumulated(_SCORES[part]) if x.is_elementwise else x
    for part, x in _criteria(method).items()
  }
  prune, regrow = method.prune, method.regrow
  if prune is not None:
    prune = dataclasses.replace(prune, criterion=found["prune"])
  if regrow is not None:
    regrow = dataclasses.replace(
      regrow, prune_by=found["prune_by"], by=found.get("by")
    )
  return dataclasses.replace(method, prune=prune, regrow=regrow)


_SCORES = {
  part: Accumulator(f"scores of units: {part}", init=lambda context: None)
  for part in ("prune", "prune_by", "by")
}


def _criteria(method: Method) -> dict[str, Criterion]:
  """Returns the criteria of a mask update, by part."""
  prune, regrow = method.prune, method.regrow
  found = {
    "prune": prune and prune.criterion,
    "prune_by": regrow and regrow.prune_by,
    "by": regrow and regrow.by,
  }
  return {part: each for part, each in found.items() if each is not None}


def _leaves(
  units: Units, leaves: Sequence[Leaf], masks: Sequence[Array]
) -> list[Leaf]:
  """Returns what parts see of the arrays of units."""

  def sums(field: str) -> list[Array | None]:
    arrays = [getattr(leaf, field) for leaf in leaves]
    if any(array is None for array in arrays):
      return [None] * len(units.spans)
    return list(units.sums([jnp.abs(array) for array in arrays]))

  ever = {name: units.any(x) for name, x in _flags(leaves).items()}
  columns = zip(
    *map(sums, ("weights", "gradient", "momentum", "hessian_gradient")),
    strict=True,
  )
  return [
    Leaf(
      weights=weights,
      gradient=gradient,
      mask=masks[i],
      accumulators={name: flags[i] for name, flags in ever.items()},
      sparse=array,
      momentum=momentum,
      hessian_gradient=hessian_gradient,
    )
    for i, (
      array,
      (weights, gradient, momentum, hessian_gradient),
    ) in enumerate(zip(units.layout.leaves, columns, strict=True))
  ]


def _flags(leaves: Sequence[Leaf]) -> dict[str, list[Array]]:
  """Returns the accumulated bools of weights, such as the ever active ones."""
  return {
    name: [leaf.accumulators[name] for leaf in leaves]
    for name, x in leaves[0].accumulators.items()
    if x.dtype == jnp.bool_ and x.shape == leaves[0].weights.shape
  }
