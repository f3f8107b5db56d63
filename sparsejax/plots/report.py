"""The report of a run: one self-contained HTML page."""

import html
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from sparsejax.plots import budgets, curves, page
from sparsejax.plots.records import PHASES, Measure, Run, measures, read_run

REPORT = "report.html"


def write_report(workdir: pathlib.Path) -> pathlib.Path:
  """Write the report of a run to its workdir.

  Args:
    workdir: the run's workdir; the run may still be training.

  Returns:
    The report's path. It needs neither a network nor a library to be read, nor
    matplotlib to be written.
  """
  run = read_run(workdir)
  name = run.config["method"]["name"]
  title = f"{name}: {workdir.name}"
  body = [
    f"<h1>{html.escape(title)}</h1>",
    _subtitle(run),
    page.tiles(_headline(run)),
    *notes(run),
    page.figures(curves.charts([("", run)])),
    _layers(run),
    _moved(run),
    _times(run),
    _evaluations(run),
    _config(run),
    _environment(run),
  ]
  page.write(workdir / REPORT, title, body)
  return workdir / REPORT


def notes(run: Run) -> list[str]:
  """Returns the warnings of a run, and what is wrong with its records."""
  found = [*run.summary.get("warnings", ()), *filter(None, [run.damage])]
  return [f'<p class="note">{html.escape(text)}</p>' for text in found]


def phases(run: Run) -> dict[str, int | float]:
  """Returns the share of the time since the first start in each phase.

  Empty where the summary does not say.
  """
  elapsed = run.summary.get("run_elapsed_seconds")
  if elapsed is None:
    return {}
  spent = {n: run.summary.get(f"run_{n}_seconds", 0.0) for n in PHASES}
  spent["idle, or lost by a kill"] = elapsed - sum(spent.values())
  return {name: x / max(elapsed, 1e-9) for name, x in spent.items()}


def _times(run: Run) -> str:
  """Returns a bar and a table of where the time went."""
  shares = phases(run)
  if not shares:
    return ""
  elapsed = run.summary["run_elapsed_seconds"]
  rows = [
    (_key(i, name), page.seconds(elapsed * share), page.percent(share, 1))
    for i, (name, share) in enumerate(shares.items())
  ]
  return (
    f"<h2>Time</h2>{page.stack(shares)}<p>Goodput"
    f" {page.percent(shares['step'], 1)}: the share of {page.seconds(elapsed)}"
    " since the first start that went into steps.</p>"
    + page.table(("phase", "time", "share"), rows)
  )


def environment_rows(runs: dict[str, Run]) -> list[tuple[str, ...]]:
  """Returns one row per fact of the environments, one column per run."""
  keys = list(
    dict.fromkeys(k for run in runs.values() for k in run.environment)
  )
  rows = []
  for key in keys:
    values = [run.environment.get(key) for run in runs.values()]
    if any(value not in (None, "") for value in values):
      rows.append((key, *("" if v is None else _plain(v) for v in values)))
  return rows


def _key(number: int, name: str) -> page.Html:
  return page.Html(
    f'<span class="c{number % 7}">&#9632;</span> {html.escape(name)}'
  )


def _subtitle(run: Run) -> str:
  config, summary = run.config, run.summary
  text = f"{config['model']['name']} on {config['data']['name']}"
  text += f", seed {config['seed']}"
  if not summary:
    last = run.rows[-1]["step"] if run.rows else 0
    return (
      f'<p class="soft">{html.escape(text)}; not finished, step {last:,}</p>'
    )
  text += f", {summary['steps']:,} steps"
  if summary.get("selected_step", summary["steps"]) != summary["steps"]:
    text += f"; results are those of step {summary['selected_step']:,} (best)"
  return f'<p class="soft">{html.escape(text)}</p>'


def _headline(run: Run) -> dict[str, str]:
  """Returns the most important numbers of a run, by label."""
  summary = run.summary
  if not summary:
    return {}
  target = summary["target_sparsity"]
  found = {
    **{f"test {m.title}": value for m, value in measured(summary)},
    "sparsity"
    if target is None
    else f"sparsity, {page.percent(target)} requested": page.percent(
      summary["sparsity"]
    ),
    f"active weights of {summary['total']:,}": f"{summary['active']:,}",
    "of the dense inference FLOPs": page.percent(
      summary["inference_flops_ratio"], 1
    ),
    "of the dense training FLOPs": page.percent(
      summary["training_flops_ratio"], 1
    ),
  }
  if summary["itop_rate"] is not None:
    text = "of the weights were ever active"
    found[text] = page.percent(summary["itop_rate"], 1)
  found["of training steps"] = page.seconds(summary["train_seconds"])
  if phases(run):
    found["goodput"] = page.percent(phases(run)["step"], 1)
  return found


def _layers(run: Run) -> str:
  if not run.summary:
    return ""
  rows = [
    (
      layer["name"],
      page.Bar((layer["sparsity"],)),
      page.percent(layer["sparsity"]),
      layer["active"],
      layer["total"],
      "x".join(str(size) for size in layer["shape"]),
      _count(layer.get("macs")),
    )
    for layer in budgets.layers(run)
  ]
  header = ("layer", "", "sparsity", "active", "weights", "shape")
  header = (*header, "multiply-adds, dense")
  return "<h2>Sparse layers</h2>" + page.table(header, rows)


def _moved(run: Run) -> str:
  """Returns the table of what mask updates pruned and regrew per layer."""
  layers = [x for x in run.summary.get("layers", ()) if "pruned" in x]
  if not layers or not run.summary["mask_updates"]:
    return ""
  layers = sorted(layers, key=lambda layer: layer.get("position", 0))
  most = max(
    max(x["pruned"], x["regrown"]) / max(x["total"], 1) for x in layers
  )
  rows = [
    (
      x["name"],
      page.Bar(
        tuple(
          x[kind] / max(x["total"], 1) / max(most, 1e-9)
          for kind in ("pruned", "regrown")
        )
      ),
      x["pruned"],
      x["regrown"],
      f"{x['pruned'] / max(x['total'], 1):.2f}",
    )
    for x in layers
  ]
  return (
    "<h2>What mask updates moved</h2>"
    f"<p>{run.summary['mask_updates']:,} mask updates. A weight counts each"
    ' time that it is <span class="c0">&#9632;</span> pruned or <span'
    ' class="c1">&#9632;</span> regrown; the bars are relative to the weights'
    " of the layer.</p>"
    + page.table(("layer", "", "pruned", "regrown", "pruned per weight"), rows)
  )


def measured(summary: Mapping[str, Any]) -> list[tuple[Measure, str]]:
  """Returns what a run measures, with the text of the test split's values."""
  return [
    (measure, page.measured(measure, summary[f"test_{measure.name}"]))
    for measure in measures(summary)
  ]


def _evaluations(run: Run) -> str:
  known = measures(run.summary)
  rows = [
    (
      row["step"],
      *(page.measured(m, row.get(f"test_{m.name}")) for m in known),
      _loss(row.get("test_loss")),
      page.percent(row.get("sparsity")),
      page.percent(row.get("inference_flops_ratio"), 1),
    )
    for row in run.rows
    if f"test_{known[0].name}" in row
  ]
  if not rows:
    return ""
  titles = (f"test {m.title}" for m in known)
  header = ("step", *titles, "test loss", "sparsity", "FLOPs, of dense")
  return (
    f"<details><summary>{len(rows)} evaluations</summary>"
    f"{page.table(header, rows)}</details>"
  )


def _config(run: Run) -> str:
  text = html.escape(json.dumps(run.config, indent=2))
  return (
    "<h2>Config</h2><details><summary>All values</summary>"
    f"<pre>{text}</pre></details>"
  )


def _environment(run: Run) -> str:
  rows = environment_rows({"": run})
  return "<h2>Environment</h2>" + page.table(("", ""), rows) if rows else ""


def _plain(value: Any) -> str:
  return value if isinstance(value, str) else json.dumps(value)


def _count(value: int | float | None) -> str:
  return "" if value is None else f"{value:,.0f}"


def _loss(value: int | float | None) -> str:
  return "not finite" if value is None else f"{value:.4f}"
