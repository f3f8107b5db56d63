"""Writes the figures of the site: `python docs/figures.py`.

Each is a piece of HTML with inline SVG and without colors, which the
pages include and `_static/site.css` colors, in light and dark. Charts show what
`benchmarks/results/digits.json` recorded or what the schedules compute.
"""

import html
import json
import math
import pathlib
import statistics
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax
from sparsejax.components import schedules
from sparsejax.plots import svg

HERE = pathlib.Path(__file__).parent
FOLDER = HERE / "figures"
RESULTS = HERE.parent / "benchmarks" / "results" / "digits.json"

FAMILIES = {
  "gradual": ("one_shot", "gmp", "gmp, kept values", "granet"),
  "prune_and_regrow": ("static", "rigl", "rigl_itop", "set_itop"),
  "set": ("static", "set, by sign", "set, by magnitude"),
  "redistribution": ("static", "snfs", "dsr", "deep_r"),
  "kept": ("optg", "dpf", "dnw", "top_kast", "sr_ste", "str"),
  "at_init": ("snip", "grasp", "synflow", "taylor", "random_init"),
  "longer": ("small_dense", "granet 2x", "granet + rewind", "imp", "granet"),
}


def figures() -> dict[str, Callable[[], str]]:
  """Returns the figures by the names of their files."""
  return {
    "mask": mask,
    "scopes": scopes,
    "distributions": distributions,
    "prune_and_regrow_example": prune_and_regrow,
    "storage": storage,
    "gradient_path": gradient_path,
    "schedules": sparsity_schedules,
    "regrow_fraction": regrow_fraction,
    "accset": accset,
    **{
      f"digits_{name}": lambda titles=titles: digits(titles)
      for name, titles in FAMILIES.items()
    },
  }


def main() -> None:
  """Write all figures."""
  FOLDER.mkdir(exist_ok=True)
  for name, draw in figures().items():
    (FOLDER / f"{name}.html").write_text(draw() + "\n", encoding="utf-8")


def digits(titles: Sequence[str]) -> str:
  """Draws measured accuracies over sparsity, with the dense network's."""
  runs = json.loads(RESULTS.read_text(encoding="utf-8"))
  sparsities = sorted({run["sparsity"] for run in runs} - {None})
  places = {s: -math.log10(1 - s) for s in sparsities}

  def mean(title: str, sparsity: float | None) -> float:
    return statistics.mean(
      100 * run["test_accuracy"]
      for run in runs
      if (run["title"], run["sparsity"]) == (title, sparsity)
    )

  dense = mean("dense", None)
  ends = min(places.values()), max(places.values())
  lines = [svg.Curve("dense", [(x, dense) for x in ends], faint=True)]
  lines += [
    svg.Curve(
      title,
      [(places[s], round(mean(title, s), 2)) for s in sparsities],
      color=number,
    )
    for number, title in enumerate(titles)
  ]
  back = {place: sparsity for sparsity, place in places.items()}
  lowest = min(y for line in lines for _, y in line.points)
  chart = svg.chart(
    lines,
    svg.Axis("test accuracy", _percent, low=max(lowest - 0.5, 86), high=99.5),
    x_label="sparsity",
    x_low=None,
    x_text=lambda place: f"{back[place]:.0%}",
    x_ticks=list(places.values()),
  )
  return _figure(
    chart,
    "Digits, perceptron 64-256-256-10, mean of 5 seeds"
    " (benchmarks/digits.py). Values below the axis are in the table.",
  )


def sparsity_schedules() -> str:
  """Draws how sparsity rises: GMP and GraNet, OptG, one-shot."""
  steps = 100
  ramp = schedules.ramp(0.0, 0.9, end_step=50, every_steps=5)
  from_half = schedules.ramp(0.5, 0.9, end_step=50, every_steps=5)

  def points(schedule) -> list[tuple[int, float]]:
    return [
      (t, 100 * float(schedule.sparsities[int(schedule.index(jnp.int32(t)))]))
      for t in range(steps + 1)
    ]

  sigmoid = [
    (t, 90 / (1 + math.exp(-0.5 * (t / 2.5 - 20)))) for t in range(steps + 1)
  ]
  lines = [
    svg.Curve("one_shot", [(0, 0), (50, 90), (100, 90)], 3, steps=True),
    svg.Curve("optg, alpha = 0.5", sigmoid, 2),
    svg.Curve("gmp, granet", points(ramp), 0, steps=True),
    svg.Curve("granet from 0.5", points(from_half), 1, steps=True),
    svg.Curve("rigl, set, static", [(0, 90), (100, 90)], faint=True),
  ]
  axis = svg.Axis("sparsity", _percent, low=0, high=100)
  text = "Sparsity over the run, for a target of 90 %."
  return _figure(svg.chart(lines, axis, x_label="% of the run"), text)


def regrow_fraction() -> str:
  """Draws the share of active weights that prune-and-regrow replaces."""
  grid = range(101)
  granet = schedules.cosine(0.5, 100, 0.005)
  rigl = schedules.cosine(0.3, 75)

  def points(fraction, last: int = 100) -> list[tuple[int, float]]:
    return [
      (t, 100 * float(jnp.asarray(fraction(jnp.int32(t)))))
      for t in grid
      if t <= last
    ]

  lines = [
    svg.Curve("granet, rigl_itop", points(granet), 0),
    svg.Curve("rigl", points(rigl, 75), 1),
    svg.Curve("set", [(0, 30), (100, 30)], 2),
  ]
  axis = svg.Axis("share of a layer", _percent, low=0)
  text = "Share of a layer's active weights that one mask update replaces."
  return _figure(svg.chart(lines, axis, x_label="% of the run"), text)


def accset() -> str:
  """Draws AccSET's share of regrown weights over the accuracy."""
  lines = []
  for color, k in enumerate((0.0, 0.5, -0.5)):
    points = [
      (p / 50, 1 - (p / 50 - k * p / 50) / (k - 2 * k * p / 50 + 1))
      for p in range(51)
    ]
    lines.append(svg.Curve(f"k = {k:g}", points, color))
  chart = svg.chart(
    lines,
    svg.Axis("regrown of the missing weights", lambda x: f"{x:g}", low=0),
    x_label="accuracy",
    x_text=lambda x: f"{x:g}",
  )
  return _figure(chart, "AccSET regrows less as the accuracy rises.")


def mask() -> str:
  """Draws weights, a mask and the sparse weights."""
  weights = np.array(
    [[0.8, -0.1, 0.3, -0.6], [0.05, 0.9, -0.2, 0.1], [-0.7, 0.2, 0.4, -0.05]]
  )
  active = np.abs(weights) > 0.25
  parts = []
  for number, title in enumerate(("weights", "mask", "what you hold")):
    left = 10 + 190 * number
    parts.append(_text(left + 72, 14, title, "strong"))
    for row, column in np.ndindex(weights.shape):
      on, value = active[row, column], weights[row, column]
      x, y = left + 36 * column, 24 + 30 * row
      kind, text = "pale", f"{value:g}"
      if number == 1:
        kind, text = ("fill", "1") if on else ("hollow", "")
      elif number == 2:
        kind, text = ("pale", f"{value:g}") if on else ("hollow", "0")
      parts.append(_cell(x, y, 33, 27, kind, text))
  parts += [_text(183, 72, "·", "strong"), _text(373, 72, "=", "strong")]
  return _figure(
    _drawing(550, 120, parts),
    "A mask says which weights are active. Inactive ones are exactly 0 in the"
    " parameters that you hold; biases and norms have no mask.",
  )


def scopes() -> str:
  """Draws what competes with what: layer-wise and global."""
  layers = {
    "layer 1": [0.9, 0.8, 0.75, 0.7, 0.5, 0.45],
    "layer 2": [0.6, 0.35, 0.3, 0.2, 0.15, 0.1],
  }
  everything = sorted(sum(layers.values(), []), reverse=True)
  parts = []
  for column, title in enumerate(("layerwise(uniform)", "global_scope")):
    left = 10 + 280 * column
    parts.append(_text(left + 125, 14, title, "strong"))
    for row, (name, values) in enumerate(layers.items()):
      base = 100 + 100 * row
      threshold = (
        sorted(values, reverse=True)[2] if column == 0 else everything[5]
      )
      for index, value in enumerate(values):
        x, height = left + 62 + 32 * index, 70 * value
        kind = "fill" if value >= threshold else "pale"
        parts.append(_box(x, base - height, 24, height, kind))
      level = base - 70 * threshold + 1
      parts.append(_line(left + 52, level, left + 256, level, "axis"))
      parts.append(_text(left + 24, base - 28, name))
  return _figure(
    _drawing(550, 210, parts),
    "Half of the weights are pruned. Layer-wise, each layer keeps its own"
    " share; in the global scope all compete, and a layer of small weights"
    " loses more.",
  )


def distributions() -> str:
  """Draws the sparsities that distributions give three layers."""
  shapes = {"64x256": (64, 256), "256x256": (256, 256), "256x10": (256, 10)}
  params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
  parts, left = [], 92
  names = {"uniform": sparsejax.uniform, "er, erk": sparsejax.erk}
  for column, (name, shape) in enumerate(shapes.items()):
    text = f"{name} ({math.prod(shape):,})"
    parts.append(_text(left + 150 * column + 60, 14, text))
  for row, (title, distribution) in enumerate(names.items()):
    tx = sparsejax.sparsify(
      optax.sgd(0.1),
      sparsejax.static(0.9, distribution=distribution),
      key=jax.random.key(0),
    )
    found = sparsejax.summary(params, tx.init(params))
    y = 28 + 46 * row
    parts.append(_text(42, y + 20, title, "strong"))
    by_name = {layer.name: layer for layer in found.layers}
    for column, name in enumerate(shapes):
      x, layer = left + 150 * column, by_name[name]
      width = 120 * layer.sparsity
      parts.append(_box(x, y, 120, 30, "hollow"))
      parts.append(_box(x, y, width, 30, "pale"))
      parts.append(_text(x + 60, y + 20, f"{layer.sparsity:.1%}", "strong"))
  return _figure(
    _drawing(550, 116, parts),
    "A distribution turns the sparsity of the network, here 90 %, into one per"
    " layer. ERK keeps more of small and of narrow layers.",
  )


def prune_and_regrow() -> str:
  """Draws the worked example of GraNet's prune-and-regrow in one layer."""
  weights = [0.9, -0.1, 0.3, 0.0, 0.0, -0.5, 0.05, 0.0]
  active = [1, 1, 1, 0, 0, 1, 1, 0]
  gradients = [0.1, 0.8, -0.2, 0.5, -0.9, 0.05, 0.6, 0.3]
  left = [1, 0, 1, 0, 0, 1, 0, 0]
  after = [1, 1, 1, 0, 1, 1, 0, 0]
  rows = [
    ("before", active, weights, "c0", ()),
    ("prune the smallest", left, weights, "c0", (1, 6)),
    ("gradient", [1] * 8, gradients, "c2", ()),
    ("regrow the largest", after, weights, "c0", (1, 4)),
  ]
  parts = []
  for row, (title, on, values, color, marked) in enumerate(rows):
    base = 44 + 62 * row
    parts.append(_text(62, base - 14, title, "strong"))
    for index, value in enumerate(values):
      x, height = 140 + 50 * index, 36 * abs(value)
      if on[index]:
        parts.append(
          f'<g class="{"c1" if index in marked else color}">'
          f"{_box(x, base - max(height, 2), 34, max(height, 2), 'fill')}</g>"
        )
      else:
        kind = "c1" if index in marked else ""
        parts.append(
          f'<g class="{kind}">{_box(x, base - 16, 34, 16, "hollow")}</g>'
        )
      text = f"{value:g}" if on[index] or index in marked else "0"
      parts.append(_text(x + 17, base + 14, text))
  return _figure(
    _drawing(550, 250, parts),
    "Two of five active weights are pruned by magnitude, and two regrow by"
    " gradient. A weight that is pruned and regrown at once keeps its value;"
    " a new one starts at 0.",
  )


def storage() -> str:
  """Draws a weight that is pruned and comes back, zeroed and kept."""
  pruned, back = 30, 65
  steps = list(range(101))
  smooth = [0.6 + 0.25 * math.sin(t / 16) for t in steps]
  zeroed = [
    0.0
    if pruned <= t < back
    else smooth[t]
    if t < pruned
    else 0.012 * (t - back)
    for t in steps
  ]
  held = [0.0 if pruned <= t < back else smooth[t] for t in steps]
  lines = [
    svg.Curve("kept: the latent value", list(enumerate(smooth)), faint=True),
    svg.Curve("kept: what you hold", list(enumerate(held)), 1),
    svg.Curve("zeroed", list(enumerate(zeroed)), 0),
  ]
  axis = svg.Axis("value of one weight", lambda x: f"{x:.2g}", low=0)
  return _figure(
    svg.chart(lines, axis),
    "A weight is pruned at step 30 and regrows at step 65. Zeroed, it starts"
    " again at 0; kept, the state holds on to its value.",
  )


def gradient_path() -> str:
  """Draws what a gradient passes through."""
  boxes = [
    ("your gradient", "dense and plain"),
    ("accumulators", "scores, momentum"),
    ("is a mask update due?", "one lax.cond"),
    ("score, prune, regrow", "exactly k per group"),
    ("inner optimizer", "gets the masked gradient"),
    ("updates", "-p where inactive"),
  ]
  parts = []
  for index, (title, text) in enumerate(boxes):
    column, row = index % 3, index // 3
    x, y = 6 + 184 * column, 8 + 92 * row
    parts.append(f'<g class="c0">{_box(x, y, 170, 60, "pale")}</g>')
    parts.append(_text(x + 85, y + 26, title, "strong"))
    parts.append(_text(x + 85, y + 45, text))
    if column < 2:
      parts.append(_arrow(x + 170, y + 30, x + 184, y + 30))
  parts.append(
    '<path class="arrow" d="M459 68V84H91V96" marker-end="url(#head)"/>'
  )
  return _figure(
    _drawing(560, 165, parts), "The path of a gradient through one update."
  )


def _percent(value: float | int) -> str:
  return f"{value:.4g} %"


def _figure(drawing: str, caption: str) -> str:
  return (
    f'<figure class="drawing">{drawing}'
    f"<figcaption>{html.escape(caption)}</figcaption></figure>"
  )


def _drawing(width: int, height: int, parts: Sequence[str]) -> str:
  head = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4"'
    ' markerWidth="7" markerHeight="7" orient="auto"><path class="arrow"'
    ' d="M0 0L7 4L0 8"/></marker></defs>'
  )
  return (
    f'<svg viewBox="0 0 {width} {height}" role="img">{head}'
    f'<g class="c0">{"".join(parts)}</g></svg>'
  )


def _text(x: float | int, y: float | int, text: str, kind: str = "") -> str:
  return (
    f'<text x="{x:g}" y="{y:g}" text-anchor="middle" class="{kind}">'
    f"{html.escape(text)}</text>"
  )


def _box(
  x: float | int,
  y: float | int,
  width: float | int,
  height: float | int,
  kind: str,
) -> str:
  return (
    f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}"'
    f' height="{height:.1f}" rx="3"/>'
  )


def _cell(x: int, y: int, width: int, height: int, kind: str, text: str) -> str:
  color = "on" if kind == "fill" else "strong"
  label = _text(x + width / 2, y + height / 2 + 4, text, color)
  return _box(x, y, width, height, kind) + label


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
  return (
    f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}"'
    f' y2="{y2:.1f}"/>'
  )


def _arrow(x1: int, y1: int, x2: int, y2: int) -> str:
  return (
    f'<path class="arrow" d="M{x1} {y1}L{x2 - 1} {y2}"'
    ' marker-end="url(#head)"/>'
  )


if __name__ == "__main__":
  main()
