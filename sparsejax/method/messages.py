"""What errors and `repr` say of arguments."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def described(value: Any) -> str:
  """Says what a wrong argument is, in a few words."""
  if isinstance(value, str):
    return f"the string {value!r}"
  if value is None:
    return "None"
  if callable(value) and hasattr(value, "__name__"):
    return f"the function {value.__name__}"
  text = repr(value)
  kind = type(value).__name__
  return f"{text} ({kind})" if len(text) <= 40 else f"a {kind}"


def called(factory: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
  """Returns a call as one line, without arguments at their defaults.

  Args:
    factory: has a name and a signature.
    arguments: by name, as the signature has them.
  """
  shown = []
  for name, parameter in inspect.signature(factory).parameters.items():
    if name not in arguments or arguments[name] is parameter.default:
      continue
    text = short(arguments[name])
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
      shown.append(text)
    elif arguments[name] != parameter.default:
      shown.append(f"{name}={text}")
  return f"{factory.__name__}({', '.join(shown)})"


def short(value: Any) -> str:
  """Returns what a value is, in a word."""
  plain = value is None or isinstance(value, bool | int | float | str)
  if plain or hasattr(value, "made_by"):  # A method's is one line.
    return repr(value)
  return getattr(value, "__name__", f"{type(value).__name__}(...)")


def check_parts(record: Any, **kinds: type) -> None:
  """Raises ValueError unless fields hold parts of a kind, or None."""
  for name, kind in kinds.items():
    value = getattr(record, name)
    if value is not None and not isinstance(value, kind):
      raise ValueError(
        f"`{name}` must be a `{kind.__name__}`, got {described(value)}. Give"
        " the object: names are for configs."
      )
