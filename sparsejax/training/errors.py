"""What a user's input can be wrong in, told in one message."""

import difflib
from collections.abc import Iterable

from sparsejax.arguments import InputError

__all__ = ["InputError", "unknown"]

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
