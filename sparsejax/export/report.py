"""The report of an export: what is smaller, what is faster, and what is not."""

import html
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sparsejax.export import shrink, timing
from sparsejax.export.sparse_apply import Product
from sparsejax.plots import page

JSON, PAGE = "export.json", "export.html"

_SLIGHTLY = 1.1  # Below this ratio of times, nothing is gained.
_MOST = 0.5  # Of the multiply-adds that the zeros would save at best.
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


class Result(NamedTuple):
  """What an export found.

  Attributes:
    run: workdir of the run.
    summary: its result.
    shrunk: what was removed.
    sparsity: share of zeros in the sparse leaves.
    files: name of each file -> bytes.
    accuracy: test accuracy by network; empty for a stream of images.
    times: batch size -> network -> times of a call.
    products: batch size -> the matrix products with a sparse kernel.
  """

  run: str
  summary: Mapping[str, Any]
  shrunk: shrink.Report
  sparsity: float
  files: Mapping[str, int]
  accuracy: Mapping[str, float]
  times: Mapping[int, Mapping[str, timing.Time]]
  products: Mapping[int, Sequence[Product]]


def verdict(result: Result) -> str:
  """Returns one sentence: what is gained, or what would gain something."""
  shrunk = result.shrunk
  gains = {size: _gain(times) for size, times in result.times.items()}
  speeds = " and ".join(
    f"{gain:.2g} times at batch {size}" for size, gain in gains.items()
  )
  in_lanes = _in_lanes(result)
  if not shrunk.removed and not in_lanes:
    return (
      f"Nothing is gained: {result.sparsity:.1%} of the weights are zero, but"
      " no whole channel is, and scattered zeros make dense kernels no faster;"
      f"{_no_sparse_layer(result)} prune whole filters or blocks to gain time."
    )
  fewer = shrunk.before.multiply_adds / max(shrunk.after.multiply_adds, 1)
  means = [
    *([f"{fewer:.3g} times fewer multiply-adds"] if shrunk.removed else []),
    *([f"{in_lanes} of its kernels in sparse layers"] if in_lanes else []),
  ]
  scattered = fewer < _MOST / max(1 - result.sparsity, 1e-9)
  rest = (
    "; the other zeros are scattered and gain nothing: prune whole filters or"
    " blocks"
    if scattered and not in_lanes
    else ""
  )
  if max(gains.values()) < _SLIGHTLY:
    return (
      f"Smaller, but no faster: the network has {' and '.join(means)}, and this"
      f" machine spends its time elsewhere{rest}."
    )
  return (
    f"Faster: with {' and '.join(means)}, the best of ours runs {speeds} as"
    f" fast as the best dense network here{rest}."
  )


def _in_lanes(result: Result) -> int:
  """Returns how many products are in lanes at some batch size."""
  found = zip(*result.products.values(), strict=True)
  return sum(any(each.in_lanes for each in product) for product in found)


def _no_sparse_layer(result: Result) -> str:
  """Returns what came of sparse layers, where none is faster."""
  timed = any(result.products.values())
  return " sparse layers are slower here, too;" if timed else ""


def _gain(times: Mapping[str, timing.Time]) -> float:
  """Returns best dense time / best time of ours."""
  medians = {name: time.median for name, time in times.items()}
  ours = min(ms for name, ms in medians.items() if name.startswith("ours"))
  return min(ms for n, ms in medians.items() if n.startswith("dense")) / ours


def terminal(result: Result) -> str:
  """Returns the report as lines of text."""
  blocks = []
  for title, table in _tables(result).items():
    blocks += ["", title, *_aligned(table)]
  return "\n".join([*blocks, "", verdict(result)])


def write(folder: pathlib.Path, result: Result) -> None:
  """Writes `export.json`, and `export.html`, which needs no network."""
  record = {
    "run": result.run,
    "sparsity": result.sparsity,
    "shrunk": {
      **result.shrunk._asdict(),
      "families": [f._asdict() for f in result.shrunk.families],
      "before": result.shrunk.before._asdict(),
      "after": result.shrunk.after._asdict(),
      "unknown": dict(result.shrunk.unknown),
    },
    "files_bytes": dict(result.files),
    "test_accuracy": dict(result.accuracy),
    "milliseconds": {
      str(size): {name: time._asdict() for name, time in times.items()}
      for size, times in result.times.items()
    },
    "sparse_layers": {
      str(size): [product._asdict() for product in found]
      for size, found in result.products.items()
    },
    "verdict": verdict(result),
  }
  (folder / JSON).write_text(json.dumps(record, indent=2) + "\n")
  page.write(folder / PAGE, *_page(result))


def _tables(result: Result) -> dict[str, Table]:
  """Returns the tables of the report by their titles."""
  before, after = result.shrunk.before, result.shrunk.after
  sizes = [
    (name, f"{a:,}", f"{b:,}", f"{a / max(b, 1):.2f}")
    for name, a, b in (
      ("parameters", before.parameters, after.parameters),
      ("multiply-adds", before.multiply_adds, after.multiply_adds),
    )
  ]
  tables: dict[str, Table] = {
    "Size": (("", "masked", "exported", "ratio"), sizes),
    "Milliseconds per batch: median (quartiles)": _time_table(result),
  }
  if result.accuracy:
    rows = [(name, f"{value:.4f}") for name, value in result.accuracy.items()]
    tables["Test accuracy"] = (("network", "accuracy"), rows)
  tables["Files"] = (
    ("file", "MB"),
    [(name, f"{n / 1e6:.3f}") for name, n in result.files.items()],
  )
  if any(result.products.values()):
    tables["Times faster as a sparse layer"] = _layer_table(result)
  removed = [
    (f.name, f"{f.removed:,}", f"{f.channels:,}", ", ".join(f.kept_for))
    for f in result.shrunk.families
    if f.removed or not f.kept_for
  ]
  tables["Removed channels"] = (
    ("written by", "removed", "channels", ""),
    removed,
  )
  return tables


def _layer_table(result: Result) -> Table:
  header = ["kernel", "sparsity", *(f"batch {n}" for n in result.products)]
  rows = [
    [
      ", ".join(product[0].names),
      f"{product[0].sparsity:.1%}",
      *(f"{each.gain:.2f}" for each in product),
    ]
    for product in zip(*result.products.values(), strict=True)
  ]
  return header, rows


def _time_table(result: Result) -> Table:
  header = ["network", *(f"batch {size}" for size in result.times)]
  names = list(next(iter(result.times.values()), {}))
  rows = [
    [name, *(_milliseconds(times[name]) for times in result.times.values())]
    for name in names
  ]
  return header, rows


def _milliseconds(time: timing.Time) -> str:
  return f"{time.median:.3g} ({time.low:.3g}-{time.high:.3g})"


def _aligned(table: Table) -> list[str]:
  header, rows = table
  columns = list(zip(header, *rows, strict=True))
  widths = [max(map(len, column)) for column in columns]
  return [
    "  ".join(
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in (header, *rows)
  ]


def _page(result: Result) -> tuple[str, list[str]]:
  """Returns the title and the body of the page."""
  before, after = result.shrunk.before, result.shrunk.after
  gains = {
    f"times as fast at batch {size}": f"{_gain(times):.2g}"
    for size, times in result.times.items()
  }
  fewer = before.multiply_adds / max(after.multiply_adds, 1)
  title = f"Export of {pathlib.Path(result.run).name}"
  body = [
    f"<h1>{html.escape(title)}</h1>",
    f'<p class="note">{html.escape(verdict(result))}</p>',
    page.tiles(
      {
        "parameters": page.short(after.parameters),
        "multiply-adds": page.short(after.multiply_adds),
        "times fewer multiply-adds": f"{fewer:.3g}",
        **gains,
      }
    ),
  ]
  for heading, table in _tables(result).items():
    body += [f"<h2>{html.escape(heading)}</h2>", page.table(*table)]
  return title, body
