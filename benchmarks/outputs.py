"""Where benchmarks write: a temporary folder, or the committed results."""

import argparse
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

RECORDED = pathlib.Path(__file__).parent / "results"
"""The committed results."""


class Options(NamedTuple):
  """What every benchmark takes from its command line.

  Attributes:
    folder: where results go; exists.
    small: whether to try the script in seconds, with numbers that say nothing.
  """

  folder: pathlib.Path
  small: bool = False


def parser(doc: str | None) -> argparse.ArgumentParser:
  """Make a parser with the options that all benchmarks have.

  Args:
    doc: the script's docstring, which `--help` prints.
  """
  found = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  places = found.add_mutually_exclusive_group()
  places.add_argument(
    "--record",
    action="store_true",
    help=f"update the committed results in {RECORDED.name}/",
  )
  places.add_argument(
    "--out",
    type=pathlib.Path,
    help="folder for the results (default: a new temporary folder)",
  )
  found.add_argument(
    "--small",
    action="store_true",
    help="only try the script: a few seconds, meaningless numbers",
  )
  return found


def options(doc: str | None, argv: Sequence[str] | None = None) -> Options:
  """Parse the command line of a benchmark that adds no options.

  Args:
    doc: the script's docstring, which `--help` prints.
    argv: arguments without the program's name; `sys.argv` by default.
  """
  args = parser(doc).parse_args(argv)
  return Options(folder(args), args.small)


def folder(args: argparse.Namespace) -> pathlib.Path:
  """Returns the folder for the results, which exists.

  Args:
    args: parsed by a `parser`.
  """
  if args.small and args.record:
    raise SystemExit("error: `--small` measures nothing to `--record`.")
  if args.record:
    return RECORDED
  if args.out is None:
    return pathlib.Path(tempfile.mkdtemp(prefix="sparsejax-benchmark-"))
  args.out.mkdir(parents=True, exist_ok=True)
  return args.out


def continued(name: str, folder: pathlib.Path) -> pathlib.Path:
  """Returns a file of results in a folder, at first a copy of the committed.

  So finished runs are not repeated, wherever the results go.

  Args:
    name: of the file.
    folder: exists.
  """
  path, committed = folder / name, RECORDED / name
  if not path.exists() and committed.exists():
    shutil.copyfile(committed, path)
  return path
