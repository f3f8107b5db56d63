"""A factory's signature is the schema of its section of a config.

A section is `{"name": ..., **keyword arguments}`. `section` fills one with a
factory's defaults, so that `config.json` is complete and every argument can
be overridden with its type. `call` turns one back into the factory's result.
Three kinds of argument are written differently in a config:

* a duration in steps, `end_step` or `every_steps`, may be given in epochs
  as `end_epochs` or `every_epochs`; where both are given, steps win;
* an argument that is a function (`distribution=erk`) is written as its name;
* what a run knows by itself (`total_steps`) is not written at all.

The learning rates of what a method learns beside the weights are written as
numbers; left out, they follow the rate of the weights.
"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import config_dict

from sparsejax import command_line

_SCALARS = (bool, int, float, str, tuple)


class Kind(NamedTuple):
  """What may stand in one section of a config.

  Attributes:
    title: the section's key in a config.
    factories: factory by name; the name is the section's `name`.
    named: for an argument that is a function, its functions by name.
  """

  title: str
  factories: Mapping[str, Callable[..., Any]]
  named: Mapping[str, Mapping[str, Any]] = {}


# What the run feeds to any factory whose signature asks for it.
FED = ("classes", "total_steps", "steps_per_epoch", "epochs")
# Learning rates that are those of the weights where a config gives none.
LIKE_WEIGHTS = ("score_learning_rate", "threshold_learning_rate")


def section(kind: Kind, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
  """Fill a section with a factory's defaults.

  Args:
    kind: the section's kind.
    name: the factory's name.
    given: values that differ from the defaults, as a config writes them.

  Returns:
    The section, ready for a locked `ConfigDict`: an argument without a value
    is a typed placeholder.

  Raises:
    InputError: if the name or an argument is not known.
  """
  parameters = _parameters(kind, name)
  _refuse_unknown(f"{kind.title} {name!r}", given, _keys(parameters))
  filled: dict[str, Any] = {"name": name}
  for key, parameter in parameters.items():
    if _is_duration(key):
      filled[_in_epochs(key)] = config_dict.placeholder(float)
      filled[key] = config_dict.placeholder(int)
    else:
      filled[key] = _default(kind, key, parameter)
  return filled | dict(given)


def arguments(
  kind: Kind, where: str, values: Mapping[str, Any], fed: Mapping[str, Any]
) -> dict[str, Any]:
  """Turn a section into the keyword arguments of its factory.

  Args:
    kind: the section's kind.
    where: the section's path in the config, for messages.
    values: the section.
    fed: what the run knows by itself; needs `steps_per_epoch` where the
      section holds a duration in epochs.

  Returns:
    The arguments: durations in steps, names turned into their functions.

  Raises:
    InputError: if the section does not fit the factory's signature.
  """
  name = str(values.get("name"))
  if name not in kind.factories:
    raise command_line.unknown(f"`{where}.name`", name, kind.factories)
  parameters = _parameters(kind, name)
  _refuse_unknown(f"`{where}` of {name!r}", values, _keys(parameters))
  found = {
    key: value
    for key in parameters
    if (value := _value(kind, where, key, values, fed)) is not None
  }
  like = {k: fed[k] for k in LIKE_WEIGHTS if k in parameters and k in fed}
  found = like | found
  _refuse_missing(where, name, parameters, found)
  requested = inspect.signature(kind.factories[name], eval_str=True).parameters
  return found | {
    key: fed[key] for key in FED if key in requested and key in fed
  }


def call(
  kind: Kind, where: str, values: Mapping[str, Any], fed: Mapping[str, Any]
) -> Any:
  """Call the factory that a section describes; `arguments` has the rules.

  Args:
    kind: the section's kind.
    where: the section's path in the config, for messages.
    values: the section.
    fed: what the run knows by itself.

  Returns:
    What the factory returns.

  Raises:
    InputError: if the section does not fit, or the factory refuses a value.
  """
  given = arguments(kind, where, values, fed)
  try:
    return kind.factories[values["name"]](**given)
  except (TypeError, ValueError) as error:
    name = values["name"]
    raise command_line.InputError(f"`{where}` of {name!r}: {error}") from error


def to_steps(where: str, epochs: float, steps_per_epoch: int) -> int:
  """Turn a duration in epochs into whole steps, at least one unless it is 0.

  Args:
    where: what has the duration, for messages.
    epochs: the duration, at least 0; may be a fraction.
    steps_per_epoch: steps in one epoch.

  Returns:
    The nearest number of steps.

  Raises:
    InputError: if the duration is negative.
  """
  if not epochs >= 0:
    raise command_line.InputError(
      f"`{where}` must not be negative, got {epochs}."
    )
  return max(round(epochs * steps_per_epoch), int(epochs > 0))


def _parameters(kind: Kind, name: str) -> dict[str, inspect.Parameter]:
  """Returns the arguments of a factory that a config may hold."""
  if name not in kind.factories:
    raise command_line.unknown(f"`{kind.title}`", name, kind.factories)
  parameters = inspect.signature(kind.factories[name], eval_str=True).parameters
  return {
    key: parameter
    for key, parameter in parameters.items()
    if key not in FED and _is_writable(kind, key, parameter)
  }


def _is_writable(kind: Kind, key: str, parameter: inspect.Parameter) -> bool:
  """Says whether a config can write an argument: a scalar or a known name."""
  return key in kind.named or bool(_types(parameter))


def _types(parameter: inspect.Parameter) -> list[type]:
  """Returns which scalar types an argument's annotation allows."""
  annotation = parameter.annotation
  union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
  options = typing.get_args(annotation) if union else (annotation,)
  found = [typing.get_origin(option) or option for option in options]
  return [option for option in found if option in _SCALARS]


def _default(kind: Kind, key: str, parameter: inspect.Parameter) -> Any:
  """Returns an argument's default as a config writes it."""
  default = parameter.default
  if key in kind.named:
    if isinstance(default, str):
      return default
    names = {id(value): name for name, value in kind.named[key].items()}
    return names.get(id(default), config_dict.placeholder(str))
  if default is parameter.empty or default is None:
    return config_dict.placeholder(_types(parameter)[0])
  return _types(parameter)[0](default)


def _is_duration(key: str) -> bool:
  return key.endswith(("_step", "_steps"))


def _in_epochs(key: str) -> str:
  return key.rsplit("_", 1)[0] + "_epochs"


def _keys(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
  """Returns the keys that a section may hold for these arguments."""
  return [
    *parameters,
    *(_in_epochs(key) for key in parameters if _is_duration(key)),
  ]


def _value(
  kind: Kind,
  where: str,
  key: str,
  values: Mapping[str, Any],
  fed: Mapping[str, Any],
) -> Any:
  """Returns one argument as the factory takes it, `None` where not given."""
  value = values.get(key)
  if key in kind.named and value is not None:
    known = kind.named[key]
    if value not in known:
      raise command_line.unknown(f"`{where}.{key}`", str(value), known)
    return known[value]
  if _is_duration(key) and value is None:
    epochs = values.get(_in_epochs(key))
    if epochs is not None:
      at = f"{where}.{_in_epochs(key)}"
      return to_steps(at, epochs, fed["steps_per_epoch"])
  # JSON knows lists alone; signatures ask for tuples.
  return tuple(value) if isinstance(value, list) else value


def _refuse_unknown(
  what: str, given: Mapping[str, Any], known: list[str]
) -> None:
  for key in given:
    if key not in known and key != "name":
      raise command_line.unknown(f"An argument of {what}", key, known)


def _refuse_missing(
  where: str,
  name: str,
  parameters: Mapping[str, inspect.Parameter],
  arguments: Mapping[str, Any],
) -> None:
  for key, parameter in parameters.items():
    if parameter.default is parameter.empty and key not in arguments:
      wanted = f"`{where}.{key}`"
      if _is_duration(key):
        wanted += f" or `{where}.{_in_epochs(key)}`"
      raise command_line.InputError(f"{wanted} is missing: {name!r} needs it.")
