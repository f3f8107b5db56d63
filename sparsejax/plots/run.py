"""The plot of one run: accuracy and sparsity over the steps."""

import importlib.util
import json
import pathlib
from typing import Any, NamedTuple

# Hues that stay apart for color-blind readers (Okabe and Ito, 2008).
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#999999"
COLORS = (_BLUE, _ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


class Run(NamedTuple):
  """The records of one run.

  Attributes:
    config: what `config.json` holds.
    rows: the lines of `metrics.jsonl`, steps ascending.
    summary: what `summary.json` holds; empty where the run is not done.
  """

  config: dict[str, Any]
  rows: list[dict[str, Any]]
  summary: dict[str, Any]


def read_run(workdir: pathlib.Path) -> Run:
  """Read the records of a run.

  Args:
    workdir: the run's folder; the run may still go on.

  Returns:
    Its records.

  Raises:
    FileNotFoundError: if there is no run in it.
  """
  summary = workdir / "summary.json"
  lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
  return Run(
    config=json.loads((workdir / "config.json").read_text(encoding="utf-8")),
    # What stands behind the last line end is still being written.
    rows=[json.loads(line) for line in lines[:-1]],
    summary=json.loads(summary.read_text(encoding="utf-8"))
    if summary.exists()
    else {},
  )


def has_matplotlib() -> bool:
  """Says whether figures can be made."""
  return importlib.util.find_spec("matplotlib") is not None


def plot_run(run: Run, path: pathlib.Path | Any) -> None:
  """Plot accuracy and sparsity over the steps.

  Args:
    run: the records; lines that lack a number are left out of its curve.
    path: file to write, by its ending, or a binary file for a PNG.
  """
  # The figure's own canvas and not pyplot: no window system, no global state.
  from matplotlib.figure import Figure

  figure = Figure(figsize=(7.2, 5.0), dpi=120, layout="constrained")
  top, bottom = figure.subplots(2, 1, sharex=True)
  curve(top, run, "accuracy", color=_GREY, alpha=0.5, label="train batch")
  curve(top, run, "test_accuracy", color=_BLUE, marker=".", label="test")
  top.set_ylabel("accuracy")
  top.set_ylim(_accuracy_floor(run), 1.005)
  curve(bottom, run, "sparsity", color=_ORANGE, label="achieved")
  curve(
    bottom,
    run,
    "requested_sparsity",
    color=_GREY,
    linestyle="--",
    label="requested",
  )
  bottom.set_ylabel("sparsity")
  bottom.set_ylim(-0.02, 1.02)
  bottom.set_xlabel("step")
  for axes in (top, bottom):
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
  figure.savefig(path)


def curve(axes: Any, run: Run, name: str, **style: Any) -> None:
  """Plot one number over the steps at which it was recorded.

  Args:
    axes: of matplotlib.
    run: the records.
    name: key of the number.
    **style: of the line.
  """
  points = [
    (row["step"], row[name]) for row in run.rows if row.get(name) is not None
  ]
  axes.plot(*zip(*points, strict=True) if points else ([], []), **style)


def _accuracy_floor(run: Run) -> float:
  """Returns where the accuracy axis starts: below every test accuracy."""
  seen = [row["test_accuracy"] for row in run.rows if "test_accuracy" in row]
  return max(0.0, min(seen, default=0.0) - 0.1)
