"""The option string of a config file: `NAME[,word][,key=value...]`."""

from typing import Any

from sparsejax.training import errors


def parse(
  text: str | None,
  *,
  names: tuple[str, ...],
  words: tuple[str, ...] = (),
  defaults: dict[str, Any],
) -> dict[str, Any]:
  """Read an option string; nothing in it is ever ignored.

  Args:
    text: what stands behind the colon of `--config=FILE:TEXT`, if anything.
    names: valid values of the first item, which may be left out.
    words: items without a value; each is `True` in the result where given.
    defaults: keys with their defaults; `name` is the first item's, and the
      type of a default is the type of its key. A default of `None` is read
      as a float.

  Returns:
    The defaults with what the text changes, and each word.

  Raises:
    InputError: if an item is not known, given twice or of the wrong type.

  Examples:
    >>> parse("rigl,sparsity=0.8", names=("rigl",),
    ...       defaults={"name": "granet", "sparsity": 0.9})
    {'name': 'rigl', 'sparsity': 0.8}
  """
  chosen: dict[str, Any] = {}
  for position, item in enumerate(_items(text)):
    key, equals, value = item.partition("=")
    if equals and (key not in defaults or key == "name"):
      raise errors.unknown("The option string", key, set(defaults) - {"name"})
    if not equals and item in words:
      value, key = True, item
    elif not equals:
      key, value = "name", _name(item, position, names, words)
    else:
      value = _typed(item, value, defaults[key])
    if key in chosen:
      raise errors.InputError(f"The option {item!r} gives {key!r} twice.")
    chosen[key] = value
  return defaults | {word: False for word in words} | chosen


def _items(text: str | None) -> list[str]:
  return text.split(",") if text else []


def _name(
  item: str, position: int, names: tuple[str, ...], words: tuple[str, ...]
) -> str:
  if position or item not in names:
    known = words if position else (*names, *words)
    raise errors.unknown("The option string", item, known)
  return item


def _typed(item: str, value: str, default: Any) -> Any:
  kind = float if default is None else type(default)
  try:
    return kind(value)
  except ValueError as error:
    raise errors.InputError(
      f"The option {item!r} needs a value of type {kind.__name__}."
    ) from error
