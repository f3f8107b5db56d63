"""How OptG's sparsity rises for three steepnesses, and what comes of it.

    python benchmarks/optg.py

trains the digits config at 95 % with alpha of 0.1, 0.5 and 1, as in figure 1 of
the paper, and writes benchmarks/results/optg.{json,png}. It needs matplotlib:
`pip install -e '.[plots]'`.
"""

import json
import math
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "optg"
ALPHAS = (0.1, 0.5, 1.0)
SPARSITY, EPOCHS, SEED = 0.95, 40, 10
_HUES = ("#E69F00", "#0072B2", "#009E73")


def train(alpha: float, workdir: pathlib.Path) -> dict[str, object]:
  """Trains with the command line and returns the curves over the epochs."""
  options = f"optg,sparsity={SPARSITY},seed={SEED}"
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
  """Draws the sparsity of each run over the formula."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(6.4, 3.8), dpi=120, layout="constrained")
  axes = figure.subplots()
  grid = [epoch / 4 for epoch in range(4 * EPOCHS + 1)]
  for run, hue in zip(runs, _HUES, strict=True):
    alpha = run["alpha"]
    formula = [100 * requested(epoch, alpha) for epoch in grid]
    axes.plot(grid, formula, color=hue, linestyle=":", linewidth=1)
    label = f"alpha {alpha:g}: {run['test_accuracy']:.1%} test accuracy"
    reached = [100 * sparsity for sparsity in run["sparsity"]]
    axes.step(run["epochs"], reached, color=hue, label=label, linewidth=1.6)
  axes.set_xlabel("epoch (dotted: equation 16)")
  axes.set_ylabel("sparsity in %")
  axes.set_ylim(-3, 103)
  axes.legend(loc="upper left", frameon=False, fontsize=9)
  axes.grid(axis="y", alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)
  figure.savefig(path)


def main() -> None:
  """Train, write the curves, draw them."""
  with tempfile.TemporaryDirectory() as folder:
    runs = [train(a, pathlib.Path(folder) / f"alpha-{a:g}") for a in ALPHAS]
  text = json.dumps(runs, indent=1) + "\n"
  RESULTS.with_suffix(".json").write_text(text, encoding="utf-8")
  plot(runs, RESULTS.with_suffix(".png"))
  for run in runs:
    print(f"alpha {run['alpha']:g}: {run['test_accuracy']:.2%} test accuracy")


if __name__ == "__main__":
  main()
