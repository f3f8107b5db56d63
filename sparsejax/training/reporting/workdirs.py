"""The workdir of a run: which config it belongs to, and its result.

    config.json    the resolved config
    environment.json
                   versions and devices of the last start, for the report
    metrics.jsonl  one JSON object per line, with `step`, in ascending order
    events.*       the same values for TensorBoard
    checkpoints/   training states
    weights/       dense weights of single steps, for later runs
    summary.json   the result; present only if the run is finished
    report.html    figures and tables
    .lock          the process that writes here, see `training.workdir_lock`

The workdir of several seeds has a folder `seed_N` for each, which becomes the
workdir of a finished run; its own checkpoints hold the states of all.

Keys that depend on the clock end in `_seconds` or `_per_second`.
"""

import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from sparsejax import command_line
from sparsejax.plots import records
from sparsejax.training.checkpointing import identity
from sparsejax.training.config.experiment import Experiment

CONFIG, SUMMARY = records.CONFIG, records.SUMMARY


def of_seeds(
  experiment: Experiment, workdir: pathlib.Path
) -> tuple[pathlib.Path, ...]:
  """Returns the folder of each seed: the workdir itself for a single one."""
  if not experiment.of_seeds:
    return (workdir,)
  return tuple(
    records.seed_folder(workdir, each.seed) for each in experiment.of_seeds
  )


def of_each(
  experiment: Experiment, workdir: pathlib.Path
) -> Iterator[tuple[Experiment, pathlib.Path]]:
  """Yields the experiment and the folder of each seed."""
  folders = of_seeds(experiment, workdir)
  yield from zip(experiment.each, folders, strict=True)


def claim(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Write a run's config, or check that the workdir belongs to that run.

  Args:
    workdir: exists.
    config: the resolved config.

  Raises:
    InputError: if the workdir belongs to a run with another config, or its
      config is damaged.
  """
  path = workdir / CONFIG
  if not path.exists():
    write_json(path, config)
    return
  differ = identity.config_differences(records.read_config(workdir), config)
  if differ:
    raise command_line.InputError(
      f"`--workdir` {workdir} belongs to a run with another config: "
      + identity.join(differ)
      + ". Use another workdir, or the config of that run."
    )


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  """Write a file atomically.

  Args:
    path: the file; replaced if it exists.
    value: what to write; non-finite numbers become null.
  """
  text = json.dumps(strict(value), indent=2, sort_keys=True) + "\n"
  write_text(path, text)


def write_text(path: pathlib.Path, text: str) -> None:
  """Write a text file atomically; it is on disk when this returns."""
  temporary = path.with_name(f".{path.name}.tmp")
  with open(temporary, "w", encoding="utf-8") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


def strict(value: Any) -> Any:
  """Returns the value with null for numbers that JSON does not have."""
  if isinstance(value, Mapping):
    return {key: strict(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [strict(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
