"""All commands of sparsejax: `sparsejax COMMAND ...`, or `python -m sparsejax`.

{commands}

`sparsejax COMMAND --help` explains a command, `sparsejax --version` prints the
version.

Exit status: that of the command, 2 if there is no such command.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence

import sparsejax
from sparsejax import command_line

# Name -> module, and what it does. Nothing is imported before its command runs,
# and a module that this version lacks is not listed.
_COMMANDS = {
  "train": ("train", "train a sparse network"),
  "compare": ("study.compare", "compare finished runs"),
  "imp": ("study.imp", "iterative magnitude pruning, in rounds of retraining"),
  "reproduce": ("study.reproduce", "train the rows of a paper's table"),
  "seek": ("study.seek", "find the value of a key that ends at a sparsity"),
  "plasticity": ("study.plasticity", "measure how pruning hurts, and heals"),
  "export": ("export", "turn a finished run into a smaller program"),
  "data": ("data.prepare", "prepare a data set"),
  "plots": ("plots", "reports, tables and figures of runs"),
  "launch": ("launch", "check processes before they train together"),
}


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line.

  Args:
    argv: arguments without the program's name; `sys.argv` by default.

  Returns:
    The exit status.
  """
  arguments = list(sys.argv[1:] if argv is None else argv)
  found = commands()
  if arguments and arguments[0] in found:
    return _run(arguments, found[arguments[0]], called=argv is not None)
  doc = (__doc__ or "").format(commands=_listing(found))
  if arguments[:1] == ["--version"]:
    print(sparsejax.__version__)
    return command_line.DONE
  return command_line.run(
    _refuse, arguments or ["--help"], name="sparsejax", doc=doc
  )


def commands() -> dict[str, str]:
  """Returns the commands that this version has: name -> module."""
  modules = {name: _module(path) for name, (path, _) in _COMMANDS.items()}
  return {name: module for name, module in modules.items() if module}


def _module(path: str) -> str | None:
  """Returns the module of a command; `__main__` of a package."""
  module = f"sparsejax.{path}"
  try:
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations is not None:
      module = f"{module}.__main__"
      spec = importlib.util.find_spec(module)
  except ModuleNotFoundError:  # Of a package that it is in.
    return None
  return None if spec is None else module


def _run(arguments: list[str], module: str, *, called: bool) -> int:
  command, *rest = arguments
  main = importlib.import_module(module).main
  if called:
    return main(rest)
  # Without arguments it reads these, and deals with Ctrl-C.
  sys.argv = [f"sparsejax {command}", *rest]
  return main()


def _refuse(arguments: list[str]) -> int:
  raise command_line.unknown("The command", arguments[0], commands())


def _listing(found: Sequence[str] | dict[str, str]) -> str:
  width = max(map(len, found))
  return "\n".join(
    f"  {name.ljust(width)}  {_COMMANDS[name][1]}" for name in found
  )


if __name__ == "__main__":
  sys.exit(main())
