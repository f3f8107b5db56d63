"""The rooms: imports point down only, and each library stays in its room."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1] / "sparsejax"

# A module may import modules of its own floor and of the floors before it.
FLOORS = [
  {"_version", "arguments", "checks", "base"},
  {"trees", "masks", "bitmasks", "criteria", "distributions", "schedules"},
  {"packing", "finite", "draws", "patterns", "scopes", "costs", "gradients"},
  {"view"},
  {"memories", "storage", "state", "statistics"},
  {"exchange", "stats", "connectivity", "redistribution"},
  {"update", "methods"},
  {"transform", "at_init"},
]
CORE = set().union(*FLOORS)
ROOMS = {
  "flax": {"models", "training"},
  "ml_collections": {"training", "train"},
  "absl": {"training", "train", "data"},
  "orbax": {"training"},
  "matplotlib": {"plots"},
  "tensorflow_datasets": {"data"},
  "grain": {"data"},
  "sklearn": {"data"},
  "tensorboardX": {"training"},
  "rich": {"training", "train", "tabulate"},
}
ALLOWED = {  # rooms outside the core -> rooms of ours that they may import
  "models": {"models"},
  "data": {"data"},
  "plots": {"plots"},
  "training": CORE | {"training", "models", "data", "plots", "sparsejax"},
  "train": CORE | {"training", "plots", "sparsejax"},
  "imp": {"arguments", "train", "training"},
  "compare": {"arguments", "plots", "tabulate"},
  "papers": set(),
  "tabulate": set(),
  "reproduce": {"arguments", "papers", "tabulate", "train", "training"},
}


def imported(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (name.name for name in node.names)
    elif isinstance(node, ast.ImportFrom):
      if node.module == "sparsejax":
        yield from (f"sparsejax.{name.name}" for name in node.names)
      else:
        yield node.module


def room(path):
  return path.relative_to(ROOT).parts[0].removesuffix(".py")


def ours(name):
  parts = name.split(".")
  if parts[0] != "sparsejax":
    return None
  return parts[1] if len(parts) > 1 else "sparsejax"


def test_every_core_module_has_a_floor():
  found = {p.stem for p in ROOT.glob("*.py")} - {"__init__", "train"}
  assert found <= CORE | {p for p in ALLOWED}


def test_imports_point_down():
  for path in ROOT.rglob("*.py"):
    here = room(path)
    names = {ours(name) for name in imported(path)} - {None}
    if here in CORE:
      floor = next(i for i, names in enumerate(FLOORS) if here in names)
      below = set().union(*FLOORS[: floor + 1])
      assert names <= below, path
    elif here in ALLOWED:
      public = {"_version"} | set(dir(__import__("sparsejax")))
      assert names <= ALLOWED[here] | public, path


def test_each_library_stays_in_its_room():
  for path in ROOT.rglob("*.py"):
    for name in imported(path):
      rooms = ROOMS.get(name.split(".")[0])
      assert rooms is None or room(path) in rooms, (path, name)


def test_importing_the_package_loads_no_trainer():
  heavy = set(ROOMS) - {"absl"}  # optax itself imports absl
  code = f"import sys, sparsejax; print(*({heavy!r} & sys.modules.keys()))"
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.split() == []
