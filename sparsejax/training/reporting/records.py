"""What a run writes into its workdir, and what a later start finds there.

    config.json    the resolved config
    metrics.jsonl  one JSON object with `step` a line, steps ascending
    events.*       the same numbers for TensorBoard
    summary.json   the result; it is there only when the run is done

Keys that depend on the clock end in `_seconds` or `_per_second`.
"""

import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from sparsejax import command_line
from sparsejax.training import flops as meters
from sparsejax.training.checkpointing import identity
from sparsejax.training.reporting import tensorboard

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"


def claim(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Write a run's config, or check that the workdir belongs to this run.

  Args:
    workdir: exists.
    config: the resolved config.

  Raises:
    InputError: if the workdir holds a run of another config.
  """
  path = workdir / CONFIG
  if not path.exists():
    write_json(path, config)
    return
  found = _read_json(path)
  differ = identity.differences(_as_record(found), _as_record(config))
  if differ:
    raise command_line.InputError(
      f"`--workdir` {workdir} holds a run of another config: "
      + identity.told(differ)
      + ". Give another workdir, or the config of that run."
    )


def finished(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Returns the summary of a run that is done, `None` of any other."""
  path = workdir / SUMMARY
  return _read_json(path) if path.exists() else None


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  """Write a file that is never seen half written.

  Args:
    path: the file; one that is there is replaced.
    value: what to write; numbers that are not finite become null.
  """
  temporary = path.with_name(f".{path.name}.tmp")
  with open(temporary, "w", encoding="utf-8") as file:
    file.write(json.dumps(_strict(value), indent=2, sort_keys=True) + "\n")
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the whole lines of `metrics.jsonl`; none where there is no file.

  A line that was cut off while it was written, and what follows it, is left
  out: lines are on the disk before the checkpoint that vouches for them.
  """
  path = workdir / METRICS
  if not path.exists():
    return []
  rows = []
  for line in path.read_bytes().split(b"\n")[:-1]:
    try:
      rows.append(json.loads(line))
    except ValueError:
      break
  return rows


def rows(
  metrics: Mapping[str, Any],
  *,
  first: int,
  prices: meters.Prices | None = None,
) -> list[dict[str, Any]]:
  """Turn the stacked metrics of a dispatch into one row for each step.

  Args:
    metrics: numpy arrays with a leading axis of steps; `stats` is a dict of
      them, the counts of `sparsejax.stats`, and `meter` a `Meter` of them.
    first: completed steps before the dispatch.
    prices: of the network; without them there are no FLOPs.

  Returns:
    For each step its number, the scalars, and what follows from the counts:
    sparsities and FLOPs are computed from the integers, in double precision.
  """
  scalars = {
    key: value
    for key, value in metrics.items()
    if key not in ("stats", "meter")
  }
  found = []
  for index in range(len(metrics["loss"])):
    row = {"step": first + 1 + index}
    row |= {key: value[index].item() for key, value in scalars.items()}
    row |= sparsity_row(
      {key: int(value[index]) for key, value in metrics["stats"].items()}
    )
    if prices is not None:
      then = meters.Meter(*(value[index] for value in metrics["meter"]))
      row |= meters.row(then, row["step"], prices)
    found.append(row)
  return found


def sparsity_row(stats: Mapping[str, int]) -> dict[str, Any]:
  """Turn the counts of one step into what is recorded of them.

  Args:
    stats: counts of weights over the sparse leaves, as `sparsejax.stats` has
      them.

  Returns:
    `sparsity`, `requested_sparsity`, `active`, `last_mask_update_step` (-1 before
    the first one), and `itop_rate`,
    the share of weights that were ever active, where it is known.
  """
  total = max(stats["total"], 1)
  row = {
    "sparsity": 1 - stats["active"] / total if stats["total"] else 0.0,
    "requested_sparsity": 1 - stats["requested"] / total
    if stats["total"]
    else 0.0,
    "active": stats["active"],
    "last_mask_update_step": stats["last_update"],
  }
  if "ever_active" in stats:
    row["itop_rate"] = stats["ever_active"] / total
  return row


class Writer:
  """Writes metrics, after cutting them back to where a run starts."""

  def __init__(self, workdir: pathlib.Path, *, start: int):
    """Opens the files.

    Args:
      workdir: exists.
      start: completed steps of the state that the run starts from; lines of
        later steps are removed, since those steps are taken again.
    """
    self._path = workdir / METRICS
    kept = [row for row in read_metrics(workdir) if row["step"] <= start]
    self._rewrite(kept)
    self._file = open(self._path, "a", encoding="utf-8")
    self._events = tensorboard.Writer(workdir, start=start)

  def __enter__(self) -> "Writer":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    del kind, trace  # Only whether there is an error matters.
    for file in (self._file, self._events):
      try:
        file.close()
      except OSError:
        if error is None:  # Otherwise that error tells more.
          raise

  def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows, each with its `step`, and give them to the system."""
    rows = list(rows)
    self._file.writelines(map(_line, rows))
    self._file.flush()
    for row in rows:
      self._events.write(row)
    self._events.flush()

  def sync(self) -> None:
    """Waits until what is written is on the disk, as a checkpoint needs it."""
    os.fsync(self._file.fileno())

  def _rewrite(self, rows: list[dict[str, Any]]) -> None:
    temporary = self._path.with_name(f".{self._path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
      file.writelines(_line(row) for row in rows)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, self._path)


def _line(row: Mapping[str, Any]) -> str:
  return json.dumps(_strict(row)) + "\n"


def _strict(value: Any) -> Any:
  """Returns the value with null for numbers that JSON does not have."""
  if isinstance(value, Mapping):
    return {key: _strict(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_strict(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise command_line.InputError(
      f"{path} is not JSON: {error}. Remove it, or give another workdir."
    ) from error


def _as_record(config: Mapping[str, Any]) -> dict[str, Any]:
  return {"config": config, "sparse_leaves": [], "leaves": {}}
