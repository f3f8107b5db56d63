"""Command lines that tell of an error in one line."""

import argparse
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
