"""Read the records of a run from its workdir, and check them.

Whoever reads `config.json`, `metrics.jsonl` or `summary.json` does it here: the
trainer when it resumes, `config.init_from`, comparisons, reports and figures.
A record that a run could not have written is damaged. A damaged config or
summary is one error; of damaged metrics, the rows before the first damaged line
are used.
"""

import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from sparsejax import command_line

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"
BRANCHES = "branches.jsonl"
"""The records of a grid of pruning plasticity, one branch per line."""
ENVIRONMENT = "environment.json"
PHASES: tuple[str, ...] = (
  "start",
  "compile",
  "restore",
  "step",
  "evaluate",
  "save",
)
"""What the time of a run goes to; recorded as `run_PHASE_seconds`."""


class Metrics(NamedTuple):
  """The rows of `metrics.jsonl`.

  Attributes:
    rows: one per logged step, by ascending step.
    damage: why rows after these are not used; `None` if all are.
  """

  rows: list[dict[str, Any]]
  damage: str | None


class Measure(NamedTuple):
  """What the runs of a task are compared by.

  Attributes:
    name: `test_NAME` is its key in a summary.
    title: what tables and axes call it.
    percent: whether it is a fraction that is shown in %.
    higher_is_better: whether higher values are better.
  """

  name: str
  title: str
  percent: bool
  higher_is_better: bool

  @property
  def unit(self) -> str:
    """The title with its unit."""
    return f"{self.title} (%)" if self.percent else self.title

  def shown(self, value: float) -> float:
    """Returns a recorded value in its unit."""
    return 100 * value if self.percent else value


ACCURACY = Measure("accuracy", "accuracy", True, True)


def measures(summary: Mapping[str, Any]) -> list[Measure]:
  """Returns what a run measures, the leading one first.

  Args:
    summary: of a run; one that is not finished, or older than tasks, measures
      accuracy.
  """
  found = [
    Measure(**{field: each[field] for field in Measure._fields})
    for each in summary.get("measures", ())
  ]
  return found or [ACCURACY]


class Run(NamedTuple):
  """The records of one run.

  Attributes:
    config: contents of `config.json`.
    rows: lines of `metrics.jsonl`, by ascending step.
    summary: contents of `summary.json`; empty for an unfinished run.
    damage: why later rows are missing; `None` if none are.
    environment: contents of `environment.json`; empty if there is none.
  """

  config: dict[str, Any]
  rows: list[dict[str, Any]]
  summary: dict[str, Any]
  damage: str | None = None
  environment: Mapping[str, Any] = MappingProxyType({})


def seed_folder(workdir: pathlib.Path, seed: int) -> pathlib.Path:
  """Returns the folder of one seed of a run of several."""
  return workdir / f"seed_{seed}"


def single_runs(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Returns the workdirs of the single seeds of a run: one, or several.

  Raises:
    FileNotFoundError: if it is not the workdir of a run.
    InputError: if its config is damaged.
  """
  config = read_config(workdir)
  count = config.get("seeds", 1)
  if count == 1:
    return [workdir]
  first = config["seed"]
  return [seed_folder(workdir, seed) for seed in range(first, first + count)]


def read_run(workdir: pathlib.Path) -> Run:
  """Read the records of a run, which may still be training.

  Args:
    workdir: the run's workdir.

  Returns:
    Its records.

  Raises:
    FileNotFoundError: if it is not the workdir of a run.
    InputError: if its config, summary or environment is damaged, or it has
      several seeds.
  """
  config = read_config(workdir)
  if config.get("seeds", 1) > 1:
    raise _several(workdir)
  found = read_metrics(workdir)
  summary, environment = read_summary(workdir) or {}, workdir / ENVIRONMENT
  return Run(
    config,
    found.rows,
    summary,
    found.damage,
    _read(environment, {}, "Remove it: only reports show it.")
    if environment.exists()
    else {},
  )


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the config of a run.

  Raises:
    FileNotFoundError: if it is not the workdir of a run.
    InputError: if the config is damaged.
  """
  return _read(
    workdir / CONFIG,
    _CONFIG,
    "Remove it, and the command of the run writes it again; checkpoints have a"
    " copy that they are compared with.",
  )


def read_summary(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Returns the result of a run, `None` if the run is not finished.

  Raises:
    InputError: if the summary is damaged, or that of several seeds.
  """
  path = workdir / SUMMARY
  if not path.exists():
    return None
  if "seeds" in _read(path, {}, _WRITTEN_AGAIN):
    raise _several(workdir)
  summary = _read(path, _SUMMARY, _WRITTEN_AGAIN)
  for measure in measures(summary):
    key = f"test_{measure.name}"
    kind = _FRACTION if measure.percent else _MEASURED
    fault = next(_faults(summary.get(key, _MISSING), kind, key), None)
    if fault is not None:
      raise _damaged(path, fault, _WRITTEN_AGAIN)
  return summary


def read_summary_of_seeds(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Returns the result of a run of several seeds.

  Returns:
    `seeds`, and `mean` and `deviation` of every number that all of them have;
    `None` if the run is not finished.

  Raises:
    InputError: if the summary is damaged.
  """
  path = workdir / SUMMARY
  if not path.exists():
    return None
  return _read(path, _OF_SEEDS, _WRITTEN_AGAIN)


def read_metrics(workdir: pathlib.Path) -> Metrics:
  """Returns the rows before the first damaged line; none if there is no file.

  A last line without a newline is still being written, or was when the run was
  killed: rows reach the disk before the checkpoint that relies on them.
  """
  path = workdir / METRICS
  if not path.exists():
    return Metrics([], None)
  rows: list[dict[str, Any]] = []
  for number, line in enumerate(_content(path).split(b"\n")[:-1], 1):
    row, fault = _parse(line, _ROW)
    last = rows[-1]["step"] if rows else -1
    fault = fault or _row_fault(row, last)
    if fault is not None:
      return Metrics(rows, f"line {number} of {path} is damaged: {fault}")
    rows.append(row)
  return Metrics(rows, None)


def read_branches(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the records of a grid before the first damaged line.

  A line without its newline is that of a process that was killed. Branches
  without a record are trained again.
  """
  path = folder / BRANCHES
  if not path.exists():
    return []
  rows: list[dict[str, Any]] = []
  for line in path.read_bytes().split(b"\n")[:-1]:
    row, fault = _parse(line, _BRANCH)
    if fault is not None:
      break
    rows.append(row)
  return rows


_WRITTEN_AGAIN = (
  "Remove it, and the command of the run writes it again from the newest"
  " checkpoint."
)


class _Kind(NamedTuple):
  """What a value may be: in words, and as a function."""

  text: str
  fits: Callable[[Any], bool]


_MISSING = object()
_MAX_FLOAT = 1.7976931348623157e308
_MAX_LEVELS = 16


def _is_number(value: Any) -> bool:
  plain = isinstance(value, int | float) and not isinstance(value, bool)
  return plain and -_MAX_FLOAT <= value <= _MAX_FLOAT  # Neither inf nor NaN.


def _is_count(value: Any) -> bool:
  plain = isinstance(value, int) and not isinstance(value, bool)
  return plain and 0 <= value < 2**63


def _or_null(kind: _Kind) -> _Kind:
  return _Kind(f"{kind.text} or null", lambda x: x is None or kind.fits(x))


class _Optional(NamedTuple):
  """An array or object that may be missing."""

  wanted: Any


def _optional(kind: _Kind) -> _Kind:
  return _Kind(kind.text, lambda x: x is _MISSING or kind.fits(x))


_TEXT = _Kind(
  "printable text", lambda x: isinstance(x, str) and x.isprintable()
)
_FLAG = _Kind("true or false", lambda x: isinstance(x, bool))
_COUNT = _Kind("an integer of at least 0", _is_count)
_COUNTS = _Kind(
  "an array of integers of at least 0",
  lambda x: isinstance(x, list) and all(map(_is_count, x)),
)
_NUMBER = _Kind("a number", _is_number)
_FRACTION = _Kind("in [0, 1]", lambda x: _is_number(x) and 0 <= x <= 1)
_SPARSITY = _Kind("in [0, 1)", lambda x: _is_number(x) and 0 <= x < 1)
# A number that is not finite is recorded as null.
_MEASURED = _or_null(_NUMBER)

_CONTAINERS = {
  dict: _Kind("an object", lambda x: isinstance(x, dict)),
  list: _Kind("an array", lambda x: isinstance(x, list)),
}
# Every value that some reader uses. A dict describes an object, and a list the
# items of an array.
_CONFIG = {
  "seed": _COUNT,
  "seeds": _optional(_COUNT),
  "epochs_multiplier": _optional(_NUMBER),
  **{name: {"name": _TEXT} for name in ("data", "model", "method")},
}
_LISTS = ("pruned", "regrown")
_ROW = {
  "step": _COUNT,
  "active": _optional(_COUNT),
  "test_accuracy": _optional(_FRACTION),
  "mask_updates": _optional(_COUNT),
  **dict.fromkeys(_LISTS, _optional(_COUNTS)),
}
_BRANCH = {
  "measure": _TEXT,
  "regrow": _Kind("true or false", lambda x: isinstance(x, bool)),
  **dict.fromkeys(("sparsity", "rate"), _SPARSITY),
  **dict.fromkeys(("step", "active", "active_before", "total"), _COUNT),
  **dict.fromkeys(("epoch", "trained_epochs", "difference"), _NUMBER),
  **dict.fromkeys(
    ("accuracy", "reference_accuracy", "pruned_accuracy"), _FRACTION
  ),
  "loss": _MEASURED,
}
_MEASURE = {
  **dict.fromkeys(("name", "title"), _TEXT),
  **dict.fromkeys(("percent", "higher_is_better"), _FLAG),
}
_LAYER = {
  "name": _TEXT,
  "position": _optional(_COUNT),
  "macs": _optional(_or_null(_NUMBER)),
  "shape": [_COUNT],
  "total": _COUNT,
  "active": _COUNT,
  "sparsity": _FRACTION,
  **dict.fromkeys(_LISTS, _optional(_COUNT)),
}
_SUMMARY = {
  **dict.fromkeys(("method", "model", "data"), _TEXT),
  **dict.fromkeys(("init_method", "init_mode"), _optional(_or_null(_TEXT))),
  **dict.fromkeys(
    (
      "seed",
      "steps",
      "active",
      "requested",
      "total",
      "kernel_parameters",
      "mask_updates",
    ),
    _COUNT,
  ),
  "selected_step": _optional(_COUNT),
  **dict.fromkeys(("init_step", "resumed_from_step"), _or_null(_COUNT)),
  "sparsity": _FRACTION,
  "target_sparsity": _or_null(_SPARSITY),
  "equivalent_sparsity": _optional(_or_null(_SPARSITY)),
  "itop_rate": _or_null(_FRACTION),
  **dict.fromkeys(
    (
      "epochs_multiplier",
      "inference_macs",
      "dense_inference_macs",
      "inference_flops",
      "inference_flops_ratio",
      "training_flops",
      "training_flops_ratio",
      "compile_seconds",
      "train_seconds",
    ),
    _NUMBER,
  ),
  **dict.fromkeys(("test_loss", "mask_update_seconds"), _MEASURED),
  **{
    f"run_{name}_seconds": _optional(_NUMBER)
    for name in (*PHASES, "elapsed", "began")
  },
  "layers": [_LAYER],
  "task": _optional(_TEXT),
  "measures": _Optional([_MEASURE]),
}


_OF_SEEDS = {
  **dict.fromkeys(("method", "model", "data"), _TEXT),
  "seeds": _COUNTS,
  **dict.fromkeys(("mean", "deviation"), {"test_loss": _MEASURED}),
  "measures": _Optional([_MEASURE]),
}


def _several(workdir: pathlib.Path) -> command_line.InputError:
  return command_line.InputError(
    f"{workdir} has several seeds. Give the workdir of one of them, such as"
    f" {single_runs(workdir)[0]}."
  )


def _read(
  path: pathlib.Path, wanted: Mapping[str, Any], way_out: str
) -> dict[str, Any]:
  """Returns the object in a file, or raises the one error of its kind."""
  value, fault = _parse(_content(path), wanted)
  if fault is not None:
    raise _damaged(path, fault, way_out)
  return value


def _content(path: pathlib.Path) -> bytes:
  """Returns the bytes of a file; a pipe would block for ever."""
  if not path.is_file():
    raise command_line.InputError(f"{path} is not a regular file. Remove it.")
  return path.read_bytes()


def _damaged(
  path: pathlib.Path, fault: str, way_out: str
) -> command_line.InputError:
  return command_line.InputError(f"{path} is damaged: {fault}. {way_out}")


def _parse(data: bytes, wanted: Mapping[str, Any]) -> tuple[Any, str | None]:
  """Returns the value of JSON text, and what is wrong with it."""
  try:
    value = json.loads(data, parse_constant=_refuse)
  except (ValueError, RecursionError) as error:
    return None, f"it is not JSON ({str(error)[:80]})"
  if not _is_plain(value, _MAX_LEVELS):
    return None, "it is nested too deeply, or has a key that is not printable"
  return value, next(_faults(value, wanted), None)


def _refuse(name: str) -> Any:
  raise ValueError(f"{name} is no number")


def _is_plain(value: Any, levels: int) -> bool:
  """Returns whether keys can be printed, and recursion cannot overflow."""
  if not isinstance(value, dict | list):
    return True
  keys, items = (
    (value, value.values()) if isinstance(value, dict) else ((), value)
  )
  return (
    levels > 0
    and all(key.isprintable() for key in keys)
    and all(_is_plain(item, levels - 1) for item in items)
  )


def _faults(value: Any, wanted: Any, name: str = "") -> Iterator[str]:
  """Yields how a value differs from what is wanted."""
  if isinstance(wanted, _Optional):
    if value is _MISSING:
      return
    wanted = wanted.wanted
  kind = wanted if isinstance(wanted, _Kind) else _CONTAINERS[type(wanted)]
  if not kind.fits(value):
    found = (
      "is missing"
      if value is _MISSING
      else f"must be {kind.text}, got {json.dumps(value)[:60]}"
    )
    yield f"`{name}` {found}" if name else f"it {found}"
  elif isinstance(wanted, list):
    for index, item in enumerate(value):
      yield from _faults(item, wanted[0], f"{name}[{index}]")
  elif isinstance(wanted, dict):
    for key, item in wanted.items():
      path = f"{name}.{key}" if name else key
      yield from _faults(value.get(key, _MISSING), item, path)


def _row_fault(row: Mapping[str, Any], last: int) -> str | None:
  """Returns what is wrong with a row beyond the values that readers use."""
  if row["step"] <= last:
    return f"`step` must be above {last}, got {row['step']}"
  for name, value in row.items():
    if name in _LISTS or isinstance(value, bool):
      continue
    if not _MEASURED.fits(value):
      return f"`{name}` must be a number, got {json.dumps(value)[:60]}"
  return None
