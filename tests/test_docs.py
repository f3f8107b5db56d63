"""The pages run: every Python block of a page, in order, in one namespace."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
  "README.md",
  "CONTRIBUTING.md",
  *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]


def blocks(page):
  return re.findall(
    r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL
  )


@pytest.mark.parametrize("page", PAGES)
def test_page_runs(page):
  assert blocks(page), "every page shows its use"
  namespace = {}
  for number, block in enumerate(blocks(page), 1):
    code = compile(block, f"{page} block {number}", "exec")
    exec(code, namespace)
