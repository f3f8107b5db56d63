"""The report of several runs: one self-contained HTML page."""

import html
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from sparsejax.plots import budgets, curves, labels, page, report, svg
from sparsejax.plots.records import Run, measures, read_run
from sparsejax.plots.results import (
  Average,
  Result,
  average_seeds,
  percent,
  read_results,
  result_table,
)

_MOST_CURVES = 21  # Colors times dashes.


def write_comparison(
  workdirs: Sequence[pathlib.Path], path: pathlib.Path
) -> None:
  """Write the report of several finished runs.

  Args:
    workdirs: of the runs.
    path: the page to write.

  Raises:
    InputError: if a run is not finished, or a record is damaged.
  """
  results = read_results(workdirs)
  runs = [read_run(workdir) for workdir in workdirs]
  averages = average_seeds(results)
  measure = results[0].measure
  title = f"{len(runs)} runs"
  named = _named(results, runs)
  body = [
    f"<h1>{title}</h1>",
    f'<p class="soft">{html.escape(_subtitle(runs))}</p>',
    f"<h2>Test {html.escape(measure.title)}</h2><p>"
    f"{'In %: mean' if measure.percent else 'Mean'} ± standard deviation"
    " (runs).</p>",
    page.table(*_split(result_table(averages))),
    page.figures(_charts(averages, results, runs)),
    _results(named),
    _layers(results, runs),
    _times(named),
    _differences(named),
    _environments(named),
  ]
  page.write(path, title, body)


def _split(
  table: Sequence[tuple[str, ...]],
) -> tuple[tuple[str, ...], Sequence[tuple[str, ...]]]:
  header, *rows = table
  return header, rows


def _subtitle(runs: Sequence[Run]) -> str:
  pairs = [
    f"{run.config['model']['name']} on {run.config['data']['name']}"
    for run in runs
  ]
  return ", ".join(dict.fromkeys(pairs))


def _labels(results: Sequence[Result]) -> list[str]:
  """Returns labels with their sparsity, if there are several sparsities."""
  several = len({result.sparsity for result in results}) > 1
  return [
    f"{result.label} at {percent(result.sparsity)}" if several else result.label
    for result in results
  ]


def _named(results: Sequence[Result], runs: Sequence[Run]) -> dict[str, Run]:
  """Returns the runs by label, sparsity and seed, all of them different."""
  found: dict[str, Run] = {}
  for label, result, run in zip(_labels(results), results, runs, strict=True):
    name = f"{label}, seed {result.seed}"
    if name in found:
      name = f"{name}, {result.workdir}"
    found[name] = run
  return found


def _charts(
  averages: Sequence[Average], results: Sequence[Result], runs: Sequence[Run]
) -> dict[str, str]:
  title = f"Test {averages[0].measure.title} over sparsity"
  found = {title: _over_sparsity(averages)}
  names = _labels(results)
  if len(set(names)) > _MOST_CURVES:
    return found
  return found | curves.charts(list(zip(names, runs, strict=True)))


def _over_sparsity(averages: Sequence[Average]) -> str:
  """Draws the leading measure over sparsity; nothing for a single sparsity.

  The axis is logarithmic in the fraction of active weights. A network without
  active weights has no position.
  """
  found = [a for a in averages if a.sparsity < 1]
  places = {a.sparsity: -math.log10(1 - a.sparsity) for a in found}
  if len(places) < 2:
    return ""
  measure = averages[0].measure
  back = {place: sparsity for sparsity, place in places.items()}
  names = list(dict.fromkeys(a.label for a in found))
  lines = [
    svg.Curve(
      name,
      [(places[a.sparsity], a.mean) for a in found if a.label == name],
      color=number,
    )
    for number, name in enumerate(names)
  ]
  return svg.chart(
    lines,
    svg.Axis(
      f"test {measure.title}", lambda x: f"{x:.4g}{' %' * measure.percent}"
    ),
    x_label="sparsity",
    x_low=None,
    x_text=lambda place: percent(back[place]),
    x_ticks=_spaced(sorted(places.values())),
  )


def _spaced(places: Sequence[float]) -> list[float]:
  """Returns places whose labels do not overlap."""
  found: list[float] = []
  for place in reversed(places):
    if not found or found[-1] - place >= (places[-1] - places[0]) / 7:
      found.append(place)
  return found


def _results(named: Mapping[str, Run]) -> str:
  known = measures(next(iter(named.values())).summary)
  header = ("run", *(f"test {m.title}" for m in known), "test loss")
  header += ("sparsity", "active weights")
  header += ("inference FLOPs", "training FLOPs", "ever active")
  header += ("mask updates", "time in steps")
  rows = []
  for name, run in named.items():
    x = run.summary
    loss = x["test_loss"]
    rows.append(
      (
        name,
        *(text for _, text in report.measured(x)),
        "not finite" if loss is None else f"{loss:.4f}",
        page.percent(x["sparsity"]),
        x["active"],
        page.percent(x["inference_flops_ratio"], 1),
        page.percent(x["training_flops_ratio"], 1),
        page.percent(x["itop_rate"], 1) if x["itop_rate"] is not None else "",
        x["mask_updates"],
        page.seconds(x["train_seconds"]),
      )
    )
  return (
    "<h2>Results</h2><p>FLOPs are relative to the dense network.</p>"
    + page.table(header, rows)
  )


def _layers(results: Sequence[Result], runs: Sequence[Run]) -> str:
  """Returns the layers' sparsities, means over the seeds of each label."""
  names = _labels(results)
  groups: dict[str, list[list[dict[str, Any]]]] = {}
  for name, run in zip(names, runs, strict=True):
    groups.setdefault(name, []).append(budgets.layers(run))
  every = [layers for group in groups.values() for layers in group]
  first = every[0]
  shapes = [(x["name"], x["shape"]) for x in first]
  same = all([(x["name"], x["shape"]) for x in ls] == shapes for ls in every)
  if not same or not first or len(groups) > _MOST_CURVES:
    return ""
  rows = []
  for number, layer in enumerate(first):
    means = [
      sum(layers[number]["sparsity"] for layers in group) / len(group)
      for group in groups.values()
    ]
    cells = (page.percent(mean) for mean in means)
    rows.append((layer["name"], layer["total"], page.Bar(tuple(means)), *cells))
  keys = "".join(
    f'<li class="c{number % svg.COLORS}">{html.escape(name)}</li>'
    for number, name in enumerate(groups)
  )
  return (
    "<h2>Sparsity per layer</h2><p>Mean over the seeds.</p>"
    f'<ul class="legend">{keys}</ul>'
    + page.table(("layer", "weights", "", *groups), rows)
  )


def _times(named: Mapping[str, Run]) -> str:
  """Returns the goodput of the runs, and what else their time went to."""
  shares = {name: report.phases(run) for name, run in named.items()}
  shares = {name: found for name, found in shares.items() if found}
  if not shares:
    return ""
  rows = [
    (
      name,
      page.seconds(named[name].summary["run_elapsed_seconds"]),
      *(page.percent(share, 1) for share in found.values()),
    )
    for name, found in shares.items()
  ]
  columns = ("run", "since the first start", *next(iter(shares.values())))
  return "<h2>Time</h2><p>The share of steps is the goodput.</p>" + page.table(
    columns, rows
  )


def _differences(named: Mapping[str, Run]) -> str:
  differ = labels.differences([run.config for run in named.values()])
  if not differ:
    return ""
  rows = [(key, *values) for key, values in differ.items()]
  return "<h2>Values that differ in the configs</h2>" + page.table(
    ("key", *named), rows
  )


def _environments(named: Mapping[str, Run]) -> str:
  rows = report.environment_rows(dict(named))
  if not rows:
    return ""
  return "<h2>Environment</h2>" + page.table(("", *named), rows)
