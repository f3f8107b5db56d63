"""Configuration of the site: `make docs`.

Nothing is fetched while it is built or read: no inventories of other projects,
no fonts, no scripts from elsewhere.
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

import api  # noqa: E402  The neighbor file, whose folder is on the path now.

import sparsejax  # noqa: E402

project = "sparsejax"
author = "sparsejax developers"
copyright = "2026, sparsejax developers"
release = version = sparsejax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
# Attributes of the same name in two classes: no link is better than a guess.
suppress_warnings = ["ref.python"]

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
# Code in docstrings stands in single backticks.
default_role = "literal"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Types of arrays, such as Float[Array, "*dims"], are in the source.
napoleon_attr_annotations = False

html_theme = "furo"
html_title = f"sparsejax {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {
  "light_css_variables": {"color-brand-primary": "#0072b2"}
  | {"color-brand-content": "#0072b2"},
  "dark_css_variables": {"color-brand-primary": "#58b0ea"}
  | {"color-brand-content": "#58b0ea"},
}


def _drop_missing(app, name, source):
  """Leaves pages that this version lacks out of tables of contents."""
  del app  # Only the text matters.
  folder = (HERE / name).parent
  lines = source[0].split("\n")
  inside, kept = False, []
  for line in lines:
    if line.startswith("```"):
      inside = line == "```{toctree}"
    missing = (
      inside and line.endswith("*") and not any(folder.glob(line + ".md"))
    )
    if not missing:
      kept.append(line)
  source[0] = "\n".join(kept)


def setup(app):
  """Writes the pages of the API reference before Sphinx looks for pages."""
  app.connect("config-inited", lambda app, config: api.write(HERE / "api"))
  app.connect("source-read", _drop_missing)
  # Before napoleon, which reads the sections.
  app.connect("autodoc-process-docstring", api.escape, priority=100)
