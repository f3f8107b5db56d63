"""OptG's sparsity over training for three values of alpha, and its accuracy.

    python benchmarks/optg.py

Trains the digits config at 95 % sparsity with alpha = 0.1, 0.5 and 1, as in
Figure 1 of the paper, and writes optg.{json,png}. Needs matplotlib: `pip
install -e '.[train,plots]'`.
"""

import json
import math
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import outputs

from sparsejax.plots import style

ROOT = pathlib.Path(__file__).parents[1]
ALPHAS = (0.1, 0.5, 1.0)
SPARSITY, EPOCHS, SEED = 0.95, 40, 10
_COLORS = ("#E69F00", "#0072B2", "#009E73")


def train(
  alpha: float, workdir: pathlib.Path, *words: str
) -> dict[str, object]:
  """Trains one run from the command line; returns its curves over epochs."""
  options = ",".join(["optg", f"sparsity={SPARSITY},seed={SEED}", *words])
  command = [
    sys.executable,
    "-m",
    "sparsejax.train",
    f"--config={ROOT}/configs/digits.py:{options}",
    f"--config.method.alpha={alpha}",
    f"--config.epochs={EPOCHS}",
    f"--workdir={workdir}",
  ]
  subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  summary = json.loads((workdir / "summary.json").read_text())
  per_epoch = summary["steps"] / EPOCHS
  return {
    "alpha": alpha,
    "epochs": [row["step"] / per_epoch for row in rows],
    "sparsity": [row["sparsity"] for row in rows],
    "test_accuracy": summary["test_accuracy"],
    "final_sparsity": summary["sparsity"],
  }


def requested(epoch: float, alpha: float) -> float:
  """Equation 16 of the paper."""
  return SPARSITY / (1 + math.exp(-alpha * (epoch - EPOCHS / 2)))


def plot(runs: list[dict], path: pathlib.Path) -> None:
  """Plot the sparsity of each run and the formula."""
  figure = style.new_figure(6.4, 3.8)
  axes = figure.subplots()
  grid = [epoch / 4 for epoch in range(4 * EPOCHS + 1)]
  for run, color in zip(runs, _COLORS, strict=True):
    alpha = run["alpha"]
    formula = [100 * requested(epoch, alpha) for epoch in grid]
    axes.plot(grid, formula, color=color, linestyle=":", linewidth=1)
    label = f"alpha {alpha:g}: {run['test_accuracy']:.1%} test accuracy"
    achieved = [100 * sparsity for sparsity in run["sparsity"]]
    axes.step(run["epochs"], achieved, color=color, label=label, linewidth=1.6)
  axes.set_xlabel("epoch (dotted: equation 16)")
  axes.set_ylabel("sparsity (%)")
  axes.set_ylim(-3, 103)
  axes.legend(loc="upper left", frameon=False, fontsize=9)
  style.finish_axes(axes, grid="y")
  figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
  """Train, then write the curves and the figure."""
  options = outputs.options(__doc__, argv)
  words = ["runlocal"] if options.small else []
  with tempfile.TemporaryDirectory() as folder:
    runs = [
      train(a, pathlib.Path(folder) / f"alpha-{a:g}", *words) for a in ALPHAS
    ]
  text = json.dumps(runs, indent=1) + "\n"
  (options.folder / "optg.json").write_text(text, encoding="utf-8")
  plot(runs, options.folder / "optg.png")
  for run in runs:
    print(f"alpha {run['alpha']:g}: {run['test_accuracy']:.2%} test accuracy")
  print(f"Results: {options.folder}")


if __name__ == "__main__":
  main()
