"""Tables and figures of several runs.

  python -m sparsejax.plots report WORKDIR...
  python -m sparsejax.plots budgets WORKDIR... [--out FILE]
  python -m sparsejax.plots flops WORKDIR... --out FILE
  python -m sparsejax.plots plasticity FOLDER... --out FILE
  python -m sparsejax.plots final_gap FOLDER... --out FILE

`report` writes `report.html` of each run to its workdir, also while it trains.
`budgets` prints the sparsity of every layer of finished runs, and plots it with
`--out`. `flops` plots inference and training FLOPs over the steps. A run is
named after its folder, or by the whole path if two folders have the same name.
Their figures need matplotlib: pip install 'sparsejax[plots]'. `plasticity` and
`final_gap` plot grids of sparsejax.study.plasticity, and the mean of several,
such as those of other seeds.

Exit status: 0 done, 2 bad input.
"""

import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from sparsejax import command_line, plots

_FIGURES: dict[str, Callable[..., Any]] = {
  "budgets": plots.plot_budgets,
  "flops": plots.plot_flops,
}
_MEASURES = ("plasticity", "final_gap")
_KNOWN = ("report", *_FIGURES, *_MEASURES)


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line.

  Args:
    argv: arguments without the program's name; `sys.argv` by default.

  Returns:
    The exit status.
  """
  return command_line.run(_plot, argv, name="sparsejax.plots", doc=__doc__)


def _plot(argv: list[str]) -> int:
  parser = command_line.Parser()
  parser.add_argument("figure", metavar="|".join(_KNOWN))
  parser.add_argument("workdirs", nargs="+", type=command_line.path)
  parser.add_argument("--out", type=command_line.path)
  parsed = parser.parse_args(argv)
  if parsed.figure == "report":
    for workdir in parsed.workdirs:
      print(plots.write_report(workdir))
    return command_line.DONE
  if parsed.figure not in _KNOWN:
    raise command_line.unknown("The figure", parsed.figure, _KNOWN)
  if parsed.figure != "budgets" and parsed.out is None:
    raise command_line.InputError(
      f"`{parsed.figure}` needs `--out`, the file to write."
    )
  try:
    if parsed.figure in _MEASURES:
      plots.plot_plasticity(parsed.workdirs, parsed.figure, parsed.out)
      return command_line.DONE
    runs = {
      title: plots.read_run(folder)
      for title, folder in _titles(parsed.workdirs).items()
    }
    if parsed.figure == "budgets":
      print(plots.budget_table(runs), end="")
    if parsed.out is not None:
      _FIGURES[parsed.figure](runs, parsed.out)
  except ValueError as error:
    raise command_line.InputError(str(error)) from error
  return command_line.DONE


def _titles(folders: list[pathlib.Path]) -> dict[str, pathlib.Path]:
  names = [folder.resolve().name for folder in folders]
  return {
    name if names.count(name) == 1 else str(folder): folder
    for name, folder in zip(names, folders, strict=True)
  }


if __name__ == "__main__":
  sys.exit(main())
