"""Command lines that tell of an error in one line."""

import argparse
import difflib
from collections.abc import Iterable
from typing import NoReturn


class InputError(ValueError):
  """Bad input: its message alone is shown, and the exit status is 2.

  The message names the argument, the value, the rule and the way out.
  """


class Parser(argparse.ArgumentParser):
  """A parser that raises where argparse would print its usage and leave.

  Options are not abbreviated, and `--help` is left to the command, which shows
  its own docstring.
  """

  def __init__(self) -> None:
    super().__init__(add_help=False, allow_abbrev=False)

  def error(self, message: str) -> NoReturn:
    """Raises `InputError`."""
    raise InputError(message)


_MANY, _FEW = 40, 5


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
  """Make the error for a name that is not known.

  Args:
    what: what the name was given for, e.g. "`config.method.name`".
    name: the name that was given.
    known: the names that are valid there.

  Returns:
    An error that tells the nearest valid name and all of them, or the
    nearest few where all would fill the screen.
  """
  known = sorted(known)
  near = difflib.get_close_matches(name, known, n=_FEW, cutoff=0.4)
  guess = f" Did you mean {near[0]!r}?" if near else ""
  if len(known) <= _MANY:
    return InputError(
      f"{what} got {name!r}.{guess} Valid: {', '.join(known) or 'none'}."
    )
  nearest = f" Nearest: {', '.join(near)}." if near else ""
  return InputError(
    f"{what} got {name!r}, which is none of the {len(known)} valid"
    f" names.{guess}{nearest}"
  )
