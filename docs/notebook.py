"""Writes the notebook of the tutorial: `python docs/notebook.py`.

The page is the source: its text becomes cells of Markdown, its Python blocks
cells of code. A first cell installs the package, which Colab lacks.
"""

import json
import pathlib
import re
from typing import Any

HERE = pathlib.Path(__file__).parent
PAGE, NOTEBOOK = HERE / "tutorial.md", HERE / "tutorial.ipynb"
_INSTALL = """\
# Colab has jax and optax; this adds sparsejax. To try a build of your own,
# upload its wheel and install that: %pip install sparsejax-*.whl
import importlib.util

if importlib.util.find_spec("sparsejax") is None:
  %pip install --quiet sparsejax"""


def notebook(page: str) -> dict[str, Any]:
  """Makes a notebook of a page.

  Args:
    page: Markdown, whose fenced Python blocks run one after another.

  Returns:
    The notebook, as `json.dump` writes it.
  """
  parts = re.split(r"^```python\n(.*?)^```\n", page, flags=re.DOTALL | re.M)
  title, _, rest = parts[0].partition("\n\n")
  cells = [_cell("markdown", title), _cell("code", _INSTALL)]
  for number, text in enumerate([rest, *parts[1:]]):
    if text.strip():
      kind = "code" if number % 2 else "markdown"
      cells.append(_cell(kind, text.strip()))
  for number, cell in enumerate(cells):
    cell["id"] = f"cell-{number}"
  kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
  return {
    "cells": cells,
    "metadata": {
      "colab": {"name": "tutorial.ipynb"},
      "kernelspec": kernel,
      "language_info": {"name": "python"},
    },
    "nbformat": 4,
    "nbformat_minor": 5,
  }


def text(page: str) -> str:
  """Returns the text of the notebook's file."""
  return json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n"


def _cell(kind: str, source: str) -> dict[str, Any]:
  if kind == "markdown":  # Pages of the site are not next to a notebook.
    source = re.sub(r"\[([^\]]+)\]\([\w/]+\.md\)", r"\1", source)
  cell: dict[str, Any] = {
    "cell_type": kind,
    "id": "",
    "metadata": {},
    "source": source.splitlines(keepends=True),
  }
  if kind == "code":
    cell |= {"execution_count": None, "outputs": []}
  return cell


if __name__ == "__main__":
  NOTEBOOK.write_text(text(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
