"""The wheel holds what a user needs, and the files around the package agree."""

import configparser
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
import yaml
from helpers import tiers

import sparsejax

ROOT = pathlib.Path(__file__).parents[1]
BUILD = """
import sys, setuptools.build_meta as backend
folder = sys.argv[1]  # The backend changes the arguments.
backend.build_sdist(folder)
backend.build_wheel(folder)
"""


def setup():
  config = configparser.ConfigParser()
  config.read(ROOT / "setup.cfg")
  return config


def test_the_core_needs_four_libraries():
  needed = setup()["options"]["install_requires"].split()
  names = [re.split("[>=<]", each)[0] for each in needed]
  assert names == ["jax", "jaxtyping", "numpy", "optax"]


def test_versions_agree():
  citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
  assert citation["version"] == sparsejax.__version__
  changelog = (ROOT / "CHANGELOG.md").read_text()
  released = re.findall(r"^## ([\d.]+) - (\d{4}-\d\d-\d\d)$", changelog, re.M)
  version, date = released[0]
  assert version == sparsejax.__version__
  assert date == str(citation["date-released"])


def test_workflows_run_what_exists():
  files = sorted((ROOT / ".github").rglob("*.yml"))
  assert len(files) >= 5
  loaded = {path.stem: yaml.safe_load(path.read_text()) for path in files}
  targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
  for name in ("tests", "docs", "wheels"):
    for job in loaded[name]["jobs"].values():
      for step in job["steps"]:
        for target in re.findall(r"make (\w+)", step.get("run", "")):
          assert target in targets
  hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
  assert [hook["id"] for hook in hooks["repos"][0]["hooks"]] == [
    "ruff-format",
    "ruff",
    "pyright",
  ]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """The source distribution and the wheel, of the files that git tracks."""
  folder = tmp_path_factory.mktemp("build")
  listed = subprocess.run(
    ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
  )
  for name in filter(None, listed.stdout.decode().split("\0")):
    if (ROOT / name).is_file():
      target = folder / "source" / name
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(ROOT / name, target)
  subprocess.run(
    [sys.executable, "-c", BUILD, str(folder)],
    cwd=folder / "source",
    check=True,
    capture_output=True,
  )
  (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
  return sdist, wheel


@tiers.SLOW
def test_distributions_are_complete(built):
  sdist, wheel = built
  with zipfile.ZipFile(wheel) as opened:
    names = set(opened.namelist())
    (metadata,) = (name for name in names if name.endswith("/METADATA"))
    text = opened.read(metadata).decode()
  configs = {f"sparsejax/{p.relative_to(ROOT)}" for p in CONFIGS}
  modules = {str(p.relative_to(ROOT)) for p in MODULES}
  assert configs | modules | {"sparsejax/py.typed"} <= names
  assert not [name for name in names if name.startswith(("tests", "docs"))]
  needed = re.findall(r"^Requires-Dist: (\S+)$", text, re.M)
  assert len(needed) == 4
  with tarfile.open(sdist) as opened:
    inside = {name.partition("/")[2] for name in opened.getnames()}
  for path in ("docs/conf.py", "tests/test_package.py", "Makefile"):
    assert path in inside


CONFIGS = [*(ROOT / "configs").rglob("*.py")]
MODULES = [*(ROOT / "sparsejax").rglob("*.py")]


@tiers.SLOW
def test_the_wheel_trains_in_an_environment_of_its_own(built, tmp_path):
  _, wheel = built
  venv, run = tmp_path / "venv", tmp_path / "run"

  def call(*command):
    done = subprocess.run(
      list(map(str, command)), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

  call(sys.executable, "-m", "venv", "--without-pip", venv)
  # The libraries are those that are installed here, without a network.
  (packages,) = venv.glob("lib/python*/site-packages")
  paths = [path for path in sys.path if path.endswith("site-packages")]
  (packages / "libraries.pth").write_text("\n".join(paths))
  python = venv / "bin" / "python"
  install = ["install", "--no-index", "--no-deps", "--force-reinstall", wheel]
  call(sys.executable, "-m", "pip", "--python", python, *install)
  where = call(python, "-c", "import sparsejax; print(sparsejax.__file__)")
  assert where.startswith(str(venv))
  argv = ["--config=digits:granet,runlocal", f"--workdir={run}"]
  call(python, "-m", "sparsejax.train", *argv)
  assert (run / "summary.json").exists() and (run / "report.html").exists()
  version = call(venv / "bin" / "sparsejax", "--version")
  assert version == f"{sparsejax.__version__}\n"
