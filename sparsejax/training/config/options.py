"""The option string of a config: `NAME[,word][,key=value...]`."""

from collections.abc import Mapping
from typing import Any

from sparsejax import command_line
from sparsejax.training.config import sections

METHOD_OPTIONS: dict[str, type] = {
  "sparsity": float,
  "initial_sparsity": float,
  "regrow_fraction": float,
  "every_steps": int,
  "every_epochs": float,
  "end_epochs": float,
  "distribution": str,
  "scope": str,
  "criterion": str,
  "storage": str,
  "curve": str,
  "regrow_by": str,
  "granularity": str,
}
"""Options of the papers' configs that are arguments of the method."""


def parse(
  text: str | None,
  *,
  names: tuple[str, ...] = (),
  words: tuple[str, ...] = (),
  groups: Mapping[str, tuple[str, ...]] | None = None,
  defaults: Mapping[str, Any],
) -> dict[str, Any]:
  """Parse an option string; no part of it is ignored.

  Args:
    text: what follows the colon of `--config=NAME:TEXT`, if anything.
    names: valid values of the first item, which may be left out.
    words: items without a value; each is a bool in the result.
    groups: key -> its valid values, which may appear without the key, anywhere.
      A value of several groups belongs to the first.
    defaults: key -> default, `name` for the first item. A value is parsed as
      the type of the default, as a float if the default is `None`, and as the
      default itself if that is a type; then it is `None` unless given.

  Returns:
    The defaults, updated with the text, and each word.

  Raises:
    InputError: if an item is unknown, repeated or of the wrong type.

  Examples:
    >>> parse("rigl,sparsity=0.8", names=("rigl",),
    ...       defaults={"name": "granet", "sparsity": 0.9})
    {'name': 'rigl', 'sparsity': 0.8}
    >>> parse("cnn,steps=3", groups={"model": ("mlp", "cnn")},
    ...       defaults={"model": "mlp", "steps": int})
    {'model': 'cnn', 'steps': 3}
  """
  groups = groups or {}
  bare = {value: key for key in reversed(list(groups)) for value in groups[key]}
  chosen: dict[str, Any] = {}
  for position, item in enumerate(text.split(",") if text else []):
    key, equals, value = item.partition("=")
    if equals and (key not in defaults or key == "name"):
      raise command_line.unknown(
        "The option string", key, set(defaults) - {"name"}
      )
    if not equals and item in words:
      value, key = True, item
    elif not equals and item in bare:
      key, value = bare[item], item
    elif not equals:
      key, value = "name", _name(item, position, names, (*words, *bare))
    else:
      value = _typed(item, value, defaults[key])
    if key in groups and value not in groups[key]:
      raise command_line.unknown(f"The option {key!r}", str(value), groups[key])
    if key in chosen:
      raise command_line.InputError(f"The option {item!r} gives {key!r} twice.")
    chosen[key] = value
  unset = {
    key: None if isinstance(default, type) else default
    for key, default in defaults.items()
  }
  return unset | {word: False for word in words} | chosen


def update(
  arguments: Mapping[str, Any], chosen: Mapping[str, Any]
) -> dict[str, Any]:
  """Update a method's arguments with `METHOD_OPTIONS`.

  Args:
    arguments: of the method, as a config writes them.
    chosen: a parsed option string.

  Returns:
    The arguments, updated with the options that were given. An option in epochs
    replaces an argument in steps, which would win otherwise.
  """
  given = {k: chosen[k] for k in METHOD_OPTIONS if chosen[k] is not None}
  in_steps = {key.replace("_epochs", "_steps") for key in given}
  kept = {k: v for k, v in arguments.items() if k not in in_steps}
  return {**kept, **given}


def _name(
  item: str, position: int, names: tuple[str, ...], words: tuple[str, ...]
) -> str:
  item = sections.canonical("method", item)
  if position or item not in names:
    known = words if position else (*names, *words)
    raise command_line.unknown("The option string", item, known)
  return item


def _typed(item: str, value: str, default: Any) -> Any:
  kind = type(default) if default is not None else float
  kind = default if isinstance(default, type) else kind
  try:
    return kind(value)
  except ValueError as error:
    raise command_line.InputError(
      f"The option {item!r} needs a value of type {kind.__name__}."
    ) from error
