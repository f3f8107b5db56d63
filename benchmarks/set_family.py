"""SET and its performance-driven variants: Scholte (2022), Table 2.

    python benchmarks/set_family.py digits
    TFDS_DATA_DIR=... python benchmarks/set_family.py cifar10 --epochs=1000

Trains the rows of configs/set_mlp.py as the trainer does, but with one compiled
step for all seeds, and writes set_family_*.{json,md,png}: accuracy, loss and
number of connections at the end and over epochs. Finished runs, those among the
committed results included, are not repeated. Needs matplotlib: `pip install -e
'.[train,plots]'`.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import outputs
import report
import sweep

from sparsejax.plots import style
from sparsejax.training import programs, sharding, train_state
from sparsejax.training.config import build, keys
from sparsejax.training.config.steps import Steps

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "set_mlp.py"

# Titles of the rows of the config.
ROWS = {
  "set": "SET",
  "accset": "AccSET",
  "lset": "LSET",
  "dynset": "DynSET, training loss",
  "dynset2": "DynSET, validation loss",
  "dynset3": "DynSET, validation accuracy",
  "set_paused": "SET with the gate",
  "set_more": "SET that regrows more",
  "accset_more": "AccSET that may regrow more",
  "accset_near": "AccSET, one active neighbor",
  "accset_most": "AccSET, most active neighbors",
}
CURVES = {
  "test_accuracy": "test accuracy",
  "test_loss": "test loss",
  "active": "connections",
}
# A palette for color-blind readers (Okabe and Ito, 2008), extended.
_COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00")
_COLORS += ("#CC79A7", "#B8A900", "#777777", "#AAAAAA", "#8B4513")


def cells(data: str, overrides: Sequence[str] = ()) -> list[sweep.Cell]:
  """Returns one cell per row.

  Args:
    data: "digits" or "cifar10".
    overrides: further arguments of the trainer.
  """
  return [
    sweep.Cell(title, None, (f"--config={CONFIG}:{data},{row}", *overrides))
    for row, title in ROWS.items()
  ]


def train(cell: sweep.Cell, seeds: Sequence[int]) -> list[dict[str, Any]]:
  """Train one row with several seeds and one compiled step.

  Args:
    cell: the cell; a dispatch must be an epoch.
    seeds: the seeds.

  Returns:
    One record per run, with its curves over epochs.
  """
  devices, compiled, found = sharding.make_mesh(), None, []
  for seed in seeds:
    config = sweep.config_of(cell, seed)
    experiment = build.build(config)
    # Not jitted: the keys are constants, so every seed would compile again.
    state = train_state.init(
      experiment.setup,
      experiment.init_key,
      experiment.data_key,
      experiment.dataset.example,
    )
    state = sharding.replicate(sharding.fetch(state), devices)
    if compiled is None:
      sharder = sharding.batch_sharder(devices)
      setup = experiment.setup._replace(shard=sharder)
      compiled = programs.compile(
        setup, experiment.dataset, state, devices, trains=True
      )
    curves = _follow(compiled, state, experiment.steps)
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
        "config": sweep.digest(keys.resolved(config)),
        "jax": jax.__version__,
      }
    )
  jax.clear_caches()  # Other rows compile other programs.
  return found


def _follow(
  compiled: programs.Programs, state: train_state.TrainState, steps: Steps
) -> dict[str, Any]:
  """Returns test metrics and the number of connections after every epoch."""
  assert steps.dispatch == steps.per_epoch
  curves: dict[str, Any] = {"epoch": [], **{name: [] for name in CURVES}}
  total = 0
  for epoch in range(1, steps.total // steps.per_epoch + 1):
    state, metrics = compiled.train(state)
    total = int(np.asarray(metrics.stats["total"][-1]).sum())
    if compiled.update_metric is not None:
      state = compiled.update_metric(state)
    totals = sharding.fetch(compiled.evaluate["test"](state))
    examples = compiled.examples["test"]
    curves["epoch"].append(epoch)
    correct = int(totals.metrics["accuracy"])
    curves["test_accuracy"].append(round(correct / examples, 5))
    curves["test_loss"].append(round(float(totals.loss) / examples, 5))
    curves["active"].append(int(np.asarray(metrics.stats["active"][-1]).sum()))
  return curves | {"total": total}


def table(runs: report.Runs) -> str:
  """Format the paper's Table 2 in Markdown, averaged over seeds.

  Args:
    runs: the records.

  Returns:
    The table; alpha is accuracy / connections, beta is loss x connections.
  """
  lines = [
    "| method | accuracy % | loss | connections | alpha, 1e-6 | beta |",
    "| --- | ---: | ---: | ---: | ---: | ---: |",
  ]
  for title in dict.fromkeys(run["title"] for run in runs):
    row = [run for run in runs if run["title"] == title]
    columns = [
      [100 * run["test_accuracy"] for run in row],
      [run["test_loss"] for run in row],
      [run["active"] for run in row],
      [1e6 * run["test_accuracy"] / run["active"] for run in row],
      [run["test_loss"] * run["active"] for run in row],
    ]
    formats = ("{:.2f}", "{:.4f}", "{:,.0f}", "{:.2f}", "{:,.0f}")
    texts = [
      _cell(template, values)
      for template, values in zip(formats, columns, strict=True)
    ]
    lines.append(f"| {title} | " + " | ".join(texts) + " |")
  return "\n".join([*lines, *_caption(runs)])


def _caption(runs: report.Runs) -> list[str]:
  seeds = sorted({run["seed"] for run in runs})
  first = runs[0]
  lines = [
    "",
    f"On the test split after {first['epochs']:g} epochs: mean ± standard"
    f" deviation over n = {len(seeds)} seeds"
    f" ({', '.join(map(str, seeds))}). Connections are those of the sparse"
    f" layers, of {first['total']:,}; alpha = accuracy / connections, beta ="
    " loss x connections.",
    "",
  ]
  if overrides := first["arguments"][1:]:
    lines += [f"With `{' '.join(overrides)}`.", ""]
  return lines


def _cell(template: str, values: Sequence[float]) -> str:
  if len(values) == 1:
    return template.format(values[0])
  mean, deviation = report.mean_and_deviation(values)
  return f"{template.format(mean)} ± {template.format(deviation)}"


def plot(runs: report.Runs, path: pathlib.Path) -> None:
  """Plot accuracy, loss and connections over epochs, averaged over seeds.

  Args:
    runs: the records.
    path: figure to write.
  """
  figure = style.new_figure(15, 5.2)
  axes = figure.subplots(1, 3)
  titles = list(dict.fromkeys(run["title"] for run in runs))
  for title, color in zip(titles, _COLORS, strict=False):
    curves = [run["curves"] for run in runs if run["title"] == title]
    for axis, name in zip(axes, CURVES, strict=True):
      _draw(axis, curves, name, title, color)
  for axis, label in zip(axes, CURVES.values(), strict=True):
    axis.set(xlabel="epoch", title=label)
    style.finish_axes(axis)
  figure.legend(
    *axes[0].get_legend_handles_labels(),
    loc="outside lower center",
    ncols=5,
    frameon=False,
  )
  figure.savefig(path, dpi=110)


def _draw(
  axis: Any,
  curves: Sequence[Mapping[str, Sequence[float]]],
  name: str,
  title: str,
  color: str,
) -> None:
  epochs = curves[0]["epoch"]
  means = [
    sum(values) / len(values)
    for values in zip(*(curve[name] for curve in curves), strict=True)
  ]
  # Regrowth next to active neighbors coincides with SET's own curve.
  dashes = (3, 2) if "neighbor" in title else (None, None)
  axis.plot(epochs, means, color=color, lw=1.5, label=title, dashes=dashes)


def main(arguments: Sequence[str] | None = None) -> None:
  """Train what is missing, then write the table and the figure."""
  parser = outputs.parser(__doc__)
  parser.add_argument("data", choices=("digits", "cifar10"))
  parser.add_argument(
    "--seeds", type=int, default=5, help="number of seeds (5)"
  )
  parser.add_argument(
    "--epochs", type=float, help="default: that of the config"
  )
  parser.add_argument("--hidden", help="widths, such as '(400,100,400)'")
  parser.add_argument(
    "--train-examples", type=int, help="training images of CIFAR-10"
  )
  parser.add_argument(
    "--jobs", type=int, default=1, help="parallel processes (1)"
  )
  args = parser.parse_args(arguments)
  overrides = {
    "epochs": args.epochs,
    "model.hidden": args.hidden,
    "data.train_examples": args.train_examples,
  }
  if args.train_examples:
    # One epoch: the config's batch size is 100.
    overrides["dispatch_steps"] = args.train_examples // 100
  argv = [f"--config.{k}={v}" for k, v in overrides.items() if v is not None]
  rows = cells(args.data, argv)
  if args.small:
    rows = cells(args.data, [*argv, "--config.epochs=2"])[:2]
  name, folder = f"set_family_{args.data}", outputs.folder(args)
  runs = sweep.run(
    rows,
    range(1 if args.small else args.seeds),
    outputs.continued(f"{name}.json", folder),
    jobs=args.jobs,
    train_fn=train,
  )
  text = table(runs)
  (folder / f"{name}.md").write_text(text, encoding="utf-8")
  plot(runs, folder / f"{name}.png")
  print(text)
  print(f"Results: {folder}")


if __name__ == "__main__":
  main()
