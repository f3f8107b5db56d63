"""Runs side by side: accuracy by method and sparsity, over seeds."""

import itertools
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# Hues that stay apart for color-blind readers (Okabe and Ito, 2008).
_HUES = (
  "#0072B2",
  "#D55E00",
  "#009E73",
  "#CC79A7",
  "#E69F00",
  "#56B4E9",
  "#000000",
)
_MARKERS = ("o", "s", "^", "D", "v")
_TICKS = (10, 20, 50, 80, 90, 95, 97, 98, 99, 99.5, 99.9)
# What a row may differ in by its nature, or without a change of the numbers.
_OWN = frozenset(
  {
    "seed",
    "method.name",
    "method.sparsity",
    "init_from",
    "init_mode",
    "init_step",
    "epochs_multiplier",
    "keep_steps",
    "log_every_steps",
    "dispatch_steps",
    "eval_every_epochs",
    "checkpoint_every_epochs",
    "forbid_warnings",
  }
)


_MOST_TOLD = 3


class Result(NamedTuple):
  """One run that is done.

  Attributes:
    workdir: its folder.
    label: its method, and what else sets it apart.
    sparsity: the requested one, or that which a dense network stands for; the
      achieved one where there is neither.
    accuracy: on the test split, at the step that was selected, in [0, 1].
    seed: of the run.
    summary: what `summary.json` holds.
  """

  workdir: pathlib.Path
  label: str
  sparsity: float
  accuracy: float
  seed: int
  summary: dict[str, Any]


class Cell(NamedTuple):
  """Runs that differ in their seed alone.

  Attributes:
    label: of the runs.
    sparsity: of the runs.
    mean: of their accuracies, in %.
    deviation: of the same, over the sample; `None` of one run.
    runs: how many there are.
    active: weights that are on, in the mean; the parameters of a dense network.
  """

  label: str
  sparsity: float
  mean: float
  deviation: float | None
  runs: int
  active: float


def read_results(workdirs: Iterable[pathlib.Path]) -> list[Result]:
  """Read runs that are done, and name them by what sets them apart.

  A label is the method's name; a run that trained the mask of an earlier one
  has that one's method and how it began. Settings are added where runs would
  else share a label and yet differ in them, model and data where not all runs
  share those.

  Args:
    workdirs: folders with `summary.json` and `config.json`.

  Returns:
    One result for each, in the same order.

  Raises:
    ValueError: if a file is not what a run writes.
  """
  workdirs = list(workdirs)
  pairs = [_read(workdir) for workdir in workdirs]
  flat = [_flat(config) for config, _ in pairs]
  # What is named in every label if it is not the same in all runs.
  told = [key for key in ("model.name", "data.name") if _varies(flat, key)]
  bases = [
    ", ".join([_base(summary, config), *_settings(config, told)])
    for config, (_, summary) in zip(flat, pairs, strict=True)
  ]
  named = list(zip(bases, flat, strict=True))
  labels = [
    _label(base, config, [other for name, other in named if name == base])
    for base, config in named
  ]
  return [
    Result(
      workdir=workdir,
      label=label,
      sparsity=_sparsity(summary),
      accuracy=summary["test_accuracy"],
      seed=summary["seed"],
      summary=summary,
    )
    for workdir, label, (_, summary) in zip(
      workdirs, labels, pairs, strict=True
    )
  ]


def cells(results: Sequence[Result]) -> list[Cell]:
  """Average over seeds.

  Args:
    results: of any runs.

  Returns:
    One cell for each label and sparsity: labels in the order of the runs,
    sparsities ascending.
  """
  order = list(dict.fromkeys(r.label for r in results))
  groups: dict[tuple[int, float], list[Result]] = {}
  for result in results:
    key = (order.index(result.label), result.sparsity)
    groups.setdefault(key, []).append(result)
  found = []
  for (label, sparsity), group in sorted(groups.items()):
    values = [100 * result.accuracy for result in group]
    found.append(
      Cell(
        label=order[label],
        sparsity=sparsity,
        mean=statistics.mean(values),
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        runs=len(values),
        active=statistics.mean(r.summary["active"] for r in group),
      )
    )
  return found


def repeated(results: Sequence[Result]) -> list[str]:
  """Returns a line for each seed that stands more than once in a cell."""
  seen: dict[tuple[str, float, int], int] = {}
  for result in results:
    key = (result.label, result.sparsity, result.seed)
    seen[key] = seen.get(key, 0) + 1
  return [
    f"{label} at {percent(sparsity)} has seed {seed} {count} times"
    for (label, sparsity, seed), count in seen.items()
    if count > 1
  ]


def rows(found: Sequence[Cell]) -> list[tuple[str, ...]]:
  """Lay cells out as a table of text, its header first.

  Args:
    found: as `cells` gives them.

  Returns:
    Methods as rows and sparsities as columns, each with mean ± deviation and
    the number of runs; one row for each cell where there are many sparsities.
  """
  sparsities = sorted({cell.sparsity for cell in found})
  if len(sparsities) > 6:
    header = ("method", "sparsity", "accuracy in %", "active")
    return [header] + [
      (c.label, percent(c.sparsity), text(c), f"{c.active:,.0f}") for c in found
    ]
  by_place = {(cell.label, cell.sparsity): text(cell) for cell in found}
  return [("accuracy in %", *map(percent, sparsities))] + [
    (label, *(by_place.get((label, s), "") for s in sparsities))
    for label in dict.fromkeys(cell.label for cell in found)
  ]


def text(cell: Cell) -> str:
  """Returns `mean ± deviation (runs)`; a single run has neither of the last."""
  if cell.deviation is None:
    return f"{cell.mean:.2f}"
  return f"{cell.mean:.2f} ± {cell.deviation:.2f} ({cell.runs})"


def percent(sparsity: float) -> str:
  """Returns a sparsity in %, with as many digits as it needs."""
  return f"{100 * sparsity:.4g}%"


def plot(found: Sequence[Cell], path: pathlib.Path) -> None:
  """Plot accuracy over sparsity, one curve for each label.

  What is dense is a line across. Both axes are logarithms, of the error and of
  the share of weights that is left: 98 and 99 % are as far apart as 80 and 90.

  Args:
    found: as `cells` gives them.
    path: file to write, by its ending.
  """
  from matplotlib.figure import Figure

  labels = list(dict.fromkeys(cell.label for cell in found if cell.sparsity))
  lines = len(dict.fromkeys(cell.label for cell in found))
  height = max(4.2, 0.24 * lines + 1.2)
  figure = Figure(figsize=(8.4, height), dpi=120, layout="constrained")
  axes = figure.subplots()
  axes.set_yscale("function", functions=(_spread, _gather))
  sparsities = sorted({cell.sparsity for cell in found} - {0})
  place = {s: -math.log10(1 - s) for s in sparsities}
  gaps = [b - a for a, b in itertools.pairwise(place.values())]
  room = 0.4 * statistics.median(gaps or [0.1])
  for cell in found:
    if not cell.sparsity:
      _across(axes, cell)
  for number, label in enumerate(labels):
    curve = [c for c in found if c.label == label and c.sparsity]
    # Side by side, so that no error bar hides another one.
    shift = room * ((number + 0.5) / len(labels) - 0.5)
    axes.errorbar(
      [place[c.sparsity] + shift for c in curve],
      [c.mean for c in curve],
      [c.deviation or 0.0 for c in curve],
      color=_HUES[number % len(_HUES)],
      marker=_MARKERS[number // len(_HUES) % len(_MARKERS)],
      linestyle=("-", "--", ":")[number // len(_HUES) % 3],
      markersize=4,
      linewidth=1.2,
      capsize=2,
      label=label,
    )
  ticks = _apart(place)
  axes.set_xticks([place[s] for s in ticks], list(map(percent, ticks)))
  low, high = axes.get_ylim()
  shown = [tick for tick in _TICKS if low <= tick <= high]
  if len(shown) > 1:
    axes.set_yticks(shown, [str(tick) for tick in shown])
  axes.set_xlabel("sparsity")
  axes.set_ylabel("test accuracy in % (log of the error)")
  axes.grid(axis="y", alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)
  figure.legend(loc="outside right upper", frameon=False, fontsize=8)
  figure.savefig(path)


def _apart(place: Mapping[float, float]) -> list[float]:
  """Returns the sparsities whose names do not run into each other."""
  found: list[float] = []
  reach = max(place.values(), default=0.0) - min(place.values(), default=0.0)
  for sparsity in sorted(place, reverse=True):
    if not found or place[found[-1]] - place[sparsity] >= reach / 12:
      found.append(sparsity)
  return found


def _across(axes: Any, cell: Cell) -> None:
  """Draws what has no sparsity, with its deviation."""
  spread = cell.deviation or 0.0
  axes.axhspan(cell.mean - spread, cell.mean + spread, color="#e4e4e4")
  axes.axhline(cell.mean, color="#777777", linewidth=1, label=cell.label)


def _spread(accuracy: Any) -> Any:
  """Maps accuracies in % to heights."""
  import numpy as np

  return -np.log10(np.maximum(100.0 - np.asarray(accuracy), 1e-2))


def _gather(height: Any) -> Any:
  """Maps heights back to accuracies in %."""
  import numpy as np

  return 100.0 - 10.0 ** -np.asarray(height)


def _read(workdir: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  found = []
  for name in ("config.json", "summary.json"):
    path = workdir / name
    try:
      value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
      raise ValueError(f"{path} cannot be read: {error}") from error
    found.append(value)
  config, summary = found
  needed = {"method", "seed", "test_accuracy", "sparsity", "target_sparsity"}
  if not isinstance(summary, dict) or needed - summary.keys():
    raise ValueError(f"{workdir / 'summary.json'} is not a run's summary")
  return config, summary


def _label(
  base: str, config: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]
) -> str:
  """Adds what sets a run apart from others of its name.

  The first few settings are written out; where there are more, a number tells
  the runs of one label from those of another.
  """
  keys = {key for other in alike for key in other} - _OWN
  apart = [key for key in _ordered(keys) if _varies(alike, key)]
  told = [base, *_settings(config, apart[:_MOST_TOLD])]
  if len(apart) > _MOST_TOLD:
    kinds = [_settings(other, apart) for other in alike]
    kinds = [kind for i, kind in enumerate(kinds) if kind not in kinds[:i]]
    told.append(f"... #{1 + kinds.index(_settings(config, apart))}")
  return ", ".join(told)


def _ordered(keys: Iterable[str]) -> list[str]:
  """Returns keys of the run first, of a section later; durations last."""

  def place(key: str) -> tuple[bool, int, str]:
    return key.endswith(("_epochs", "_steps", "_step")), key.count("."), key

  return sorted(keys, key=place)


def _base(summary: Mapping[str, Any], config: Mapping[str, Any]) -> str:
  """Returns the method, how a retraining began, and how much longer it was."""
  label = summary["method"]
  if summary.get("init_method"):
    label = f"{summary['init_method']} + {summary['init_mode']}"
  if summary.get("init_step"):
    label += f" to step {summary['init_step']}"
  multiplier = config.get("epochs_multiplier", 1.0)
  return label if multiplier == 1 else f"{label} {multiplier:g}x"


def _sparsity(summary: Mapping[str, Any]) -> float:
  requested = summary["target_sparsity"]
  if requested is None:
    requested = summary.get("stands_for_sparsity")
  return round(summary["sparsity"] if requested is None else requested, 6)


def _varies(configs: Sequence[Mapping[str, Any]], key: str) -> bool:
  """Says whether a key has several values; none is one, as where it lacks."""
  return len({_shown(config.get(key)) for config in configs}) > 1


def _settings(config: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
  return [f"{_short(key)}={_shown(config.get(key))}" for key in keys]


def _shown(value: Any) -> str:
  if isinstance(value, str):
    return value
  if isinstance(value, float):
    return f"{value:g}"
  return json.dumps(value)


def _short(key: str) -> str:
  """Returns the last part of a key; a section's name stands for the section."""
  return key.removesuffix(".name").rpartition(".")[2]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f"{prefix}{key}.")
    else:
      flat[f"{prefix}{key}"] = value
  return flat
