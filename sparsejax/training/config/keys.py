"""The keys of a config outside its sections: defaults, types, ranges."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from sparsejax import command_line
from sparsejax.training import sharding, weight_sharding
from sparsejax.training.config import schema, sections, value_types

_TYPES = {
  "seed": int,
  "seeds": int,
  "epochs": float,
  "epochs_multiplier": float,
  "batch_size": int,
  "microbatches": int,
  "dispatch_steps": int,
  "log_every_steps": int,
  "eval_every_epochs": float,
  "checkpoint_every_epochs": float,
  "forbid_warnings": bool,
  "label_smoothing": float,
  "ema_decay": float,
  "select": tuple[str, ...],
  "dense": tuple[str, ...],
  "sparsities": tuple[str, ...],
  "keep_steps": tuple[int, ...],
  "init_from": str | None,
  "init_mode": str,
  "init_step": int,
  "metric": str | None,
  "select_checkpoint": str,
}
_MESH = {**dict.fromkeys(sharding.AXES, int), "rules": tuple[str, ...]}
_OPTIONAL = ("init_from", "metric")
_MINIMA = {
  "seed": 0,
  "seeds": 1,
  "log_every_steps": 1,
  "dispatch_steps": 1,
  "batch_size": 1,
  "microbatches": 1,
  "init_step": 0,
}
_FRACTIONS = ("label_smoothing", "ema_decay")
_DURATIONS = (
  "epochs_multiplier",
  "epochs",
  "eval_every_epochs",
  "checkpoint_every_epochs",
)
_CHECKPOINTS = ("last", "best")


def defaults() -> dict[str, Any]:
  """Returns the keys that most configs leave at their defaults.

  Returns:
    `seeds`: how many runs, with the seeds `seed`, `seed + 1` and so on, train
    in one program (`training.replicas`); `microbatches`: parts of a batch whose
    gradients are computed one after another; `sparsities`: layers with a fixed
    sparsity, such as `("classifier/*=0.8",)`, for which the other layers make
    up; `metric`: what a method with `metric=` follows (`training.metric` has
    the rule); `init_from`, `init_mode` and `init_step`: the run to start from,
    how, and from which of its steps (`checkpointing.init_from` has the modes);
    `keep_steps`: steps whose weights are kept for such runs, multiples of
    `dispatch_steps`; `epochs_multiplier`: how much longer the run and its
    schedules are; `select_checkpoint`: the checkpoint that the result and later
    runs take: "last", or "best": among those with the fewest active weights,
    the one of the best validation result, or test result if there is no
    validation split; `mesh`: how many devices share what
    (`training.sharding`), and where weights lie (`training.weight_sharding`).
  """
  return {
    "seeds": 1,
    "microbatches": 1,
    "sparsities": (),
    "metric": config_dict.placeholder(str),
    "init_from": config_dict.placeholder(str),
    "init_mode": "rewind",
    "init_step": 0,
    "keep_steps": (0,),
    "epochs_multiplier": 1.0,
    "select_checkpoint": "last",
    "mesh": {**sharding.DEFAULT, "rules": ()},
  }


def resolved(config: ConfigDict) -> dict[str, Any]:
  """Turn a config into what `config.json` holds, and check it.

  Args:
    config: may hold references and placeholders.

  Returns:
    Nested dicts of plain values, keys sorted, tuples as lists. `seeds` is left
    out where it is 1, so that a run is the same one whether it was trained
    alone or with others.

  Raises:
    InputError: if a key is unknown or missing, or a value is of the wrong type
      or out of range.
  """

  def plain(value: Any) -> Any:
    if isinstance(value, dict):
      return {key: plain(value[key]) for key in sorted(value)}
    return list(value) if isinstance(value, tuple | list) else value

  found = plain(config.copy_and_resolve_references().to_dict())
  _check({"seeds": 1, **found})
  if found.get("seeds") == 1:
    del found["seeds"]
  return found


def seeds(config: Mapping[str, Any]) -> range:
  """Returns the seeds of a resolved config."""
  return range(config["seed"], config["seed"] + config.get("seeds", 1))


def check_one_seed(config: Mapping[str, Any], way_out: str) -> None:
  """Refuse a resolved config of several seeds.

  Args:
    config: the resolved config.
    way_out: what to do, for the message.

  Raises:
    InputError: if it has several seeds.
  """
  count = len(seeds(config))
  _require({"seeds": count}, "seeds", f"1 here: {way_out}", count == 1)


def of_seed(config: Mapping[str, Any], seed: int) -> dict[str, Any]:
  """Returns the resolved config of one of its seeds."""
  rest = {key: value for key, value in config.items() if key != "seeds"}
  return rest | {"seed": seed}


def _check(config: Mapping[str, Any]) -> None:
  _check_names(config)
  for key, annotation in _TYPES.items():
    if config[key] is not None:
      value_types.check(f"config.{key}", config[key], annotation)
  _check_mesh(config["mesh"])
  for title, kind in sections.KINDS.items():
    schema.check(kind, f"config.{title}", config[title])
  for key, least in _MINIMA.items():
    _require(config, key, f"at least {least}", config[key] >= least)
  for key in _FRACTIONS:
    _require(config, key, "in [0, 1)", 0 <= config[key] < 1)
  for key in _DURATIONS:
    _require(config, key, "above 0", config[key] > 0)
  selected = config["select_checkpoint"]
  if selected not in _CHECKPOINTS:
    raise command_line.unknown(
      "`config.select_checkpoint`", selected, _CHECKPOINTS
    )


def _check_mesh(mesh: Any) -> None:
  if not isinstance(mesh, Mapping):
    raise command_line.InputError(
      f"`config.mesh` must be a section, got {value_types.shown(mesh)}."
    )
  for key in mesh:
    if key not in _MESH:
      raise command_line.unknown("`config.mesh`", key, _MESH)
  for key, annotation in _MESH.items():
    value_types.check(f"config.mesh.{key}", mesh.get(key), annotation)
  weight_sharding.parse(mesh["rules"])


def _check_names(config: Mapping[str, Any]) -> None:
  known = [*_TYPES, "mesh", *sections.KINDS]
  for key in config:
    if key not in known:
      raise command_line.unknown("The config", key, known)
  for key in known:
    if config.get(key) is None and not (key in config and key in _OPTIONAL):
      raise command_line.InputError(f"`config.{key}` is missing.")


def _require(
  config: Mapping[str, Any], key: str, rule: str, holds: bool
) -> None:
  if not holds:
    raise command_line.InputError(
      f"`config.{key}` must be {rule}, got {config[key]}."
    )
