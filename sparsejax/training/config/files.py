"""Where config files are: those of the package, and those of the user."""

import importlib.util
import pathlib
from types import ModuleType

from sparsejax import command_line

_PACKAGE = pathlib.Path(__file__).parents[2]
# A wheel carries the configs inside the package; a checkout has them next to
# it.
_FOLDER = next(
  folder
  for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs")
  if folder.is_dir()
)


def find(what: str, name: str, *, under: str = ".") -> pathlib.Path:
  """Find a Python file by its path, or by its name in the package's configs.

  Args:
    what: what the name was given for, e.g. "`--config`".
    name: a path that ends in `.py`, or the name of a file of the package.
    under: the folder of `configs/` that has the names: "." or "tables".

  Returns:
    The path of an existing file.

  Raises:
    InputError: if there is no such file.
  """
  path, folder = pathlib.Path(name), _FOLDER / under
  if path.suffix != ".py":
    path = folder / f"{name}.py"
  if not path.is_file():
    near = () if path.parent == folder else path.parent.glob("*.py")
    shipped = [path.stem for path in folder.glob("*.py")]
    raise command_line.unknown(what, name, [*shipped, *map(str, near)])
  return path


def load(path: pathlib.Path) -> ModuleType:
  """Run a Python file and return it as a module.

  Args:
    path: an existing `.py` file.
  """
  spec = importlib.util.spec_from_file_location("_sparsejax_config", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
