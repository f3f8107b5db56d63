"""Charts as inline SVG: a page with them needs no script and no library.

Colors come from the style sheet of the page (`plots.page`), so that a chart
follows the reader's choice of a light or a dark page. Values are also in the
titles of points, which browsers show as tooltips.
"""

import html
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

Number = int | float

COLORS = 7
"""How many colors the style sheet has: `--c0`, `--c1`, ..."""

_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 10, 40
_MAX_POINTS, _MAX_MARKS = 600, 60
_DASHES = ("", "6 3", "2 3")


class Curve(NamedTuple):
  """One curve of a chart.

  Attributes:
    label: of the legend; curves with the same label share an entry.
    points: (x, y) by ascending x.
    color: index of its color; those from `COLORS` on are dashed.
    faint: whether it is drawn in gray, behind the others.
    steps: whether the value stays until the next point, as masks do.
  """

  label: str
  points: Sequence[tuple[Number, Number]]
  color: int = 0
  faint: bool = False
  steps: bool = False


class Axis(NamedTuple):
  """A vertical axis.

  Attributes:
    label: the quantity and its unit.
    text: formats a value.
    low: lowest value; None for the lowest of the curves.
    high: likewise.
    log: whether it is logarithmic; values of at most 0 are left out.
  """

  label: str
  text: Callable[[Number], str]
  low: Number | None = None
  high: Number | None = None
  log: bool = False


class _Scale(NamedTuple):
  """Maps values to positions between two ends."""

  low: Number
  high: Number
  start: Number
  end: Number
  log: bool = False

  def __call__(self, value: Number) -> Number:
    low, high = self.low, self.high
    if self.log:
      value, low, high = map(math.log10, (value, low, high))
    share = (value - low) / (high - low)
    return self.start + share * (self.end - self.start)


def chart(
  curves: Sequence[Curve],
  axis: Axis,
  *,
  x_label: str = "step",
  x_low: Number | None = 0,
  x_text: Callable[[Number], str] | None = None,
  x_ticks: Sequence[Number] | None = None,
) -> str:
  """Draw curves.

  Args:
    curves: at least one of them has a point; the last is drawn on top.
    axis: the vertical axis.
    x_label: of the horizontal axis.
    x_low: where it begins; None for the lowest of the curves.
    x_text: formats its values; by default integers with thousands separators.
    x_ticks: its ticks; by default round numbers.

  Returns:
    An `<svg>` element, and a legend if there is more than one label.
  """
  curves = [_visible(each, axis) for each in curves]
  curves = [each for each in curves if each.points]
  xs = [x for each in curves for x, _ in each.points]
  ys = [y for each in curves for _, y in each.points]
  low, high = _range(ys, axis)
  x = _Scale(
    *_spread(min(xs) if x_low is None else x_low, max(xs)),
    _LEFT,
    _WIDTH - _RIGHT,
  )
  y = _Scale(low, high, _HEIGHT - _BOTTOM, _TOP, axis.log)
  x_text = x_text or (lambda value: f"{value:,.0f}")
  ticks = log_ticks(low, high) if axis.log else round_ticks(low, high)
  x_ticks = round_ticks(x.low, x.high, 5) if x_ticks is None else x_ticks
  parts = [
    *_horizontal_grid(y, ticks, axis.text),
    *_vertical_ticks(x, x_ticks, x_text),
    _axis_labels(x_label, axis.label),
    '<g class="curves">',
    *(_path(each, x, y, x_text, axis.text) for each in curves),
    "</g>",
  ]
  name = html.escape(f"{axis.label} over {x_label}")
  return (
    f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">'
    f"{''.join(parts)}</svg>{_legend(curves)}"
  )


def round_ticks(low: Number, high: Number, most: int = 5) -> list[Number]:
  """Returns round numbers in [low, high], about `most` of them.

  Examples:
    >>> round_ticks(0, 4400)
    [0.0, 1000.0, 2000.0, 3000.0, 4000.0]
    >>> round_ticks(0.93, 1.0)
    [0.94, 0.96, 0.98, 1.0]
  """
  rough = (high - low) / most
  unit = 10.0 ** math.floor(math.log10(rough))
  step = unit * next(n for n in (1, 2, 5, 10) if n * unit >= rough * 0.999)
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def log_ticks(low: Number, high: Number) -> list[Number]:
  """Returns powers of ten in [low, high], with 2 and 5 if there are few.

  Examples:
    >>> log_ticks(0.04, 2.5)
    [0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
    >>> log_ticks(0.00005, 3.0)
    [0.0001, 0.001, 0.01, 0.1, 1.0]
  """
  decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  factors = (1, 2, 5) if len(decades) <= 4 else (1,)
  found = [float(f"{n}e{decade}") for decade in decades for n in factors]
  return [tick for tick in found if low <= tick <= high]


def _visible(curve: Curve, axis: Axis) -> Curve:
  """Returns a curve of at most some hundred points that have a position."""
  points = [(x, y) for x, y in curve.points if not axis.log or y > 0]
  every = -(-len(points) // _MAX_POINTS) if points else 1
  kept = points[::every]
  if points and kept[-1] != points[-1]:
    kept.append(points[-1])
  return curve._replace(points=kept)


def _range(values: Sequence[Number], axis: Axis) -> tuple[Number, Number]:
  low = min(values) if axis.low is None else axis.low
  high = max(values) if axis.high is None else axis.high
  if axis.log:
    return 0.8 * low, 1.25 * high
  return _spread(low, high)


def _spread(low: Number, high: Number) -> tuple[Number, Number]:
  """Returns a range that is not empty."""
  return (low, high) if high > low else (low - 0.5, low + 0.5)


def _horizontal_grid(
  y: _Scale, ticks: Iterable[Number], text: Callable[[Number], str]
) -> Iterable[str]:
  for tick in ticks:
    at = y(tick)
    yield (
      f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}"'
      f' y1="{at:.1f}" y2="{at:.1f}"/>'
      f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}"'
      f' text-anchor="end">{html.escape(text(tick))}</text>'
    )


def _vertical_ticks(
  x: _Scale, ticks: Iterable[Number], text: Callable[[Number], str]
) -> Iterable[str]:
  base = _HEIGHT - _BOTTOM
  for tick in ticks:
    at = x(tick)
    yield (
      f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{base}"'
      f' y2="{base + 4}"/><text class="tick" x="{at:.1f}" y="{base + 17}"'
      f' text-anchor="middle">{html.escape(text(tick))}</text>'
    )


def _axis_labels(x_label: str, y_label: str) -> str:
  base, middle = _HEIGHT - _BOTTOM, (_TOP + _HEIGHT - _BOTTOM) / 2
  return (
    f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}"'
    f' y2="{base}"/><text class="label" x="{(_LEFT + _WIDTH - _RIGHT) / 2}"'
    f' y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>'
    f'<text class="label" x="12" y="{middle}" text-anchor="middle"'
    f' transform="rotate(-90 12 {middle})">{html.escape(y_label)}</text>'
  )


def _path(
  curve: Curve,
  x: _Scale,
  y: _Scale,
  x_text: Callable[[Number], str],
  y_text: Callable[[Number], str],
) -> str:
  """Returns the line of a curve, and its points where they are few."""
  # Below the axis a curve would run over the labels.
  places = [
    (x(a), min(max(y(b), _TOP - 4), _HEIGHT - _BOTTOM)) for a, b in curve.points
  ]
  line = f"M{places[0][0]:.1f} {places[0][1]:.1f}"
  for a, b in places[1:]:
    line += f"H{a:.1f}V{b:.1f}" if curve.steps else f"L{a:.1f} {b:.1f}"
  kind = "faint" if curve.faint else f"c{curve.color % COLORS}"
  dash = _DASHES[curve.color // COLORS % len(_DASHES)]
  dash = f' stroke-dasharray="{dash}"' if dash else ""
  marks = ""
  if len(places) <= _MAX_MARKS and not curve.faint:
    marks = "".join(
      f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5"><title>'
      f"{html.escape(f'{curve.label}: {y_text(v)} at {x_text(u)}')}"
      "</title></circle>"
      for (a, b), (u, v) in zip(places, curve.points, strict=True)
    )
  return f'<g class="curve {kind}"{dash}><path d="{line}"/>{marks}</g>'


def _legend(curves: Sequence[Curve]) -> str:
  """Returns the labels of the curves, each once."""
  first = {each.label: each for each in reversed(curves)}
  labels = list(dict.fromkeys(each.label for each in curves))
  if len(labels) < 2:
    return ""
  keys = ""
  for label in labels:
    each = first[label]
    kind = "faint" if each.faint else f"c{each.color % COLORS}"
    keys += f'<li class="{kind}">{html.escape(label)}</li>'
  return f'<ul class="legend">{keys}</ul>'
