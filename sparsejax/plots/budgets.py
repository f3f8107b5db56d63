"""What each layer keeps: GraNet's Table 10 and OptG's Figure 2 of any runs."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from sparsejax.plots.run import COLORS, Run


def layers(run: Run) -> list[dict[str, Any]]:
  """Returns the sparse layers of a run that is done, in the network's order.

  Args:
    run: its records.

  Raises:
    ValueError: if it is not done: layers are counted at its end.
  """
  if "layers" not in run.summary:
    raise ValueError(
      "`run` has no summary: layers are counted when a run is done."
    )
  found = run.summary["layers"]
  return sorted(found, key=lambda layer: layer.get("position", 0))


def budget_table(runs: Mapping[str, Run]) -> str:
  """Lay the sparsities of every layer side by side.

  Args:
    runs: title of a column -> a run that is done. All are of one network.

  Returns:
    A table in Markdown: one row for each layer in the network's order, with
    its weights, multiply-adds and the sparsity in percent of each run; then
    that of all sparse layers, and the FLOPs of inference as a share of the
    dense network's.

  Raises:
    ValueError: if there is no run, one is not done, or they differ in layers.
  """
  first = _common(runs)
  header = ("layer", "shape", "weights", "multiply-adds", *runs)
  columns = [
    [_percent(layer["sparsity"]) for layer in layers(run)]
    for run in runs.values()
  ]
  rows = [
    (
      layer["name"],
      "x".join(str(size) for size in layer["shape"]),
      f"{layer['total']:,}",
      _count(layer.get("macs")),
      *cells,
    )
    for layer, *cells in zip(first, *columns, strict=True)
  ]
  summaries = [run.summary for run in runs.values()]
  total = sum(layer["total"] for layer in first)
  whole = [_percent(summary["sparsity"]) for summary in summaries]
  rows.append(("all sparse layers", "", f"{total:,}", "", *whole))
  ratios = [
    _ratio(summary.get("inference_flops_ratio")) for summary in summaries
  ]
  dense = _count(summaries[0].get("dense_inference_macs"))
  rows.append(("FLOPs of dense", "", "", dense, *ratios))
  return _markdown(header, rows)


def plot_budgets(runs: Mapping[str, Run], path: pathlib.Path | Any) -> None:
  """Plot the sparsity of every layer, one line for each run.

  Args:
    runs: name in the legend -> a run that is done. All are of one network.
    path: file to write, by its ending, or a binary file for a PNG.

  Raises:
    ValueError: if there is no run, one is not done, or they differ in layers.
  """
  from matplotlib.figure import Figure

  names = [layer["name"] for layer in _common(runs)]
  width = max(7.2, 0.16 * len(names))
  figure = Figure(figsize=(width, 4.2), dpi=120, layout="constrained")
  axes = figure.subplots()
  for number, (title, run) in enumerate(runs.items()):
    values = [100 * layer["sparsity"] for layer in layers(run)]
    color = COLORS[number % len(COLORS)]
    axes.plot(values, marker=".", color=color, label=title)
  axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
  axes.set_ylabel("sparsity (%)")
  axes.set_ylim(-2, 102)
  axes.grid(alpha=0.3)
  axes.legend(loc="lower right", frameon=False)
  axes.spines[["top", "right"]].set_visible(False)
  figure.savefig(path)


def _common(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
  """Returns the layers of the first run, after a look at the others."""
  if not runs:
    raise ValueError("`runs` must hold at least one run.")
  found = {title: layers(run) for title, run in runs.items()}
  first_title, first = next(iter(found.items()))
  shapes = [(layer["name"], layer["shape"]) for layer in first]
  for title, others in found.items():
    if [(layer["name"], layer["shape"]) for layer in others] != shapes:
      raise ValueError(
        f"`runs` must be of one network; the layers of {title!r} are not those"
        f" of {first_title!r}."
      )
  return first


def _percent(sparsity: float) -> str:
  return f"{100 * sparsity:.2f}"


def _count(value: int | float | None) -> str:
  return "" if value is None else f"{value:,.0f}"


def _ratio(value: float | None) -> str:
  return "" if value is None else f"{value:.4f}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  marks = ["---" if i < 2 else "---:" for i in range(len(header))]
  lines = ["| " + " | ".join(cells) + " |" for cells in (header, marks, *rows)]
  return "\n".join(lines) + "\n"
