"""The shell of a report: one HTML page that is complete without a network.

It follows the reader's choice of a light or a dark page, fits a phone, and
holds no script and no picture from elsewhere.
"""

import html
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sparsejax.plots.records import Measure

_STYLE = """
:root { color-scheme: light dark;
  --page: #fff; --text: #1f2328; --soft: #59636e; --line: #d9dee3;
  --panel: #f6f8fa; --faint: #b5bcc4;
  --c0: #0072b2; --c1: #c4500a; --c2: #008060; --c3: #b4568c; --c4: #a06c00;
  --c5: #3a8fc4; --c6: #1f2328; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14181d; --text: #e3e7eb; --soft: #9aa5b1; --line: #333b44;
  --panel: #1d232a; --faint: #56606b;
  --c0: #58b0ea; --c1: #ff9455; --c2: #3ccfa4; --c3: #e59ac6; --c4: #efbb45;
  --c5: #96d2f7; --c6: #e3e7eb; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70em;
  padding: 1.5em 1em 4em; color: var(--text); background: var(--page); }
h1 { font-size: 1.5em; margin: 0 0 .2em; overflow-wrap: anywhere; }
h2 { font-size: 1.15em; margin: 2.2em 0 .6em; }
p { margin: .4em 0; } .soft { color: var(--soft); }
.tiles { display: flex; flex-wrap: wrap; gap: .7em; margin: 1.2em 0 1.8em; }
.tile { background: var(--panel); border-radius: 8px; padding: .7em .9em;
  flex: 1 1 9.5em; max-width: 18em; }
.tile b { display: block; font-size: 1.45em; font-weight: 600;
  white-space: nowrap; }
.tile span { color: var(--soft); font-size: .87em; }
.charts { display: grid; gap: 1.2em 1.6em; margin: 1.8em 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24em), 1fr)); }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .3em; }
svg { width: 100%; height: auto; display: block; overflow: visible; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--soft); }
.curve path { fill: none; stroke: currentColor; stroke-width: 1.8;
  stroke-linejoin: round; }
.curve circle { fill: currentColor; }
.faint { color: var(--faint); } .faint path { stroke-width: 1.2; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1em 1.1em;
  margin: .2em 0 0 2.5em; padding: 0; font-size: .87em; }
.legend li::before { content: ""; display: inline-block; width: 1.3em;
  border-top: 3px solid currentColor; margin-right: .45em;
  vertical-align: middle; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .93em; }
th, td { border-bottom: 1px solid var(--line); padding: .28em .8em;
  text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
td.wrap { white-space: normal; text-align: left; overflow-wrap: anywhere; }
.bar { min-width: 9em; width: 16em; }
.bar i { display: block; height: .8em; border-radius: 2px;
  background: currentColor; min-width: 1px; }
.bar i + i { margin-top: 2px; }
.stack { display: flex; height: 1.6em; border-radius: 5px; overflow: hidden;
  background: var(--panel); margin: .6em 0; }
.stack i { background: currentColor; min-width: 1px; }
pre { background: var(--panel); padding: 1em; overflow-x: auto;
  border-radius: 8px; font-size: .87em; white-space: pre-wrap;
  overflow-wrap: anywhere; }
details { margin: .8em 0; } summary { cursor: pointer; font-weight: 600; }
.note { border-left: 3px solid var(--c1); padding: .1em .9em; margin: .9em 0; }
"""
_STYLE += "".join(f".c{i} {{ color: var(--c{i}); }}\n" for i in range(7))


class Html(str):
  """Text that is HTML already; any other text is escaped."""


class Bar(NamedTuple):
  """A cell of a table that is drawn.

  Attributes:
    shares: lengths in [0, 1], one bar below the other.
  """

  shares: tuple[float, ...]


def write(path: pathlib.Path, title: str, body: Iterable[str]) -> None:
  """Write a page atomically.

  Args:
    path: the file.
    title: of the browser's window.
    body: HTML.
  """
  page = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
    f"<body>\n{chr(10).join(filter(None, body))}\n</body></html>\n"
  )
  temporary = path.with_name(f".{path.name}.tmp")
  temporary.write_text(page, encoding="utf-8")
  os.replace(temporary, path)


def tiles(values: Mapping[str, str]) -> str:
  """Returns the most important numbers, each with its label."""
  cells = "".join(
    f'<div class="tile"><b>{html.escape(value)}</b>'
    f"<span>{html.escape(label)}</span></div>"
    for label, value in values.items()
  )
  return f'<div class="tiles">{cells}</div>'


def figures(charts: Mapping[str, str]) -> str:
  """Returns charts side by side, each with its title."""
  found = "".join(
    f"<figure><figcaption>{html.escape(title)}</figcaption>{chart}</figure>"
    for title, chart in charts.items()
    if chart
  )
  return f'<div class="charts">{found}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  """Returns a table: integers with thousands separators, `Bar`s drawn.

  One whose header is empty has facts, in words: they are aligned to the left.
  """
  head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
  body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
  kind, head = ("", f"<tr>{head}</tr>") if any(header) else (" class=facts", "")
  return f'<div class="scroll"><table{kind}>{head}{body}</table></div>'


def stack(shares: Mapping[str, int | float]) -> str:
  """Returns one bar that is divided by shares, which sum to at most 1."""
  parts = "".join(
    f'<i class="c{number % 7}" style="width:{share:.3%}"'
    f' title="{html.escape(name)}: {share:.1%}"></i>'
    for number, (name, share) in enumerate(shares.items())
    if share > 0
  )
  return f'<div class="stack">{parts}</div>'


def percent(value: int | float | None, digits: int = 2) -> str:
  """Returns a share in %; "none" for None."""
  return "none" if value is None else f"{100 * value:.{digits}f} %"


def measured(measure: Measure, value: int | float | None) -> str:
  """Returns a recorded value of a measure with its unit."""
  if value is None:
    return "not finite"
  return percent(value) if measure.percent else f"{value:.4f}"


def short(value: int | float) -> str:
  """Returns a large number with three digits and a unit.

  Examples:
    >>> short(16896), short(9.83e9), short(12)
    ('16.9 thousand', '9.83 billion', '12')
  """
  units = ("", "thousand", "million", "billion", "trillion", "quadrillion")
  number = 0
  while abs(value) >= 999.5 and number < len(units) - 1:
    value, number = value / 1000, number + 1
  return f"{value:.3g} {units[number]}".strip()


def seconds(value: int | float) -> str:
  """Returns a duration in its largest units.

  Examples:
    >>> seconds(0.0004), seconds(75), seconds(9000)
    ('under 0.01 s', '1 min 15 s', '2 h 30 min')
  """
  if value < 0.01:
    return "under 0.01 s" if value > 0 else "0 s"
  if value < 60:
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
  minutes, rest = divmod(round(value), 60)
  if minutes < 60:
    return f"{minutes} min {rest} s"
  return f"{minutes // 60:,} h {minutes % 60} min"


def _cell(value: Any) -> str:
  if isinstance(value, Bar):
    bars = "".join(
      f'<i class="c{number % 7}" style="width:{100 * share:.2f}%"></i>'
      for number, share in enumerate(value.shares)
    )
    return f'<td class="bar">{bars}</td>'
  if isinstance(value, Html):
    return f"<td>{value}</td>"
  if isinstance(value, int) and not isinstance(value, bool):
    value = f"{value:,}"
  text = "" if value is None else str(value)
  kind = ' class="wrap"' if len(text) > 60 else ""
  return f"<td{kind}>{html.escape(text)}</td>"
