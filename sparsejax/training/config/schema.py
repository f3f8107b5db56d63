"""A factory's signature is the schema of its section of a config.

A section is `{"name": ..., **keyword arguments}`. `section` fills one with the
factory's defaults, so that `config.json` is complete and every argument has a
type to override it with. `call` turns a section back into the factory's result.
How a config writes a parameter follows from its name:

* a duration in steps, `end_step` or `every_steps`, may also be given in epochs,
  as `end_epochs` or `every_epochs`; steps win if both are given;
* a second learning rate, `score_learning_rate`, is a number; if it is unset, it
  follows the learning rate of the weights;
* what the run provides (`PROVIDED`) is not in the config at all;
* a parameter with named choices (`distribution=erk`) is written as a name;
* one whose choices have arguments of their own (`granularity`) is a section.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import config_dict

from sparsejax import command_line
from sparsejax.training.config import durations, value_types

PROVIDED = (
  "classes",
  "vocabulary",
  "total_steps",
  "steps_per_epoch",
  "epochs",
  "groups",
)
"""Parameters that get their value from the run."""


class FromRun(NamedTuple):
  """A named choice whose value is made from what the run provides.

  Attributes:
    provided: the key of what it is made from.
    make: makes the value.
  """

  provided: str
  make: Callable[[Any], Any]


class Choice(NamedTuple):
  """A parameter whose values are functions or records, and their names.

  Attributes:
    values: name -> value, or a `FromRun`.
    default: the name of the default in most factories' signatures.
    defaults: factory -> the name of its default, where it is another one.
  """

  values: Mapping[str, Any]
  default: str
  defaults: Mapping[str, str] = {}


class Kind(NamedTuple):
  """What a section of a config may hold.

  Attributes:
    title: the section's key in a config.
    factories: factories by name, the `name` of the section.
    choices: parameter -> its named choices.
    nested: parameter -> the kind of the section that it is. The first of its
      factories is the default, whose result is that of every signature.
  """

  title: str
  factories: Mapping[str, Callable[..., Any]]
  choices: Mapping[str, Choice] = {}
  nested: "Mapping[str, Kind]" = {}


def section(
  kind: Kind,
  name: str,
  given: Mapping[str, Any],
  fill: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Fill a section with a factory's defaults.

  Args:
    kind: the section's kind.
    name: the factory's name.
    given: values that differ from the defaults, as a config writes them; `None`
      leaves an argument unset. The name of a nested section stands for it.
    fill: values for the arguments that have no default, or `None`; those that
      the factory does not take are ignored, and `given` wins.

  Returns:
    The section, for a locked `ConfigDict`. An unset argument is a typed
    placeholder.

  Raises:
    InputError: if the name or an argument is unknown.
  """
  parameters = _parameters(kind, name)
  _refuse_unknown(f"{kind.title} {name!r}", given, _keys(parameters))
  found: dict[str, Any] = {"name": name}
  for key, parameter in parameters.items():
    if durations.is_duration(key):
      found[durations.in_epochs(key)] = config_dict.placeholder(float)
      found[key] = config_dict.placeholder(int)
    else:
      found[key] = _default(kind, name, parameter)
  for key, value in (fill or {}).items():
    keys = durations.spellings(key)
    if _is_open(parameters, keys) and not set(keys) & set(given):
      found[key] = value
  return found | {
    key: section(kind.nested[key], value, {})
    if key in kind.nested and isinstance(value, str)
    else value
    for key, value in given.items()
    if value is not None
  }


def takes(kind: Kind, name: str, parameter: str) -> bool:
  """Says whether a factory has a parameter, provided ones included."""
  return parameter in inspect.signature(kind.factories[name]).parameters


def check(kind: Kind, where: str, values: Any) -> None:
  """Check a section against the signature of its factory.

  Args:
    kind: the section's kind.
    where: the section's path in the config, for messages.
    values: the section; `None` leaves an argument unset.

  Raises:
    InputError: if a name is unknown, an argument is missing, or a value is of
      the wrong type.
  """
  if not isinstance(values, Mapping):
    raise command_line.InputError(
      f"`{where}` must be a section, got {value_types.shown(values)}. Write one"
      f" with `sections.section({kind.title!r}, NAME)`."
    )
  name = values.get("name")
  value_types.check(f"{where}.name", name, str)
  if name not in kind.factories:
    raise command_line.unknown(f"`{where}.name`", str(name), kind.factories)
  parameters = _parameters(kind, str(name))
  _refuse_unknown(f"`{where}` of {name!r}", values, _keys(parameters))
  for key, value in values.items():
    if value is None or key == "name":
      continue
    if key in kind.nested:
      check(kind.nested[key], f"{where}.{key}", value)
    elif key in kind.choices:
      _check_choice(f"{where}.{key}", value, kind.choices[key])
    elif key in parameters:
      value_types.check(f"{where}.{key}", value, parameters[key].annotation)
    else:  # A duration in epochs.
      value_types.check(f"{where}.{key}", value, float)
  _refuse_missing(where, str(name), parameters, values)


def arguments(
  kind: Kind,
  where: str,
  values: Mapping[str, Any],
  provided: Mapping[str, Any],
) -> dict[str, Any]:
  """Turn a section into the keyword arguments of its factory.

  Args:
    kind: the section's kind.
    where: the section's path in the config, for messages.
    values: the section.
    provided: values of `PROVIDED`; `learning_rate`, the schedule of the
      weights; and what a choice is made from (`FromRun`). A duration in
      epochs needs `steps_per_epoch`.

  Returns:
    The arguments: durations in steps, choices as values.

  Raises:
    InputError: if the section does not fit the factory's signature.
  """
  check(kind, where, values)
  name = values["name"]
  found: dict[str, Any] = {}
  for key in _parameters(kind, name):
    value = _value(kind, where, key, values, provided)
    if value is None and key.endswith("_learning_rate"):
      value = provided.get("learning_rate")
    if value is not None:
      found[key] = value
  return found | _from_run(kind, where, name, provided)


def _from_run(
  kind: Kind, where: str, name: str, provided: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the arguments that a factory gets from the run and its data."""
  taken = inspect.signature(kind.factories[name]).parameters
  for key in PROVIDED:
    missing = key in taken and key not in provided
    if missing and taken[key].default is inspect.Parameter.empty:
      raise command_line.InputError(
        f"`{where}.name` is {name!r}, which takes its `{key}` from the data,"
        " but `config.data` has none. Use one that fits the data."
      )
  return {
    key: provided[key] for key in PROVIDED if key in provided and key in taken
  }


def call(
  kind: Kind,
  where: str,
  values: Mapping[str, Any],
  provided: Mapping[str, Any],
) -> Any:
  """Call the factory of a section; `arguments` describes the parameters.

  Returns:
    What the factory returns.

  Raises:
    InputError: if the section does not fit, or the factory raises.
  """
  given = arguments(kind, where, values, provided)
  try:
    return kind.factories[values["name"]](**given)
  except (TypeError, ValueError) as error:
    name = values["name"]
    raise command_line.InputError(f"`{where}` of {name!r}: {error}") from error


def _parameters(kind: Kind, name: str) -> dict[str, inspect.Parameter]:
  """Returns the parameters of a factory that a config may set."""
  if name not in kind.factories:
    raise command_line.unknown(f"`{kind.title}`", name, kind.factories)
  parameters = inspect.signature(kind.factories[name], eval_str=True).parameters
  return {
    key: parameter
    for key, parameter in parameters.items()
    if key not in PROVIDED
    and (
      key in kind.choices
      or key in kind.nested
      or value_types.options(parameter.annotation)
    )
  }


def _default(kind: Kind, name: str, parameter: inspect.Parameter) -> Any:
  """Returns a parameter's default as a config writes it."""
  if parameter.name in kind.nested:
    nested = kind.nested[parameter.name]
    return section(nested, next(iter(nested.factories)), {})
  choice = kind.choices.get(parameter.name)
  unset = _is_unset(parameter)
  if choice is not None:
    default = choice.defaults.get(name, choice.default)
    return config_dict.placeholder(str) if unset else default
  scalar = value_types.plain(value_types.options(parameter.annotation)[0])
  return config_dict.placeholder(scalar) if unset else scalar(parameter.default)


def _is_open(
  parameters: Mapping[str, inspect.Parameter], keys: Sequence[str]
) -> bool:
  """Says whether one of the keys is a parameter without a default."""
  return any(key in parameters and _is_unset(parameters[key]) for key in keys)


def _is_unset(parameter: inspect.Parameter) -> bool:
  return parameter.default is None or parameter.default is parameter.empty


def _keys(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
  """Returns the keys of a section with these parameters."""
  steps = filter(durations.is_duration, parameters)
  return [*parameters, *map(durations.in_epochs, steps)]


def _value(
  kind: Kind,
  where: str,
  key: str,
  values: Mapping[str, Any],
  provided: Mapping[str, Any],
) -> Any:
  """Returns an argument as the factory takes it, `None` if it is not given."""
  value = values.get(key)
  if key in kind.nested and value is not None:
    return call(kind.nested[key], f"{where}.{key}", value, provided)
  if key in kind.choices and value is not None:
    chosen = kind.choices[key].values[value]
    if isinstance(chosen, FromRun):
      return chosen.make(provided[chosen.provided])
    return chosen
  if durations.is_duration(key) and value is None:
    epochs = values.get(durations.in_epochs(key))
    if epochs is not None:
      path = f"{where}.{durations.in_epochs(key)}"
      return durations.to_steps(path, epochs, provided["steps_per_epoch"])
  if value is None:
    return None
  annotation = _parameters(kind, values["name"])[key].annotation
  return value_types.convert(value, annotation)


def _check_choice(where: str, value: Any, choice: Choice) -> None:
  value_types.check(where, value, str)
  if value not in choice.values:
    raise command_line.unknown(f"`{where}`", value, choice.values)


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
  values: Mapping[str, Any],
) -> None:
  for key, parameter in parameters.items():
    keys = [key]
    if durations.is_duration(key):
      keys.append(durations.in_epochs(key))
    needed = parameter.default is parameter.empty
    follows = key.endswith("_learning_rate")  # That of the weights.
    if needed and not follows and all(values.get(k) is None for k in keys):
      wanted = " or ".join(f"`{where}.{key}`" for key in keys)
      raise command_line.InputError(f"{wanted} is missing: {name!r} needs it.")
