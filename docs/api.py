"""Writes the pages of the API reference: every public name, with its docstring.

The pages follow from `__all__` and from the modules of the package, so that a
new name or module is in the reference without a line here.
"""

import importlib
import inspect
import itertools
import pathlib
import pkgutil
import re
from collections.abc import Iterable
from typing import Any

import sparsejax

# Page -> title, introduction, and the packages or modules of it.
_PAGES = {
  "components": (
    "Parts of methods",
    "What methods are composed of. CONTRIBUTING.md shows how.",
    ("method", "components"),
  ),
  "analysis": (
    "Analysis",
    "Questions about a network and its masks.",
    ("analysis",),
  ),
  "export": (
    "Export and calibration",
    "From a sparse network to a smaller or faster one.",
    ("export", "calibration"),
  ),
  "data": (
    "Data and tasks",
    "Data sets, their augmentation, and what is learned from them.",
    ("data", "tasks"),
  ),
  "models": ("Models", "Networks in Flax Linen.", ("models",)),
  "study": (
    "Several runs",
    "Commands that train or compare several runs.",
    ("study",),
  ),
  "plots": (
    "Figures and reports",
    "From the records of runs.",
    ("plots",),
  ),
}


def write(folder: pathlib.Path) -> None:
  """Write the pages, and remove those of an earlier version.

  Args:
    folder: of the pages.
  """
  folder.mkdir(exist_ok=True)
  pages = {"sparsejax": _core(), "methods": _methods()}
  for name, (title, text, packages) in _PAGES.items():
    modules = [m for package in packages for m in _modules(package)]
    if modules:
      pages[name] = _page(title, text, map(_automodule, modules))
  pages["index"] = _index(list(pages))
  for path in folder.glob("*.md"):
    if path.stem not in pages:
      path.unlink()
  for name, text in pages.items():
    path = folder / f"{name}.md"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
      path.write_text(text, encoding="utf-8")


def _index(pages: list[str]) -> str:
  listed = "\n".join(pages)
  return (
    "# API reference\n\nEvery public name, from its docstring.\n\n"
    f"```{{toctree}}\n:maxdepth: 2\n\n{listed}\n```\n"
  )


def _core() -> str:
  """Returns the page of the names of `sparsejax`, but for the methods."""
  names = [
    name
    for name in sparsejax.__all__
    if name not in sparsejax.methods.__all__ and name != "__version__"
  ]
  first = ["sparsify", "apply_masks", "get_masks", "summary", "stats"]
  first += ["assert_sparse", "freeze", "masks_from_params", "prune_at_init"]
  names = [*first, *(name for name in names if name not in first)]
  entries = [_autoname("sparsejax", name) for name in names]
  return _page(
    "sparsejax",
    "The public names. The methods have [their own page](methods.md).",
    filter(None, entries),
  )


def _methods() -> str:
  entries = [_autoname("sparsejax", n) for n in sparsejax.methods.__all__]
  return _page(
    "Methods",
    "Each returns a `Method` for `sparsify`. [Methods](../methods/index.md)"
    " explains them by family.",
    filter(None, entries),
  )


def _autoname(module: str, name: str) -> str:
  """Returns the directive of a name; "" for a module: it has its own page."""
  value = getattr(importlib.import_module(module), name)
  if inspect.ismodule(value):
    return ""
  if inspect.isclass(value):
    return f".. autoclass:: {module}.{name}\n   :members:\n"
  kind = "autofunction" if inspect.isroutine(value) else "autodata"
  options = "" if kind == "autofunction" else "   :no-value:\n"
  return f".. {kind}:: {module}.{name}\n{options}"


def _automodule(name: str) -> str:
  title = f"``{name}``"
  return (
    f"{title}\n{'-' * len(title)}\n\n.. automodule:: {name}\n   :members:\n"
  )


def _modules(package: str) -> Iterable[str]:
  """Yields the modules of a package but `__main__`; none if it is missing."""
  name = f"sparsejax.{package}"
  try:
    module = importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name != name:
      raise
    return
  if not hasattr(module, "__path__"):
    yield name
    return
  for each in pkgutil.iter_modules(module.__path__):
    if not each.name.startswith("_"):
      if each.ispkg:
        yield from _modules(f"{package}.{each.name}")
      else:
        yield f"{name}.{each.name}"


def _page(title: str, text: str, entries: Iterable[str]) -> str:
  body = "\n".join(entries)
  return f"# {title}\n\n{text}\n\n```{{eval-rst}}\n{body}```\n"


def escape(
  app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
  """Makes reStructuredText of a docstring, which is plain text, in place.

  Stars, bars and trailing underscores mean nothing outside of backticks, and
  what a module indents, such as the usage of a command, stays as it is.
  """
  del app, name, value, options  # The docstring says it all.
  if what == "module":
    lines[:] = _with_literal_blocks(lines)
  if not any(line.startswith(".. code-block") for line in lines):
    lines[:] = _escaped("\n".join(lines)).split("\n")


def _escaped(text: str) -> str:
  parts = re.split(r"(`+[^`]*`+_?_?)", text)
  for number in range(1, len(parts), 2):
    if parts[number + 1][:1].isalnum():  # As in `Method`s.
      parts[number] += "\\ "
  for number in range(0, len(parts), 2):
    part = re.sub(r"([*|])", r"\\\1", parts[number])
    parts[number] = re.sub(r"(\w)_(?!\w)", r"\1\\_", part)
  return "".join(parts)


def _with_literal_blocks(lines: list[str]) -> list[str]:
  found: list[str] = []
  for blank, group in itertools.groupby(lines, lambda line: not line.strip()):
    block = list(group)
    if blank:
      found += block
    elif all(line.startswith("  ") for line in block):
      found += [".. code-block:: text", "", *(f"  {line}" for line in block)]
    else:
      found += _escaped("\n".join(block)).split("\n")
  return found
