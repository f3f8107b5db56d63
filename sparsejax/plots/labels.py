"""Labels of runs: the method, and the settings in which the runs differ."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# Keys that never distinguish runs: they are shown elsewhere in a table, follow
# from the label, or do not affect the numbers.
_IGNORED = frozenset(
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
_MAX_SETTINGS = 3


class Records(NamedTuple):
  """The records that a label is made from.

  Attributes:
    config: contents of `config.json`.
    summary: contents of `summary.json`.
  """

  config: Mapping[str, Any]
  summary: dict[str, Any]


def label_runs(records: Sequence[Records]) -> list[str]:
  """Label runs by what distinguishes them.

  A label is the method's name; a retrained run has the method of the original
  run and how it was initialized. Model and data follow if the runs differ in
  them, then the settings in which runs with the same label differ.

  Args:
    records: the records of the runs.

  Returns:
    One label per run, in order.
  """
  configs = [_flatten(each.config) for each in records]
  common = [key for key in ("model.name", "data.name") if _varies(configs, key)]
  bases = [
    ", ".join([_base(each), *_settings(config, common)])
    for each, config in zip(records, configs, strict=True)
  ]
  return [
    _label(
      base,
      config,
      [c for b, c in zip(bases, configs, strict=True) if b == base],
    )
    for base, config in zip(bases, configs, strict=True)
  ]


def differences(
  configs: Sequence[Mapping[str, Any]],
) -> dict[str, tuple[str, ...]]:
  """Returns the values of the keys in which configs differ, one per config."""
  flat = [_flatten(config) for config in configs]
  keys = _sorted_keys({key for config in flat for key in config})
  return {
    key: tuple(_format(config.get(key)) for config in flat)
    for key in keys
    if _varies(flat, key)
  }


def _base(records: Records) -> str:
  """Returns the method, the kind of retraining and the epochs multiplier."""
  config, summary = records
  label = summary["method"]
  if summary.get("init_method"):
    label = f"{summary['init_method']} + {summary['init_mode']}"
  if summary.get("init_step"):
    label += f" to step {summary['init_step']}"
  multiplier = config.get("epochs_multiplier", 1.0)
  return label if multiplier == 1 else f"{label} {multiplier:g}x"


def _label(
  base: str, config: Mapping[str, Any], same_base: Sequence[Mapping[str, Any]]
) -> str:
  """Adds the settings in which runs of the same base differ.

  The first few are spelled out; if there are more, a number distinguishes the
  groups.
  """
  keys = {key for other in same_base for key in other} - _IGNORED
  varying = [key for key in _sorted_keys(keys) if _varies(same_base, key)]
  parts = [base, *_settings(config, varying[:_MAX_SETTINGS])]
  if len(varying) > _MAX_SETTINGS:
    groups = [_settings(other, varying) for other in same_base]
    groups = [
      group for i, group in enumerate(groups) if group not in groups[:i]
    ]
    parts.append(f"... #{1 + groups.index(_settings(config, varying))}")
  return ", ".join(parts)


def _sorted_keys(keys: Iterable[str]) -> list[str]:
  """Returns top-level keys first, then keys of sections; durations last."""

  def rank(key: str) -> tuple[bool, int, str]:
    return key.endswith(("_epochs", "_steps", "_step")), key.count("."), key

  return sorted(keys, key=rank)


def _varies(configs: Sequence[Mapping[str, Any]], key: str) -> bool:
  """Returns whether a key has several values; a missing key counts as null."""
  return len({_format(config.get(key)) for config in configs}) > 1


def _settings(config: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
  return [f"{_short(key)}={_format(config.get(key))}" for key in keys]


def _short(key: str) -> str:
  """Returns the last part of a key; `model.name` becomes `model`."""
  return key.removesuffix(".name").rpartition(".")[2]


def _format(value: Any) -> str:
  if isinstance(value, str):
    return value
  if isinstance(value, float):
    return f"{value:g}"
  return json.dumps(value)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, Mapping):
      flat |= _flatten(value, f"{prefix}{key}.")
    else:
      flat[f"{prefix}{key}"] = value
  return flat
