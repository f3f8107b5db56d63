"""Where config files are: those of the package, and those of the user."""

import contextlib
import importlib.util
import pathlib
import traceback
from collections.abc import Iterator
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
    shipped = sorted(path.stem for path in folder.glob("*.py"))
    if path.suffix == ".py" and path.stem in shipped:
      raise command_line.InputError(
        f"{what} got {name!r}, and there is no such file here. For that of the"
        f" package, give its name alone: {path.stem}."
      )
    raise command_line.unknown(what, name, [*shipped, *map(str, near)])
  return path


def load(path: pathlib.Path) -> ModuleType:
  """Run a Python file and return it as a module.

  Args:
    path: an existing `.py` file.

  Raises:
    InputError: if the file cannot be run.
  """
  spec = importlib.util.spec_from_file_location("_sparsejax_config", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  with running(path):
    spec.loader.exec_module(module)
  return module


@contextlib.contextmanager
def running(path: pathlib.Path) -> Iterator[None]:
  """Turn what the code of a user's file raises into `InputError`.

  Args:
    path: the file, which the message names with the line.
  """
  try:
    yield
  except command_line.InputError:
    raise
  except (Exception, SystemExit) as error:
    lines = [
      frame.lineno
      for frame in traceback.extract_tb(error.__traceback__)
      if pathlib.Path(frame.filename) == path.absolute()
    ]
    if isinstance(error, SyntaxError):
      lines = [error.lineno]
    line = f", line {lines[-1]}," if lines and lines[-1] else ""
    text = " ".join(traceback.format_exception_only(error)[-1].split())
    text = text.rstrip(".")
    raise command_line.InputError(
      f"{path}{line} cannot be run: {text}. Correct the file."
    ) from error
