"""Tables and figures of several runs, from their folders.

    python -m sparsejax.plots budgets WORKDIR... [--out FILE]
    python -m sparsejax.plots flops WORKDIR... --out FILE

`budgets` prints the sparsity of every layer of runs that are done, and plots it
where there is a file to write; `flops` plots what they cost over their steps.
A run is called after its folder, by the whole path where two are alike.
"""

import argparse
import pathlib
import sys

from sparsejax import plots


def main(argv: list[str] | None = None) -> int:
  """Make what the command line asks for.

  Args:
    argv: arguments; the process's own if not given.

  Returns:
    The exit status: 0, or 2 where there is nothing to make it from.
  """
  parser = argparse.ArgumentParser(
    prog="python -m sparsejax.plots",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("what", choices=("budgets", "flops"))
  parser.add_argument("workdirs", nargs="+", type=pathlib.Path)
  parser.add_argument("--out", type=pathlib.Path, help="figure to write")
  given = parser.parse_args(argv)
  if given.what == "flops" and given.out is None:
    parser.error("flops needs --out, the figure to write.")
  try:
    runs = {
      title: plots.read_run(folder)
      for title, folder in _titles(given.workdirs).items()
    }
    if given.what == "budgets":
      print(plots.budget_table(runs), end="")
    if given.out is not None:
      draw = {"budgets": plots.plot_budgets, "flops": plots.plot_flops}
      draw[given.what](runs, given.out)
  except (OSError, ValueError, ImportError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


def _titles(folders: list[pathlib.Path]) -> dict[str, pathlib.Path]:
  names = [folder.resolve().name for folder in folders]
  return {
    name if names.count(name) == 1 else str(folder): folder
    for name, folder in zip(names, folders, strict=True)
  }


if __name__ == "__main__":
  sys.exit(main())
