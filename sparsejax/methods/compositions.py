"""What several methods share: prune-and-regrow, schedules, variants."""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from jaxtyping import Array, Bool, Float, Shaped

from sparsejax import method as method_parts
from sparsejax.components import (
  accumulators,
  arguments,
  counts,
  criteria,
  distributions,
  schedules,
  scopes,
)
from sparsejax.components.wide_counts import Counted
from sparsejax.method import (
  Context,
  Count,
  Criterion,
  Curve,
  Fraction,
  Granularity,
  Initial,
  Method,
  Prune,
  PruneAndRegrow,
  Scope,
  single_weights,
)

_T = TypeVar("_T")

ERK = scopes.layerwise(distributions.erk)
UNIFORM = scopes.layerwise(distributions.uniform)


def named(factory: Callable[..., Method]) -> Callable[..., Method]:
  """Lets the methods that a factory makes print as the call that made them."""
  signature = inspect.signature(factory)

  @functools.wraps(factory)
  def make(*args: Any, **kwargs: Any) -> Method:
    given = signature.bind(*args, **kwargs)
    method = factory(*args, **kwargs)
    # A copy with another part is another method: `replace` drops the name.
    object.__setattr__(
      method, "made_by", method_parts.called(make, given.arguments)
    )
    return method

  return make


def signs(weights: Shaped[Array, "*dims"]) -> Sequence[Bool[Array, "*dims"]]:
  """Two parts: weights at or above 0, and below."""
  return (weights >= 0, weights < 0)


def prune_and_regrow(
  by: Criterion,
  fraction: Fraction,
  when: schedules.Every,
  *,
  rounding: Callable[[Float[Array, "..."]], Float[Array, "..."]] = counts.ceil,
  **changes: Any,
) -> PruneAndRegrow:
  """Magnitude pruning of a fraction, and regrowth, inside each layer.

  Args:
    by: what is regrown first.
    fraction: step -> share of the layer's active weights, in [0, 1].
    when: the steps at which it is due.
    rounding: of the share, to a number of weights, in float64: `ceil` or
      `floor` of `counts`.
    **changes: other fields of `PruneAndRegrow`.
  """

  def prune_count(context: Context, active: Counted) -> Counted:
    return counts.share(active, fraction, context.step, rounding)

  return PruneAndRegrow(
    by=by,
    prune_by=criteria.magnitude,
    prune_count=Count(prune_count),
    when=when,
    **changes,
  )


def constant_or_rising(
  scope: Scope,
  sparsity: float | None,
  curve: Curve | None,
  *,
  every_steps: int,
  end_step: int,
) -> dict[str, Any]:
  """Fields of a method at constant sparsity, or of one that starts dense.

  That is where a curve is given, along which the sparsity rises until
  `end_step`. Without a sparsity the scope sets one, and it is constant.
  """
  if curve is None or sparsity is None:
    return {"initial": initial(scope, sparsity), "target_sparsity": sparsity}
  ramp = schedules.ramp(
    0.0, sparsity, curve=curve, end_step=end_step, every_steps=every_steps
  )
  return {
    "initial": Initial(ERK),
    "prune": Prune(ramp, scope, criteria.magnitude),
    "target_sparsity": sparsity,
  }


def initial(scope: Scope, sparsity: float | None) -> Initial:
  """Random first masks at a sparsity in [0, 1), or at that of the scope."""
  if sparsity is not None:
    arguments.check_sparsity(sparsity)
  return Initial(scope, sparsity=sparsity)


def with_granularity(method: Method, granularity: Granularity) -> Method:
  """Returns the method with another granularity, such as whole filters.

  All its sparsities, counts and fractions are then in units.

  Args:
    method: of single weights.
    granularity: `sparsejax.filters()`, `blocks(...)`, `n_of_m(...)` or
      `at_least(...)`.

  Raises:
    ValueError: for a method whose pattern or sparsity contradicts it.
  """
  prune = method.prune
  if granularity is single_weights:
    return method
  if method.initial.pattern or (prune and prune.pattern):
    raise ValueError(
      "`granularity` cannot change a method that has a pattern, a rule for"
      " which weights stay. Use another method."
    )
  if granularity.sparsity is not None:
    _check_sparsity(method, granularity.sparsity)
  initial, scope = method.initial, granularity.scope
  if scope is not None:
    initial = dataclasses.replace(initial, scope=scope)
    prune = prune and dataclasses.replace(prune, scope=scope)
  return dataclasses.replace(
    method, granularity=granularity, initial=initial, prune=prune
  )


def _check_sparsity(method: Method, sparsity: float) -> None:
  """Raises ValueError unless a method ends at the sparsity of a granularity."""
  found = method.target_sparsity
  if found is None or abs(found - sparsity) > 1e-9:
    raise ValueError(
      f"`sparsity` must be {sparsity} with this `granularity`, got {found}: all"
      " cells have the same number of weights, from the first to the last"
      " mask update."
    )


@named
def track_ever_active(method: Method) -> Method:
  """Adds the masks that the ITOP rate is counted from, one byte per weight."""
  return dataclasses.replace(
    method, accumulators=(*method.accumulators, accumulators.ever_active)
  )


def row_of(
  factory: Callable[..., _T],
  name: str,
  doc: str,
  *,
  fixed: Mapping[str, Any] = types.MappingProxyType({}),
  defaults: Mapping[str, Any] = types.MappingProxyType({}),
  renamed: Mapping[str, str] = types.MappingProxyType({}),
) -> Callable[..., _T]:
  """One row of a family: a factory with some parameters fixed.

  Args:
    factory: of the family.
    name: of the row.
    doc: docstring of the row.
    fixed: parameters that the row does not offer, and their values.
    defaults: other defaults of parameters that it offers.
    renamed: other names of parameters that it offers.

  Returns:
    A factory whose signature holds the offered parameters alone.
  """
  offered = []
  of_factory = inspect.signature(factory)
  for key, parameter in of_factory.parameters.items():
    if key in defaults:
      parameter = parameter.replace(default=defaults[key])
    if key not in fixed:
      offered.append(parameter.replace(name=renamed.get(key, key)))
  signature = of_factory.replace(parameters=offered)
  original = {new: old for old, new in renamed.items()}

  def row(*args: Any, **kwargs: Any) -> Any:
    given = signature.bind(*args, **kwargs)  # TypeError for unknown names.
    given.apply_defaults()
    named = {original.get(n, n): x for n, x in given.arguments.items()}
    return factory(**named, **fixed)

  row.__signature__ = signature  # type: ignore[attr-defined]
  row.__name__ = row.__qualname__ = name
  row.__doc__, row.__module__ = doc, factory.__module__
  return row


def variant(
  factory: Callable[..., Method], name: str, doc: str, **changes: Any
) -> Callable[..., Method]:
  """A row of a family of methods, which carry its name; see `row_of`."""
  return named(row_of(factory, name, doc, **changes))
