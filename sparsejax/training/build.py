"""The only reader of a config: checks it before any compile."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax
from ml_collections import ConfigDict

import sparsejax
from sparsejax import methods
from sparsejax.data import DATASETS, Dataset
from sparsejax.models import MODELS
from sparsejax.training import errors, rates, schema, step
from sparsejax.training.optimizers import OPTIMIZERS

KINDS = {
  "method": schema.Kind(
    "method",
    methods.METHODS,
    named={
      "distribution": methods.DISTRIBUTIONS,
      "scope": methods.SCOPES,
      "storage": methods.STORAGES,
    },
  ),
  "model": schema.Kind("model", MODELS),
  "optimizer": schema.Kind(
    "optimizer", OPTIMIZERS, named={"schedule": rates.SCHEDULES}
  ),
  "data": schema.Kind("data", DATASETS),
}
_VALUES = {
  "seed": int,
  "epochs": float,
  "batch_size": int,
  "dispatch_steps": int,
  "log_every_steps": int,
  "eval_every_epochs": float,
  "checkpoint_every_epochs": float,
  "forbid_warnings": bool,
  "select": list,
  "dense": list,
}
# One key for each purpose, folded from the seed.
_MODEL_KEY, _DATA_KEY, _MASK_KEY = range(3)


class Steps(NamedTuple):
  """When things happen, in steps of the trainer.

  Attributes:
    total: steps of the run.
    per_epoch: steps of an epoch; what does not fill a batch is left out.
    dispatch: steps between two looks of the host at the device.
    log_every: a line of metrics every so many steps.
    eval_every: an evaluation at the end of the dispatch that reaches them.
    checkpoint_every: likewise, a checkpoint.
  """

  total: int
  per_epoch: int
  dispatch: int
  log_every: int
  eval_every: int
  checkpoint_every: int


class Experiment(NamedTuple):
  """Everything that a run needs to know.

  Attributes:
    config: the resolved config as plain JSON values.
    dataset: numpy arrays.
    model: the Flax module.
    tx: the inner optimizer with the method around it.
    setup: the static side of the compiled step.
    steps: when things happen.
    init_key: typed key of the first parameters.
    data_key: typed key of order and augmentation.
    target_sparsity: what the method is asked for; `None` where it has none.
    warnings: what is allowed and probably not meant.
  """

  config: dict[str, Any]
  dataset: Dataset
  model: nn.Module
  tx: optax.GradientTransformationExtraArgs
  setup: step.Setup
  steps: Steps
  init_key: jax.Array
  data_key: jax.Array
  target_sparsity: float | None
  warnings: tuple[str, ...]


def section(kind: str, name: str, **given: Any) -> dict[str, Any]:
  """Write one section of a config, with the defaults of what it names.

  Args:
    kind: "method", "model", "optimizer" or "data".
    name: which one.
    **given: what differs from the factory's defaults.

  Returns:
    The section, for `ConfigDict`.

  Raises:
    InputError: if a name or key is not known.
  """
  return schema.section(KINDS[kind], name, given)


def build(config: ConfigDict) -> Experiment:
  """Turn a config into an experiment.

  Args:
    config: as a file in `configs/` makes it, overrides included.

  Returns:
    The experiment. Nothing is compiled yet.

  Raises:
    InputError: if anything in the config cannot work.
  """
  plain = resolved(config)
  _check_keys(plain)
  dataset = schema.call(KINDS["data"], "config.data", plain["data"], {})
  steps = _steps(plain, dataset.train.examples)
  fed = {
    "classes": dataset.classes,
    "total_steps": steps.total,
    "steps_per_epoch": steps.per_epoch,
    "epochs": -(-steps.total // steps.per_epoch),
  }
  model = schema.call(KINDS["model"], "config.model", plain["model"], fed)
  key = jax.random.key(plain["seed"])
  tx = _transformation(plain, fed, jax.random.fold_in(key, _MASK_KEY))
  experiment = Experiment(
    config=plain,
    dataset=dataset,
    model=model,
    tx=tx,
    setup=_setup(plain, dataset, model, tx, steps),
    steps=steps,
    init_key=jax.random.fold_in(key, _MODEL_KEY),
    data_key=jax.random.fold_in(key, _DATA_KEY),
    target_sparsity=plain["method"].get("sparsity"),
    warnings=_late_schedules(plain, fed),
  )
  _try_init(experiment)
  return experiment


def resolved(config: ConfigDict) -> dict[str, Any]:
  """Turn a config into what `config.json` holds.

  Args:
    config: references and placeholders allowed.

  Returns:
    Nested dicts of plain values, keys sorted, tuples as lists.
  """

  def plain(value: Any) -> Any:
    if isinstance(value, dict):
      return {key: plain(value[key]) for key in sorted(value)}
    return list(value) if isinstance(value, tuple | list) else value

  return plain(config.copy_and_resolve_references().to_dict())


def _check_keys(plain: Mapping[str, Any]) -> None:
  """Refuses keys that nobody reads and misses those that a run needs."""
  known = [*_VALUES, *KINDS]
  for key in plain:
    if key not in known:
      raise errors.unknown("The config", key, known)
  for key in known:
    if plain.get(key) is None:
      raise errors.InputError(f"`config.{key}` is missing.")
  for key, kind in _VALUES.items():
    value = plain[key]
    if not isinstance(value, kind | int if kind is float else kind):
      raise errors.InputError(
        f"`config.{key}` must be of type {kind.__name__}, got {value!r}."
      )


def _steps(plain: Mapping[str, Any], examples: int) -> Steps:
  """Turns the durations of the config into steps."""
  _at_least(plain, "seed", 0)
  _at_least(plain, "log_every_steps", 1)
  _at_least(plain, "dispatch_steps", 1)
  _at_least(plain, "batch_size", 1)
  for key in ("epochs", "eval_every_epochs", "checkpoint_every_epochs"):
    if not 0 < plain[key] < float("inf"):
      raise errors.InputError(
        f"`config.{key}` must be above 0 and finite, got {plain[key]}."
      )
  batch_size, devices = plain["batch_size"], jax.device_count()
  if batch_size > examples:
    raise errors.InputError(
      f"`config.batch_size` must be at most {examples}, the training"
      f" examples, got {batch_size}."
    )
  if batch_size % devices:
    raise errors.InputError(
      f"`config.batch_size` must be a multiple of {devices}, the devices"
      f" that share a batch, got {batch_size}."
    )
  per_epoch = examples // batch_size

  def in_steps(key: str) -> int:
    return schema.to_steps(f"config.{key}", plain[key], per_epoch)

  total = in_steps("epochs")
  return Steps(
    total=total,
    per_epoch=per_epoch,
    dispatch=min(plain["dispatch_steps"], total),
    log_every=plain["log_every_steps"],
    eval_every=in_steps("eval_every_epochs"),
    checkpoint_every=in_steps("checkpoint_every_epochs"),
  )


def _at_least(plain: Mapping[str, Any], key: str, least: int) -> None:
  if plain[key] < least:
    raise errors.InputError(
      f"`config.{key}` must be at least {least}, got {plain[key]}."
    )


def _transformation(
  plain: Mapping[str, Any], fed: Mapping[str, Any], key: jax.Array
) -> optax.GradientTransformationExtraArgs:
  """Builds the inner optimizer and wraps the method around it."""
  inner = schema.call(
    KINDS["optimizer"], "config.optimizer", plain["optimizer"], fed
  )
  method = schema.call(KINDS["method"], "config.method", plain["method"], fed)
  return sparsejax.sparsify(
    inner,
    sparsejax.track_ever_active(method),
    key=key,
    select=plain["select"] or None,
    overrides={glob: "dense" for glob in plain["dense"]},
  )


def _setup(
  plain: Mapping[str, Any],
  dataset: Dataset,
  model: nn.Module,
  tx: optax.GradientTransformationExtraArgs,
  steps: Steps,
) -> step.Setup:
  return step.Setup(
    model=model,
    tx=tx,
    batch_size=plain["batch_size"],
    steps_per_epoch=steps.per_epoch,
    total_steps=steps.total,
    dispatch_steps=steps.dispatch,
    mean=dataset.mean,
    std=dataset.std,
    augment=dataset.augment,
  )


def _late_schedules(
  plain: Mapping[str, Any], fed: Mapping[str, Any]
) -> tuple[str, ...]:
  """Returns a warning for each event of the method after the last step."""
  given = schema.arguments(
    KINDS["method"], "config.method", plain["method"], fed
  )
  total = fed["total_steps"]
  return tuple(
    f"`config.method.{key}` is step {value}, after the last step {total} of"
    f" the run: the schedule does not end."
    for key, value in given.items()
    if key.endswith("_step") and isinstance(value, int) and value > total
  )


def _try_init(experiment: Experiment) -> None:
  """Initializes abstractly, so that what cannot work fails here."""
  try:
    jax.eval_shape(
      functools.partial(step.initial_state, experiment.setup),
      experiment.init_key,
      experiment.data_key,
      experiment.dataset.example,
    )
  except ValueError as error:
    raise errors.InputError(f"The experiment cannot start: {error}") from error
