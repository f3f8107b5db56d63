"""SET and the methods that follow its metric: Scholte (2022), Table 2.

    python benchmarks/set_family.py digits
    TFDS_DATA_DIR=... python benchmarks/set_family.py cifar10 --epochs=1000

trains the rows of configs/set_mlp.py as the trainer does, but several seeds
with one compiled step, and writes
benchmarks/results/set_family_*.{json,md,png}: accuracy, loss and connections at
the end and over the epochs. Runs that the results hold already are not
repeated. It needs matplotlib: `pip install -e '.[plots]'`.
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import report
import sweep

from sparsejax.training import programs, sharding, train_state
from sparsejax.training.config import build

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "set_mlp.py"

# Row of the config: its title.
ROWS = {
  "set": "SET",
  "accset": "AccSET",
  "lset": "LSET",
  "dynset": "DynSET, training loss",
  "dynset2": "DynSET, validation loss",
  "dynset3": "DynSET, validation accuracy",
  "set_paused": "SET with the gate",
  "set_more": "SET that regrows more",
  "set_near": "SET, one active neighbour",
  "set_most": "SET, most active neighbours",
}
CURVES = {
  "test_accuracy": "test accuracy",
  "test_loss": "test loss",
  "active": "connections",
}
# Hues that stay apart for color-blind readers (Okabe and Ito, 2008).
_HUES = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00")
_HUES += ("#CC79A7", "#B8A900", "#777777", "#AAAAAA")


def cells(data: str, changes: Sequence[str] = ()) -> list[sweep.Cell]:
  """Returns what is trained, a cell for each row.

  Args:
    data: "digits" or "cifar10".
    changes: more arguments of the trainer.
  """
  return [
    sweep.Cell(title, None, (f"--config={CONFIG}:{data},{row}", *changes))
    for row, title in ROWS.items()
  ]


def train(cell: sweep.Cell, seeds: Sequence[int]) -> list[dict[str, Any]]:
  """Train one row with several seeds, and one compiled step.

  Args:
    cell: what to train; every dispatch is an epoch.
    seeds: the seeds.

  Returns:
    A record of each run, with its curves over the epochs.
  """
  devices, feed, found = sharding.data_mesh(), None, []
  for seed in seeds:
    config = sweep.config_of(cell, seed)
    experiment = build.build(config)
    # Not compiled: the keys are constants there, so every seed would be.
    state = train_state.init(
      experiment.setup,
      experiment.init_key,
      experiment.data_key,
      experiment.dataset.example,
    )
    state = sharding.replicate(sharding.fetch(state), devices)
    if feed is None:
      sharder = sharding.batch_sharder(devices)
      setup = experiment.setup._replace(shard=sharder)
      feed = programs.compile(
        setup, experiment.dataset, state, devices, trains=True
      )
    curves = _follow(feed, state, experiment.steps)
    found.append(
      {
        "title": cell.title,
        "sparsity": None,
        "seed": seed,
        "epochs": config.epochs,
        "total": curves.pop("total"),
        **{name: curves[name][-1] for name in CURVES},
        "curves": curves,
        "arguments": [sweep.relative(arg) for arg in cell.argv],
        "config": sweep.digest(build.resolved(config)),
        "jax": jax.__version__,
      }
    )
  jax.clear_caches()  # No other row has the same programs.
  return found


def _follow(
  feed: programs.Programs, state: train_state.TrainState, steps: build.Steps
) -> dict[str, Any]:
  """Returns what a run shows after each of its epochs."""
  assert steps.dispatch == steps.per_epoch
  curves: dict[str, Any] = {"epoch": [], **{name: [] for name in CURVES}}
  total = 0
  for epoch in range(1, steps.total // steps.per_epoch + 1):
    state, metrics = feed.train(state)
    total = int(metrics.stats["total"][-1])
    if feed.update_metric is not None:
      state = feed.update_metric(state)
    totals = sharding.fetch(feed.evaluate["test"](state))
    examples = feed.examples["test"]
    curves["epoch"].append(epoch)
    curves["test_accuracy"].append(round(int(totals.correct) / examples, 5))
    curves["test_loss"].append(round(float(totals.loss) / examples, 5))
    curves["active"].append(int(metrics.stats["active"][-1]))
  return curves | {"total": total}


def table(runs: report.Runs) -> str:
  """Write the paper's Table 2 in markdown, means over seeds.

  Args:
    runs: the records.

  Returns:
    The table: alpha is accuracy over connections, beta loss times connections.
  """
  lines = [
    "| method | accuracy % | loss | connections | alpha, 1e-6 | beta |",
    "| --- | ---: | ---: | ---: | ---: | ---: |",
  ]
  for title in dict.fromkeys(run["title"] for run in runs):
    some = [run for run in runs if run["title"] == title]
    columns = [
      [100 * run["test_accuracy"] for run in some],
      [run["test_loss"] for run in some],
      [run["active"] for run in some],
      [1e6 * run["test_accuracy"] / run["active"] for run in some],
      [run["test_loss"] * run["active"] for run in some],
    ]
    forms = ("{:.2f}", "{:.4f}", "{:,.0f}", "{:.2f}", "{:,.0f}")
    cells_ = [
      _cell(form, values) for form, values in zip(forms, columns, strict=True)
    ]
    lines.append(f"| {title} | " + " | ".join(cells_) + " |")
  seeds = sorted({run["seed"] for run in runs})
  first = runs[0]
  lines += [
    "",
    f"On the test split after {first['epochs']:g} epochs: mean ± standard"
    f" deviation over n = {len(seeds)} seeds"
    f" ({', '.join(map(str, seeds))}). Connections are those of the sparse"
    f" layers, of {first['total']:,}; alpha = accuracy / connections, beta ="
    " loss x connections.",
    "",
  ]
  if changes := first["arguments"][1:]:
    lines += [f"With `{' '.join(changes)}`.", ""]
  return "\n".join(lines)


def _cell(form: str, values: Sequence[float]) -> str:
  if len(values) == 1:
    return form.format(values[0])
  mean, deviation = report.mean_and_deviation(values)
  return f"{form.format(mean)} ± {form.format(deviation)}"


def plot(runs: report.Runs, path: pathlib.Path) -> None:
  """Draw accuracy, loss and connections over the epochs, means over seeds.

  Args:
    runs: the records.
    path: of the picture.
  """
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot as plt

  figure, axes = plt.subplots(1, 3, figsize=(15, 5.2), layout="constrained")
  titles = list(dict.fromkeys(run["title"] for run in runs))
  for title, hue in zip(titles, _HUES, strict=False):
    curves = [run["curves"] for run in runs if run["title"] == title]
    for axis, name in zip(axes, CURVES, strict=True):
      _draw(axis, curves, name, title, hue)
  for axis, label in zip(axes, CURVES.values(), strict=True):
    axis.set(xlabel="epoch", title=label)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
  figure.legend(
    *axes[0].get_legend_handles_labels(),
    loc="outside lower center",
    ncols=5,
    frameon=False,
  )
  figure.savefig(path, dpi=110)
  plt.close(figure)


def _draw(
  axis: Any,
  curves: Sequence[Mapping[str, Sequence[float]]],
  name: str,
  title: str,
  hue: str,
) -> None:
  epochs = curves[0]["epoch"]
  means = [
    sum(some) / len(some)
    for some in zip(*(curve[name] for curve in curves), strict=True)
  ]
  # Neighbour regrowth lies on SET's own curve.
  dashes = (3, 2) if "neighbour" in title else (None, None)
  axis.plot(epochs, means, color=hue, lw=1.5, label=title, dashes=dashes)


def main() -> None:
  """Run what is missing, then write the table and the plot."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("data", choices=("digits", "cifar10"))
  parser.add_argument("--seeds", type=int, default=5, help="how many (5)")
  parser.add_argument(
    "--epochs", type=float, help="the config's where left out"
  )
  parser.add_argument(
    "--hidden", help="widths, such as '(400,100,400)'; else the config's"
  )
  parser.add_argument(
    "--train-examples", type=int, help="of CIFAR-10; else the config's"
  )
  parser.add_argument(
    "--jobs", type=int, default=1, help="processes at a time (1)"
  )
  requested = parser.parse_args()
  changes = {
    "epochs": requested.epochs,
    "model.hidden": requested.hidden,
    "data.train_examples": requested.train_examples,
  }
  if requested.train_examples:
    # An epoch of the config's batches of 100.
    changes["dispatch_steps"] = requested.train_examples // 100
  argv = [f"--config.{k}={v}" for k, v in changes.items() if v is not None]
  results = ROOT / "benchmarks" / "results" / f"set_family_{requested.data}"
  runs = sweep.run(
    cells(requested.data, argv),
    range(requested.seeds),
    results.with_suffix(".json"),
    jobs=requested.jobs,
    trained_by=train,
  )
  text = table(runs)
  results.with_suffix(".md").write_text(text, encoding="utf-8")
  plot(runs, results.with_suffix(".png"))
  print(text)


if __name__ == "__main__":
  main()
