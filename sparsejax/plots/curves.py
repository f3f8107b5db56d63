"""What runs recorded over their steps, as charts for reports."""

from collections.abc import Callable, Sequence
from typing import Any

from sparsejax.plots import svg
from sparsejax.plots.records import Measure, Run, measures

Points = list[tuple[svg.Number, svg.Number]]
Labeled = Sequence[tuple[str, Run]]
"""Runs with their labels; those of the same label share a color."""


def charts(runs: Labeled) -> dict[str, str]:
  """Draw what runs recorded.

  Args:
    runs: one, which gets several curves per chart, or several, which get one
      each.

  Returns:
    Title -> chart: accuracy, or what else the task measures, loss, sparsity,
    FLOPs, how many active weights mask updates left active, and how many they
    pruned and regrew. A chart without a recorded value is left out.
  """
  found = {
    **{
      measure.title.capitalize(): _measure(runs, measure)
      for measure in measures(runs[0][1].summary)
    },
    "Loss": _loss(runs),
    "Sparsity": _sparsity(runs),
    "FLOPs": _flops(runs),
    "Mask overlap between updates": _overlap(runs),
  }
  if len(runs) == 1:
    found["Weights that mask updates moved"] = _moved(runs)
  return {title: chart for title, chart in found.items() if chart}


def recorded(run: Run, name: str, factor: svg.Number = 1) -> Points:
  """Returns (step, value) of the rows that have a value."""
  return [
    (row["step"], factor * row[name])
    for row in run.rows
    if row.get(name) is not None
  ]


def moved(run: Run) -> list[tuple[int, float, float, float]]:
  """Returns what mask updates moved between two recorded steps.

  Returns:
    Step, pruned and regrown weights of one mask update, and the share of the
    active weights that stayed active. Where several updates lie between two
    rows, their mean.
  """
  found = []
  done = pruned = regrown = 0
  for row in run.rows:
    if row.get("mask_updates", 0) <= done:
      continue
    updates = row["mask_updates"] - done
    cleared = sum(row["pruned"]) - pruned
    added = sum(row["regrown"]) - regrown
    active = row["active"] + cleared - added  # Before these updates.
    overlap = max(1 - cleared / updates / max(active, 1), 0.0)
    found.append((row["step"], cleared / updates, added / updates, overlap))
    done, pruned, regrown = (
      done + updates,
      pruned + cleared,
      regrown + added,
    )
  return found


def _draw(
  runs: Labeled,
  axis: svg.Axis,
  kinds: Sequence[tuple[str, Callable[[Run], Points], dict[str, Any]]],
) -> str:
  """Draws some kinds of curves; of several runs only the last kind.

  Args:
    runs: with their labels.
    axis: the vertical axis.
    kinds: label, points and other fields of `svg.Curve`.
  """
  lines = []
  if len(runs) == 1:
    run = runs[0][1]
    lines = [svg.Curve(name, f(run), **more) for name, f, more in kinds]
  else:
    _, points, more = kinds[-1]
    steps = more.get("steps", False)
    labels = list(dict.fromkeys(label for label, _ in runs))
    lines = [
      svg.Curve(label, points(run), color=labels.index(label), steps=steps)
      for label, run in runs
    ]
  if not any(line.points for line in lines):
    return ""
  return svg.chart(lines, axis)


def _measure(runs: Labeled, measure: Measure) -> str:
  name, test, factor = measure.name, f"test_{measure.name}", 1
  axis = svg.Axis(measure.title, lambda value: f"{value:g}", log=True)
  if measure.percent:
    seen = [y for _, run in runs for _, y in recorded(run, test)]
    low = max(0.0, min(seen, default=0.0) - 0.05)
    axis = svg.Axis(measure.title, _percent, low=100 * low, high=100)
    factor = 100
  return _draw(
    runs,
    axis,
    [
      (
        "training batch",
        lambda run: recorded(run, name, factor),
        {"faint": True},
      ),
      ("test", lambda run: recorded(run, test, factor), {}),
    ],
  )


def _loss(runs: Labeled) -> str:
  return _draw(
    runs,
    svg.Axis("loss", lambda value: f"{value:g}", log=True),
    [
      ("training batch", lambda run: recorded(run, "loss"), {"faint": True}),
      ("test", lambda run: recorded(run, "test_loss"), {}),
    ],
  )


def _sparsity(runs: Labeled) -> str:
  return _draw(
    runs,
    svg.Axis("sparsity", _percent, low=0, high=100),
    [
      (
        "requested",
        lambda run: recorded(run, "requested_sparsity", 100),
        {"faint": True, "steps": True},
      ),
      (
        "achieved",
        lambda run: recorded(run, "sparsity", 100),
        {"color": 1, "steps": True},
      ),
    ],
  )


def _flops(runs: Labeled) -> str:
  return _draw(
    runs,
    svg.Axis("FLOPs, % of dense", _percent, low=0),
    [
      (
        "training so far",
        lambda run: recorded(run, "training_flops_ratio", 100),
        {"color": 3},
      ),
      (
        "inference",
        lambda run: recorded(run, "inference_flops_ratio", 100),
        {"color": 2, "steps": True},
      ),
    ],
  )


def _overlap(runs: Labeled) -> str:
  return _draw(
    runs,
    svg.Axis("active weights that stay", _percent, high=100),
    [
      (
        "stay active",
        lambda run: [(step, 100 * x) for step, *_, x in moved(run)],
        {},
      )
    ],
  )


def _moved(runs: Labeled) -> str:
  return _draw(
    runs,
    svg.Axis("weights in an update", _count, low=0),
    [
      ("pruned", lambda run: [(s, p) for s, p, _, _ in moved(run)], {}),
      (
        "regrown",
        lambda run: [(s, r) for s, _, r, _ in moved(run)],
        {"color": 1},
      ),
    ],
  )


def _percent(value: svg.Number) -> str:
  return f"{value:.4g} %"


def _count(value: svg.Number) -> str:
  for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
    if abs(value) >= size:
      return f"{value / size:.3g}{unit}"
  return f"{value:.4g}"
