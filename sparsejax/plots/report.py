"""The report of a run: one self-contained HTML page."""

import base64
import html
import io
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from sparsejax.plots import flops, style, training_curves
from sparsejax.plots.records import PHASES, Run, measures, read_run

REPORT = "report.html"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto;
  max-width: 60em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { border-bottom: 1px solid #ddd; padding: .25em .8em;
  text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; }
"""
_RESULTS = (
  "method",
  "model",
  "data",
  "seed",
  "steps",
  "sparsity",
  "target_sparsity",
  "active",
  "total",
  "itop_rate",
  "inference_flops",
  "inference_flops_ratio",
  "training_flops",
  "training_flops_ratio",
  "compile_seconds",
  "train_seconds",
)


def write_report(workdir: pathlib.Path) -> pathlib.Path:
  """Write the report of a run to its workdir.

  Args:
    workdir: the run's workdir.

  Returns:
    The report's path. Figures are embedded if matplotlib is installed;
    otherwise the page has only tables.
  """
  run = read_run(workdir)
  title = f"{run.summary.get('method', 'run')}: {workdir.name}"
  body = [
    f"<h1>{html.escape(title)}</h1>",
    _results(run),
    _figures(run),
    _layers(run),
    _times(run),
    _evaluations(run),
    f"<p>{html.escape(run.damage)}</p>" if run.damage else "",
    "<h2>Config</h2>",
    f"<pre>{html.escape(json.dumps(run.config, indent=2))}</pre>",
  ]
  page = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
    f"<body>{''.join(body)}</body></html>\n"
  )
  path = workdir / REPORT
  temporary = path.with_name(f".{path.name}.tmp")
  temporary.write_text(page, encoding="utf-8")
  os.replace(temporary, path)
  return path


def _results(run: Run) -> str:
  measured = [measure.name for measure in measures(run.summary)]
  after = _RESULTS.index("steps") + 1
  keys = [
    *_RESULTS[:after],
    *_of_test(run),
    *(f"train_{name}" for name in measured),
    *_RESULTS[after:],
  ]
  return _table(
    ("", ""), [(key, run.summary[key]) for key in keys if key in run.summary]
  )


def _of_test(run: Run) -> list[str]:
  """Returns the keys of what is measured on the test split."""
  measured = [measure.name for measure in measures(run.summary)]
  return [f"test_{name}" for name in (*measured, "loss")]


def _figures(run: Run) -> str:
  if not style.has_matplotlib():
    return (
      "<p>Figures need matplotlib. Install it with <code>pip install"
      " sparsejax[plots]</code>, delete this page and run the same command"
      " again.</p>"
    )
  figures = [(_title(run), training_curves.plot_run)]
  if any("inference_flops_ratio" in row for row in run.rows):
    figures.append(("FLOPs over steps", _plot_flops))
  return "".join(_image(title, draw, run) for title, draw in figures)


def _title(run: Run) -> str:
  return f"{measures(run.summary)[0].title} and sparsity over steps"


def _plot_flops(run: Run, path: Any) -> None:
  flops.plot_flops({run.summary.get("method", "run"): run}, path)


def _image(title: str, draw: Callable[[Run, Any], None], run: Run) -> str:
  buffer = io.BytesIO()
  draw(run, buffer)
  data = base64.b64encode(buffer.getvalue()).decode("ascii")
  return f'<img alt="{title}" src="data:image/png;base64,{data}">'


def _layers(run: Run) -> str:
  rows = [
    (
      layer["name"],
      "x".join(str(size) for size in layer["shape"]),
      layer["total"],
      layer["active"],
      layer["sparsity"],
      layer.get("macs"),
    )
    for layer in run.summary.get("layers", ())
  ]
  header = ("layer", "shape", "weights", "active", "sparsity", "multiply-adds")
  return "<h2>Sparse layers</h2>" + _table(header, rows)


def _times(run: Run) -> str:
  """Returns the share of the run's time in each phase; goodput is in steps."""
  summary = run.summary
  if "run_elapsed_seconds" not in summary:
    return ""
  seconds = {name: summary.get(f"run_{name}_seconds", 0.0) for name in PHASES}
  elapsed = summary["run_elapsed_seconds"]
  seconds["idle, or lost by a kill"] = elapsed - sum(seconds.values())
  rows = [
    (name, f"{value:.1f}", f"{value / max(elapsed, 1e-9):.1%}")
    for name, value in seconds.items()
  ]
  goodput = f"{seconds['step'] / max(elapsed, 1e-9):.1%}"
  return (
    f"<h2>Time</h2><p>Goodput {goodput}: the share of {elapsed:.0f} s since the"
    " first start that went into steps.</p>"
    + _table(("phase", "seconds", "share"), rows)
  )


def _evaluations(run: Run) -> str:
  measured = _of_test(run)
  header = ("step", *measured, "sparsity", "itop_rate")
  rows = [
    tuple(row.get(name) for name in header)
    for row in run.rows
    if measured[0] in row
  ]
  return "<h2>Evaluations</h2>" + _table(header, rows)


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
  head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
  body = "".join(
    "<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>"
    for row in rows
  )
  return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
  if value is None:
    return "none"
  if isinstance(value, float):
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"
  return f"{value:,}" if isinstance(value, int) else html.escape(str(value))
