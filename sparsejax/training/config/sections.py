"""The sections of a config: method, model, optimizer and data."""

from collections.abc import Callable, Mapping
from typing import Any

from sparsejax import methods
from sparsejax.components import scopes
from sparsejax.data import DATASETS
from sparsejax.models import MODELS
from sparsejax.training import lr_schedules, optimizers, recipes
from sparsejax.training.config import schema

# Defaults are names here and values in the signatures; `tests/training/
# test_schema.py` compares the two.
_UNIFORM = (
  "snfs",
  "dsr",
  "dnw",
  "top_kast",
  "sr_ste",
  "weight_sparse",
  "wanda",
  "ria",
  "sparsegpt",
)


def _by_trained(make: Callable[[Any], Any]) -> dict[str, schema.FromRun]:
  """Returns the choice that is made from trained weights."""
  return {methods.GLOBAL_MAGNITUDE: schema.FromRun("trained_params", make)}


_METHOD_CHOICES = {
  "criterion": schema.Choice(methods.CRITERIA, "magnitude"),
  "curve": schema.Choice(methods.CURVES, "cubic", {"weight_sparse": "linear"}),
  "distribution": schema.Choice(
    methods.DISTRIBUTIONS | _by_trained(scopes.global_magnitude),
    "erk",
    {
      **dict.fromkeys(("set", "accset", "lset", "dynset"), "er"),
      **dict.fromkeys(_UNIFORM, "uniform"),
    },
  ),
  "regrow_by": schema.Choice(
    methods.REGROW_BY,
    "random",
    {
      **dict.fromkeys(("granet", "rigl", "rigl_itop"), "gradient"),
      "snfs": "momentum",
    },
  ),
  "scope": schema.Choice(
    methods.SCOPES
    | _by_trained(lambda x: scopes.layerwise(scopes.global_magnitude(x))),
    "global",
    {"supermask": "uniform"},
  ),
  "storage": schema.Choice(methods.STORAGES, "zeroed"),
}
_GRANULARITY = schema.Kind("granularity", methods.GRANULARITIES)
KINDS = {
  "method": schema.Kind(
    "method",
    {**methods.METHODS, **recipes.RECIPES},
    _METHOD_CHOICES,
    {"granularity": _GRANULARITY},
  ),
  "model": schema.Kind("model", MODELS),
  "optimizer": schema.Kind(
    "optimizer",
    optimizers.OPTIMIZERS,
    {"schedule": schema.Choice(lr_schedules.SCHEDULES, "cosine")},
  ),
  "data": schema.Kind("data", DATASETS),
}


def canonical(kind: str, name: str) -> str:
  """Returns the name that records have, for one that also is a function's."""
  return methods.ALIASES.get(name, name) if kind == "method" else name


def section(
  kind: str,
  name: str,
  *,
  fill: Mapping[str, Any] | None = None,
  **given: Any,
) -> dict[str, Any]:
  """Write a section of a config, with the defaults of its factory.

  Args:
    kind: "method", "model", "optimizer" or "data".
    name: the factory's name.
    fill: values for the arguments that have no default; those that the factory
      does not take are ignored.
    **given: values that differ from the defaults; `None` leaves one unset.

  Returns:
    The section, for a `ConfigDict`.

  Raises:
    InputError: if a name or key is unknown.
  """
  return schema.section(KINDS[kind], canonical(kind, name), given, fill)


def names(kind: str) -> tuple[str, ...]:
  """Returns the names that a section of a kind may have."""
  return tuple(KINDS[kind].factories)


def find_kind(path: str) -> schema.Kind | None:
  """Returns the kind of a section, such as `method.granularity`, if it is one.

  Args:
    path: of the section in a config.
  """
  first, *rest = path.split(".")
  kind = KINDS.get(first)
  for name in rest:
    kind = kind and kind.nested.get(name)
  return kind


def takes(kind: str, name: str, parameter: str) -> bool:
  """Says whether a factory has a parameter."""
  return schema.takes(KINDS[kind], name, parameter)


def equal_sparsities(method: str) -> dict[str, Any]:
  """Returns arguments of a method that make all layers equally sparse.

  They suit transformers. Matrices start at different scales, so a global
  magnitude would prune the smallest ones, which lead to the residual stream, to
  nothing.
  """
  return {
    key: "uniform"
    for key in ("scope", "distribution")
    if takes("method", method, key)
  }
