"""What a user's input can be wrong in, told in one message."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
  """Bad input: its message alone is shown, and the exit status is 2.

  The message names the argument, the value, the rule and the way out.
  """


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
  """Make the error for a name that is not known.

  Args:
    what: what the name was given for, e.g. "`config.method.name`".
    name: the name that was given.
    known: the names that are valid there.

  Returns:
    An error that tells the nearest valid name and all of them.
  """
  known = sorted(known)
  near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  guess = f" Did you mean {near[0]!r}?" if near else ""
  names = ", ".join(known) if known else "none"
  return InputError(f"{what} got {name!r}.{guess} Valid: {names}.")
