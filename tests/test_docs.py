"""The pages run: every Python block of a page, in order, in one namespace."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ["README.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))]


def blocks(page):
  path = ROOT / page if page == "README.md" else ROOT / "docs" / page
  return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_page_runs(page):
  if page == "README.md":
    assert blocks(page), "the README shows the use in one's own loop"
  namespace = {}
  for number, block in enumerate(blocks(page), 1):
    code = compile(block, f"{page} block {number}", "exec")
    exec(code, namespace)
