"""Results of finished runs: read, labeled and averaged over seeds."""

import math
import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sparsejax import command_line
from sparsejax.plots import labels, records
from sparsejax.plots.records import Measure


class Result(NamedTuple):
  """A finished run.

  Attributes:
    workdir: its workdir.
    label: its method, and what else distinguishes it from the other runs.
    sparsity: the target sparsity, or the one whose budget a dense network
      matches; the achieved one if there is neither.
    measure: what runs of its task are compared by.
    value: that of the selected checkpoint on the test split, in its unit.
    seed: the random seed.
    summary: contents of `summary.json`.
  """

  workdir: pathlib.Path
  label: str
  sparsity: float
  measure: Measure
  value: float
  seed: int
  summary: dict[str, Any]


class Average(NamedTuple):
  """Runs that differ only in their seed.

  Attributes:
    label: label of the runs.
    sparsity: sparsity of the runs.
    measure: what is averaged.
    mean: mean of the measure on the test split, in its unit.
    deviation: sample standard deviation of the same; `None` for a single run.
    runs: number of runs.
    active: mean number of active weights; all parameters of a dense network.
  """

  label: str
  sparsity: float
  measure: Measure
  mean: float
  deviation: float | None
  runs: int
  active: float


def read_results(workdirs: Iterable[pathlib.Path]) -> list[Result]:
  """Read finished runs and label them by what distinguishes them.

  Args:
    workdirs: folders with `summary.json` and `config.json`.

  Returns:
    One result per workdir, in order; see `labels.label_runs` for the labels.

  Raises:
    InputError: if a run is not finished, a record is damaged, or the runs are
      of different tasks.
  """
  workdirs = list(workdirs)
  found = [_read(workdir) for workdir in workdirs]
  leading = [records.measures(summary)[0] for _, summary in found]
  titles = list(dict.fromkeys(measure.title for measure in leading))
  if len(titles) > 1:
    raise command_line.InputError(
      f"The runs measure {' and '.join(titles)}, which cannot be compared."
      " Compare the runs of one task."
    )
  return [
    Result(
      workdir=workdir,
      label=label,
      sparsity=_sparsity(summary),
      measure=measure,
      value=_value(summary, measure),
      seed=summary["seed"],
      summary=summary,
    )
    for workdir, label, (_, summary), measure in zip(
      workdirs, labels.label_runs(found), found, leading, strict=True
    )
  ]


def average_seeds(results: Sequence[Result]) -> list[Average]:
  """Average over seeds.

  Args:
    results: results of any runs.

  Returns:
    One average per label and sparsity: labels in the order of the runs,
    sparsities ascending.
  """
  order = list(dict.fromkeys(r.label for r in results))
  groups: dict[tuple[int, float], list[Result]] = {}
  for result in results:
    key = (order.index(result.label), result.sparsity)
    groups.setdefault(key, []).append(result)
  return [
    _average(order[label], sparsity, group)
    for (label, sparsity), group in sorted(groups.items())
  ]


def duplicate_seeds(results: Sequence[Result]) -> list[str]:
  """Returns a line for each seed that an average contains more than once."""
  counts: dict[tuple[str, float, int], int] = {}
  for result in results:
    key = (result.label, result.sparsity, result.seed)
    counts[key] = counts.get(key, 0) + 1
  return [
    f"{label} at {percent(sparsity)} has {count} runs with seed {seed}"
    for (label, sparsity, seed), count in counts.items()
    if count > 1
  ]


def result_table(averages: Sequence[Average]) -> list[tuple[str, ...]]:
  """Arrange averages as a table of text.

  Args:
    averages: as returned by `average_seeds`.

  Returns:
    The header, then one row per method and one column per sparsity, each cell
    with mean ± deviation (number of runs). With more than six sparsities, one
    row per average.
  """
  unit = averages[0].measure.unit if averages else records.ACCURACY.unit
  sparsities = sorted({average.sparsity for average in averages})
  if len(sparsities) > 6:
    header = ("method", "sparsity", unit, "active")
    return [header] + [
      (a.label, percent(a.sparsity), _text(a), f"{a.active:,.0f}")
      for a in averages
    ]
  texts = {(a.label, a.sparsity): _text(a) for a in averages}
  return [(unit, *map(percent, sparsities))] + [
    (label, *(texts.get((label, s), "") for s in sparsities))
    for label in dict.fromkeys(a.label for a in averages)
  ]


def percent(sparsity: float) -> str:
  """Returns a sparsity in %, with at most four significant digits."""
  return f"{100 * sparsity:.4g}%"


def _average(label: str, sparsity: float, group: Sequence[Result]) -> Average:
  values = [result.value for result in group]
  return Average(
    label=label,
    sparsity=sparsity,
    measure=group[0].measure,
    mean=statistics.mean(values),
    deviation=statistics.stdev(values) if len(values) > 1 else None,
    runs=len(values),
    active=statistics.mean(r.summary["active"] for r in group),
  )


def _text(average: Average) -> str:
  """Returns `mean ± deviation (runs)`, or only the mean of a single run."""
  digits = 2 if average.measure.percent else 4
  mean = f"{average.mean:.{digits}f}"
  if average.deviation is None:
    return mean
  return f"{mean} ± {average.deviation:.{digits}f} ({average.runs})"


def _value(summary: dict[str, Any], measure: Measure) -> float:
  """Returns the leading measure in its unit; NaN if it is not finite."""
  value = summary[f"test_{measure.name}"]
  return math.nan if value is None else measure.shown(value)


def _read(workdir: pathlib.Path) -> labels.Records:
  summary = records.read_summary(workdir)
  if summary is None:
    raise command_line.InputError(f"{workdir} is a run that is not finished.")
  return labels.Records(records.read_config(workdir), summary)


def _sparsity(summary: dict[str, Any]) -> float:
  keys = ("target_sparsity", "equivalent_sparsity", "sparsity")
  key = next(key for key in keys if summary.get(key) is not None)
  return round(summary[key], 9)
