"""The option string of a config file: `NAME[,word][,key=value...]`."""

from typing import Any

from sparsejax import command_line


def parse(
  text: str | None,
  *,
  names: tuple[str, ...] = (),
  words: tuple[str, ...] = (),
  groups: dict[str, tuple[str, ...]] | None = None,
  defaults: dict[str, Any],
) -> dict[str, Any]:
  """Read an option string; nothing in it is ever ignored.

  Args:
    text: what stands behind the colon of `--config=FILE:TEXT`, if anything.
    names: valid values of the first item, which may be left out.
    words: items without a value; each is `True` in the result where given.
    groups: for some of the keys, their valid values; one of these may stand
      without its key, anywhere. A value of several is that of the first.
    defaults: keys with their defaults; `name` is the first item's, and the
      type of a default is the type of its key. A default of `None` is read
      as a float; one that is a type is read as that type, and is `None` where
      it is not given.

  Returns:
    The defaults with what the text changes, and each word.

  Raises:
    InputError: if an item is not known, given twice or of the wrong type.

  Examples:
    >>> parse("rigl,sparsity=0.8", names=("rigl",),
    ...       defaults={"name": "granet", "sparsity": 0.9})
    {'name': 'rigl', 'sparsity': 0.8}
    >>> parse("cnn,steps=3", groups={"model": ("mlp", "cnn")},
    ...       defaults={"model": "mlp", "steps": int})
    {'model': 'cnn', 'steps': 3}
  """
  groups = groups or {}
  bare = {value: key for key in reversed(groups) for value in groups[key]}
  chosen: dict[str, Any] = {}
  for position, item in enumerate(_items(text)):
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


def _items(text: str | None) -> list[str]:
  return text.split(",") if text else []


def _name(
  item: str, position: int, names: tuple[str, ...], words: tuple[str, ...]
) -> str:
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
