"""Layer-wise sparsities of several runs: GraNet's Table 10, OptG's Figure 2."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from sparsejax.plots import style
from sparsejax.plots.records import Run


def layers(run: Run) -> list[dict[str, Any]]:
  """Returns the sparse layers of a finished run, in the network's order.

  Args:
    run: the records.

  Raises:
    ValueError: if the run is not finished: its summary lists the layers.
  """
  if "layers" not in run.summary:
    raise ValueError(
      "`run` has no summary: layers are counted when a run finishes."
    )
  return sorted(
    run.summary["layers"], key=lambda layer: layer.get("position", 0)
  )


def budget_table(runs: Mapping[str, Run]) -> str:
  """Tabulate the sparsity of every layer, one column per run.

  Args:
    runs: finished runs of the same network, by column header.

  Returns:
    A Markdown table: one row per layer in the network's order, with its
    weights, multiply-adds and sparsity in % for each run; then the sparsity of
    all sparse layers, and inference FLOPs as a fraction of the dense network's.

  Raises:
    ValueError: if there are no runs, one is not finished, or their layers
      differ.
  """
  first = _common_layers(runs)
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
  sparsities = [_percent(summary["sparsity"]) for summary in summaries]
  rows.append(("all sparse layers", "", f"{total:,}", "", *sparsities))
  ratios = [
    _ratio(summary.get("inference_flops_ratio")) for summary in summaries
  ]
  dense = _count(summaries[0].get("dense_inference_macs"))
  rows.append(("FLOPs / dense", "", "", dense, *ratios))
  return _markdown(header, rows)


def plot_budgets(runs: Mapping[str, Run], path: pathlib.Path | Any) -> None:
  """Plot the sparsity of every layer, one line per run.

  Args:
    runs: finished runs of the same network, by legend label.
    path: file to write (its suffix gives the format), or a binary file for a
      PNG.

  Raises:
    ValueError: if there are no runs, one is not finished, or their layers
      differ.
  """
  names = [layer["name"] for layer in _common_layers(runs)]
  figure = style.new_figure(max(7.2, 0.16 * len(names)), 4.2)
  axes = figure.subplots()
  for number, (label, run) in enumerate(runs.items()):
    values = [100 * layer["sparsity"] for layer in layers(run)]
    color = style.COLORS[number % len(style.COLORS)]
    axes.plot(values, marker=".", color=color, label=label)
  axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
  axes.set_ylabel("sparsity (%)")
  axes.set_ylim(-2, 102)
  style.finish_axes(axes)
  axes.legend(loc="best", frameon=False)
  figure.savefig(path)


def _common_layers(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
  """Returns the layers of the first run, if all runs have the same ones."""
  if not runs:
    raise ValueError("`runs` must contain at least one run.")
  by_label = {label: layers(run) for label, run in runs.items()}
  first_label, first = next(iter(by_label.items()))
  shapes = [(layer["name"], layer["shape"]) for layer in first]
  for label, others in by_label.items():
    if [(layer["name"], layer["shape"]) for layer in others] != shapes:
      raise ValueError(
        f"`runs` must be of the same network, but {label!r} and"
        f" {first_label!r} have different layers."
      )
  return first


def _percent(sparsity: float) -> str:
  return f"{100 * sparsity:.2f}"


def _count(value: int | float | None) -> str:
  return "" if value is None else f"{value:,.0f}"


def _ratio(value: float | None) -> str:
  return "" if value is None else f"{value:.4f}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  rule = ["---" if i < 2 else "---:" for i in range(len(header))]
  lines = ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]
  return "\n".join(lines) + "\n"
