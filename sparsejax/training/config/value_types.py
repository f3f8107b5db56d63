"""The types of a config's values, as the signatures of factories name them.

The same check serves all values, whether a file or a flag gave them.
"""

import types
import typing
from typing import Any

import numpy as np

from sparsejax import command_line
from sparsejax.components.counts import INT32_MAX

_SCALARS = (bool, int, float, str, tuple)
# On the device, integers are int32 and all other numbers float32.
_FLOATS = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_MAX_SHOWN = 100


def options(annotation: Any) -> list[Any]:
  """Returns the types in an annotation that a config can write.

  Args:
    annotation: a type or a union, such as `float | Criterion | None`.

  Returns:
    The scalars and tuples among them, such as `[float]`.
  """
  union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
  found = typing.get_args(annotation) if union else (annotation,)
  return [option for option in found if plain(option) in _SCALARS]


def plain(annotation: Any) -> Any:
  """Returns a type without its parameters: `tuple` for `tuple[int, ...]`."""
  return typing.get_origin(annotation) or annotation


def check(where: str, value: Any, annotation: Any) -> None:
  """Check that a value of a config has the type of the parameter that it sets.

  Args:
    where: the value's path in the config, for messages.
    value: a list stands for a tuple, as in JSON, and an integer for a float.
    annotation: the parameter's type.

  Raises:
    InputError: if the value has another type, or holds a number that is not an
      int32 or a float32.
  """
  known = options(annotation)
  fitting = [option for option in known if _is_a(value, option)]
  if not fitting:
    names = " or ".join(map(_name, known))
    wraps = any(_is_a((value,), option) for option in known)
    hint = f" Give a tuple: {shown((value,))}." if wraps else ""
    raise command_line.InputError(
      f"`{where}` must be of type {names}, got {shown(value)}.{hint}"
    )
  for option in fitting:
    items, kind = (value,), plain(option)
    if kind is tuple:
      items, kind = value, _item(option)
    for item in items:
      _check_range(where, item, kind)


def convert(value: Any, annotation: Any) -> Any:
  """Returns a checked value as its parameter takes it.

  That is a tuple for a list, and a float for an integer, also in a tuple.
  """
  (option, *_) = [each for each in options(annotation) if _is_a(value, each)]
  if plain(option) is tuple:
    return tuple(convert(item, _item(option)) for item in value)
  return plain(option)(value)


def shown(value: Any) -> str:
  """Returns a value as a message shows it: on one line, shortened if long."""
  text = " ".join(repr(value).split())
  return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _is_a(value: Any, option: Any) -> bool:
  kind = plain(option)
  if kind is tuple:
    return isinstance(value, tuple | list) and all(
      _is_a(item, _item(option)) for item in value
    )
  if isinstance(value, bool):  # It is an int for Python.
    return kind is bool
  return isinstance(value, int | float if kind is float else kind)


def _item(option: Any) -> Any:
  """Returns the type of the items of `tuple[X, ...]`."""
  return typing.get_args(option)[0]


def _name(option: Any) -> str:
  return str(option) if plain(option) is tuple else plain(option).__name__


def _check_range(where: str, number: Any, kind: Any) -> None:
  if kind is int and abs(number) > INT32_MAX:
    raise command_line.InputError(
      f"`{where}` must be an int32, at most {INT32_MAX}, got {shown(number)}."
    )
  tiny, largest = _FLOATS
  if kind is float and number and not tiny <= abs(number) <= largest:
    raise command_line.InputError(
      f"`{where}` must be a finite float32, 0 or of a size from {tiny:.1e} to"
      f" {largest:.1e}, got {shown(number)}."
    )
