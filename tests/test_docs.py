"""The pages run: every Python block of a page, in order, in one namespace."""

import html.parser
import importlib.util
import inspect
import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from helpers import tiers

from sparsejax.training.config import command, keys

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
# What the API reference generates comes from docstrings, which are doctests.
GENERATED = {DOCS / "api", DOCS / "_build"}
SITE = sorted(
  path for path in DOCS.rglob("*.md") if not GENERATED & {*path.parents}
)
PAGES = ["README.md", "CONTRIBUTING.md"]
PAGES += [path.relative_to(ROOT).as_posix() for path in SITE]
# Pages that only list others.
LISTS = {"docs/changelog.md", "docs/methods/index.md", "docs/which_method.md"}


def blocks(page, language="python"):
  return re.findall(
    rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL
  )


def load(name):
  """Imports a script of the site."""
  spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize(
  # The notebook of the tutorial runs in the slow tier.
  "page",
  [page for page in PAGES if page != "docs/tutorial.md"],
)
def test_page_runs(page):
  assert blocks(page) or page in LISTS, "every page shows its use"
  namespace = {}
  for number, block in enumerate(blocks(page), 1):
    code = compile(block, f"{page} block {number}", "exec")
    exec(code, namespace)


def commands():
  """Yields the training commands of the pages, in one line each."""
  for page in PAGES:
    for block in [*blocks(page, "bash"), *blocks(page, "console")]:
      for line in block.replace("\\\n", " ").splitlines():
        _, found, arguments = line.partition("sparsejax.train ")
        if found:
          yield page, shlex.split(arguments, comments=True)


@pytest.mark.parametrize(("page", "argv"), list(commands()))
def test_training_commands_are_valid(page, argv):
  keys.resolved(command.parse(argv).config)


def test_pages_are_reached_and_links_resolve():
  reached, waiting = set(), [DOCS / "index.md"]
  while waiting:
    page = waiting.pop()
    reached.add(page)
    for found in toctree(page):
      if found not in reached:
        waiting.append(found)
  assert set(SITE) <= reached | {DOCS / "api" / "index.md"}
  for page in [*SITE, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", page.read_text()):
      if not target.startswith(("http", "mailto")):
        assert (page.parent / target).exists(), f"{page}: {target}"


def toctree(page):
  """Returns the pages of the tables of contents of a page."""
  if not page.exists() or page.suffix != ".md":
    return []
  found = []
  for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.S):
    for line in block.splitlines():
      if line and not line.startswith(":"):
        found += page.parent.glob(f"{line}.md")
  return found


def test_generated_files_are_up_to_date():
  notebook = load("notebook")
  page = notebook.PAGE.read_text(encoding="utf-8")
  assert notebook.NOTEBOOK.read_text(encoding="utf-8") == notebook.text(page)


@tiers.SLOW
def test_figures_are_up_to_date():
  figures = load("figures")
  drawn = {f"{name}.html": draw() for name, draw in figures.figures().items()}
  on_disk = {
    path.name: path.read_text(encoding="utf-8").removesuffix("\n")
    for path in figures.FOLDER.iterdir()
  }
  assert on_disk == drawn


@tiers.SLOW
def test_notebook_runs_from_top_to_bottom(tmp_path):
  cells = json.loads((DOCS / "tutorial.ipynb").read_text())["cells"]
  code = [c["source"] for c in cells if c["cell_type"] == "code"]
  install, *others = ["".join(source) for source in code]
  assert "%pip install" in install  # Of IPython; the package is installed.
  script = tmp_path / "tutorial.py"
  script.write_text("\n\n".join(others))
  done = subprocess.run(
    [sys.executable, script], cwd=tmp_path, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert "90.0" in done.stdout


class Links(html.parser.HTMLParser):
  """Collects what a page loads, and where its links go."""

  def __init__(self):
    super().__init__()
    self.loaded, self.ids, self.links = [], set(), []

  def handle_starttag(self, tag, attrs):
    values = dict(attrs)
    if "id" in values:
      self.ids.add(values["id"])
    if tag in ("script", "img", "iframe", "source") and "src" in values:
      self.loaded.append(values["src"])
    if tag == "link" and values.get("rel") not in ("canonical",):
      self.loaded.append(values["href"])
    if tag == "a" and "href" in values:
      self.links.append(values["href"])


@tiers.SLOW
def test_site_builds_without_warnings_and_needs_no_network(tmp_path):
  pytest.importorskip("furo")
  out = tmp_path / "html"
  arguments = ["-b", "html", "-W", "--keep-going", "-q", str(DOCS), str(out)]
  done = subprocess.run(
    [sys.executable, "-m", "sphinx", *arguments], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  pages = {}
  for path in out.rglob("*.html"):
    pages[path] = Links()
    pages[path].feed(path.read_text())
  assert len(pages) > 25
  for path, page in pages.items():
    assert not [x for x in page.loaded if x.startswith(("http", "//"))], path
    for link in page.links:
      target, _, anchor = link.partition("#")
      if target.startswith(("http", "mailto")):
        continue
      found = (path.parent / target).resolve() if target else path
      assert found.exists(), f"{path}: {link}"
      if anchor and found in pages:
        assert anchor in pages[found].ids, f"{path}: {link}"
  styles = "".join(path.read_text() for path in out.rglob("*.css"))
  assert not re.findall(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", styles)


@tiers.SLOW
def test_api_reference_has_every_public_name(tmp_path):
  import sparsejax

  load("api").write(tmp_path)
  text = "".join(path.read_text() for path in tmp_path.glob("*.md"))
  for name in set(sparsejax.__all__) - {"__version__"}:
    if inspect.ismodule(getattr(sparsejax, name)):
      continue
    assert f":: sparsejax.{name}\n" in text, name
