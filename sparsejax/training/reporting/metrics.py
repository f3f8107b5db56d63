"""`metrics.jsonl`: one row per logged step."""

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import numpy as np

from sparsejax.plots import records
from sparsejax.training import run_flops
from sparsejax.training.reporting import tensorboard, workdirs


def rows(
  metrics: Mapping[str, Any],
  *,
  first: int,
  costs: run_flops.ModelCosts | None = None,
  derive: Callable[[Mapping[str, float]], Mapping[str, float]] = lambda _: {},
) -> list[dict[str, Any]]:
  """Turn the stacked metrics of a dispatch into one row per step.

  Args:
    metrics: fields of `train_step.Metrics` as numpy arrays with a leading axis
      of steps; `metrics` and `stats` are dicts of them, and `counters` a tuple.
      Counts of `stats` may have an axis of leaves.
    first: completed steps before the dispatch.
    costs: of the model; without them there are no FLOPs.
    derive: loss and metrics of a step -> more that follows from them.

  Returns:
    For each step its number, its scalars, and the sparsities and FLOPs that
    follow from its integer counts, in double precision.
  """
  scalars = {
    key: value
    for key, value in metrics.items()
    if key not in ("loss", "metrics", "stats", "counters")
  }
  of_task = {"loss": metrics["loss"], **metrics.get("metrics", {})}
  found = []
  for index in range(len(metrics["loss"])):
    means = {key: value[index].item() for key, value in of_task.items()}
    row = {"step": first + 1 + index, **means, **derive(means)}
    row |= {key: value[index].item() for key, value in scalars.items()}
    row |= sparsity_row(
      {key: _count(value[index]) for key, value in metrics["stats"].items()}
    )
    if costs is not None:
      counters = run_flops.Counters(*(x[index] for x in metrics["counters"]))
      row |= run_flops.record(counters, row["step"], costs)
      row |= changes_row(counters)
    found.append(row)
  return found


def _count(counts: Any) -> int:
  """Returns the sum of the counts of leaves, of any size."""
  return int(np.asarray(counts).sum(dtype=np.int64))


def changes_row(counters: run_flops.Counters) -> dict[str, Any]:
  """Turn counts of all mask updates so far into recorded values.

  Args:
    counters: as numpy arrays.

  Returns:
    `mask_updates`, and `pruned` and `regrown`: for each sparse layer, in the
    order of the summary's layers, how many weights all mask updates pruned and
    regrew.
  """
  pruned, regrown = run_flops.changes(counters)
  return {
    "mask_updates": int(counters.mask_updates),
    "pruned": pruned,
    "regrown": regrown,
  }


def sparsity_row(stats: Mapping[str, int]) -> dict[str, Any]:
  """Turn the counts of one step into recorded values.

  Args:
    stats: counts of weights over the sparse leaves, from `sparsejax.stats`.

  Returns:
    `sparsity`, `requested_sparsity`, `active`, `last_mask_update_step` (-1
    before the first); if it is tracked, `itop_rate`: the fraction of weights
    that have ever been active; and where units such as filters are pruned as
    one, `active_units`. The requested sparsity is that of the units.
  """
  total = max(stats["total"], 1)
  units = stats.get("total_units", total)
  row = {
    "sparsity": 1 - stats["active"] / total if stats["total"] else 0.0,
    "requested_sparsity": 1 - stats["requested"] / units
    if stats["total"]
    else 0.0,
    "active": stats["active"],
    "last_mask_update_step": stats["last_update"],
  }
  if "active_units" in stats:
    row["active_units"] = stats["active_units"]
  if "ever_active" in stats:
    row["itop_rate"] = stats["ever_active"] / total
  return row


class Writer:
  """Appends rows to `metrics.jsonl` and to TensorBoard events.

  Attributes:
    warning: says which rows are lost, if the file was damaged; else None.
    times: the last row that is kept of those with sums of `timing.Clock`, if
      there is one.
  """

  def __init__(self, workdir: pathlib.Path, *, start: int, log_every: int = 1):
    """Truncates and opens the files.

    Args:
      workdir: exists.
      start: completed steps of the state that the run starts from; rows of
        later steps are removed, since those steps are repeated.
      log_every: steps between rows that are always written.
    """
    path = workdir / records.METRICS
    found = records.read_metrics(workdir)
    kept = [row for row in found.rows if row["step"] <= start]
    timed = [row for row in kept if "run_began_seconds" in row]
    self.times = timed[-1] if timed else None
    self.warning = None
    last = kept[-1]["step"] if kept else 0
    if last < start // log_every * log_every:
      why = found.damage or f"{path} is missing or cut off"
      self.warning = f"{why}. Rows of steps {last + 1} to {start} are lost."
      if path.exists():
        copy = path.with_name(f"{path.stem}_damaged_{start}{path.suffix}")
        shutil.copyfile(path, copy)
        self.warning += f" {copy.name} is a copy of the damaged file."
    workdirs.write_text(path, "".join(map(_line, kept)))
    self._file = open(path, "a", encoding="utf-8")
    try:
      self._events = tensorboard.Writer(workdir, start=start)
    except OSError:
      self._file.close()
      raise

  def __enter__(self) -> "Writer":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    del kind, trace  # Unused: only `error` matters.
    for file in (self._file, self._events):
      try:
        file.close()
      except OSError:
        if error is None:  # Otherwise the first error says more.
          raise

  def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows, each with its `step`, and flush them."""
    rows = list(rows)
    self._file.writelines(map(_line, rows))
    self._file.flush()
    for row in rows:
      self._events.write(row)
    self._events.flush()

  def sync(self) -> None:
    """Waits until all rows are on disk, which checkpoints rely on."""
    os.fsync(self._file.fileno())


def _line(row: Mapping[str, Any]) -> str:
  return json.dumps(workdirs.strict(row)) + "\n"
