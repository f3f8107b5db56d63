"""Imports point down, and each library stays in its folder."""

import ast
import configparser
import functools
import graphlib
import pathlib
import subprocess
import sys

import pytest
from helpers import tiers

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "sparsejax"

# A folder, or a file next to them, may import its own level and those before.
LEVELS = (
  {"command_line", "method"},
  {"components"},
  {"state"},
  {"selection"},
  {"updates"},
  {"sparsify", "methods", "at_init", "analysis", "calibration"},
  {"__init__"},
  {"training", "export"},
  {"train", "study", "launch"},
  {"__main__"},
)
# What others import of ours, besides their own folder.
ASIDE = {
  "models": {"components"},  # The product of a sparse layer.
  "tasks": set(),
  "data": {"command_line", "tasks"},
  "plots": {"command_line"},
}
IMPORT_ASIDE = {"training", "export", "study", "launch"}
LIBRARIES = {
  "flax": ("models", "training"),
  "ml_collections": ("configs", "train", "training/config", "study"),
  "absl": ("configs", "train", "training/config", "training/run", "data"),
  "orbax": ("training/checkpointing",),
  "tensorboardX": ("training/reporting",),
  "rich": ("training/reporting", "study"),
  "matplotlib": ("plots",),
  "tensorflow_datasets": ("data",),
  "array_record": ("data",),
  "grain": ("data",),
  "sklearn": ("data",),
  "PIL": ("data",),
}


def modules():
  """Yields (dotted name, path) of the package's modules."""
  for path in sorted(PACKAGE.rglob("*.py")):
    parts = path.relative_to(ROOT).with_suffix("").parts
    yield ".".join(parts), path


NAMES = {name for name, _ in modules()}


def resolve(module, name=None):
  """Returns the module of ours that `from module import name` reads."""
  for found in (f"{module}.{name}", f"{module}.{name}.__init__", module):
    if found in NAMES:
      return found
  return f"{module}.__init__"


@functools.cache
def imported(path):
  """Returns what a file imports: dotted names, modules of ours as in NAMES."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      for alias in node.names:
        ours = alias.name.partition(".")[0] == "sparsejax"
        found.add(resolve(alias.name) if ours else alias.name)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0 and node.module, f"{path}: import absolutely"
      if node.module.partition(".")[0] == "sparsejax":
        found |= {resolve(node.module, alias.name) for alias in node.names}
      else:
        found.add(node.module)
  return found


def ours(path):
  return {name for name in imported(path) if name in NAMES}


def folder(name):
  """Returns the folder, or the file next to the folders, of a module."""
  return name.split(".")[1]


def level(name):
  return next((i for i, names in enumerate(LEVELS) if name in names), None)


def test_every_folder_has_a_level():
  known = set().union(*LEVELS, ASIDE)
  assert {folder(name) for name in NAMES} - known == set()


@pytest.mark.parametrize("here", sorted({folder(name) for name in NAMES}))
def test_imports_point_down(here):
  allowed = set(ASIDE) if here in IMPORT_ASIDE else set()
  allowed |= {here} | ASIDE.get(here, set())
  if here not in ASIDE:
    allowed |= set().union(*LEVELS[: level(here) + 1])
  up = {
    f"{name} imports {other}"
    for name, path in modules()
    if folder(name) == here
    for other in ours(path)
    if folder(other) not in allowed
  }
  assert up == set()


def test_no_module_imports_itself_through_others():
  graph = {name: ours(path) - {name} for name, path in modules()}
  graphlib.TopologicalSorter(graph).prepare()  # Raises for a cycle.


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_each_library_stays_in_its_folder(library):
  for name, path in modules():
    if any(other.split(".")[0] == library for other in imported(path)):
      place = "/".join(name.split(".")[1:])
      homes = LIBRARIES[library]
      assert any(f"{place}/".startswith(f"{home}/") for home in homes), name


def test_the_listing_of_the_package_is_short():
  files = [path for path in PACKAGE.iterdir() if path.is_file()]
  assert len(files) <= 9


def test_the_wheel_has_every_folder():
  config = configparser.ConfigParser()
  config.read(ROOT / "setup.cfg")
  folders = {name.rpartition(".")[0] for name in NAMES}
  packages = set(config["options"]["packages"].split())
  assert packages == folders | {"sparsejax.configs", "sparsejax.configs.tables"}


def test_every_folder_says_what_it_is():
  for path in PACKAGE.rglob("__init__.py"):
    doc = ast.get_docstring(ast.parse(path.read_text()))
    assert doc and "TODO" not in doc, path


def test_importing_the_package_loads_no_heavy_library():
  heavy = set(LIBRARIES) - {"absl"}  # optax imports absl.
  code = f"import sys, sparsejax; print(*({heavy!r} & sys.modules.keys()))"
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.split() == []


@pytest.mark.parametrize(
  "command",
  tiers.every(
    5,
    [
      "train --config=digits",
      "study.imp --config=digits --workdir=runs --sparsity=0.9",
      "study.reproduce granet_2",
      "launch check --config=digits",
      "export runs/1",
    ],
  ),
)
def test_commands_say_what_to_install(command, tmp_path):
  argv = command.split()
  module = f"sparsejax.{argv[0]}"
  missing = sorted(LIBRARIES.keys() - {"absl"})
  code = (
    "import runpy, sys\n"
    f"sys.modules.update(dict.fromkeys({missing}))\n"
    f"sys.argv = {argv}\n"
    f"runpy.run_module({module!r}, run_name='__main__')\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
  )
  assert done.returncode == 2, done.stderr
  (line,) = done.stderr.splitlines()
  assert "needs the extra `train`: pip install 'sparsejax[train]'" in line
