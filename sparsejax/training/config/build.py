"""The only reader of a config: checks it before any compile."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict, config_dict

import sparsejax
from sparsejax import command_line, methods
from sparsejax.components import trees
from sparsejax.data import DATASETS, Dataset
from sparsejax.models import MODELS
from sparsejax.training import (
  flops,
  lr_schedules,
  metric,
  optimizers,
  plans,
  step,
)
from sparsejax.training.checkpointing import init_from
from sparsejax.training.config import schema
from sparsejax.updates import gradients

KINDS = {
  "method": schema.Kind(
    "method",
    {**methods.METHODS, **plans.METHODS},
    named={
      "curve": methods.CURVES,
      "distribution": methods.DISTRIBUTIONS,
      "regrow_by": methods.REGROW_BY,
      "scope": methods.SCOPES,
      "storage": methods.STORAGES,
    },
  ),
  "model": schema.Kind("model", MODELS),
  "optimizer": schema.Kind(
    "optimizer",
    optimizers.OPTIMIZERS,
    named={"schedule": lr_schedules.SCHEDULES},
  ),
  "data": schema.Kind("data", DATASETS),
}
_VALUES = {
  "seed": int,
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
  "select": list,
  "dense": list,
  "sparsities": list,
  "keep_steps": list,
  "init_mode": str,
  "init_step": int,
  "select_checkpoint": str,
}
_OPTIONAL = {"init_from": str, "metric": str}
# Which state of a run its result is of.
_CHECKPOINTS = ("last", "best")
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
    kept: steps whose weights are kept for later runs.
  """

  total: int
  per_epoch: int
  dispatch: int
  log_every: int
  eval_every: int
  checkpoint_every: int
  kept: tuple[int, ...]


class Experiment(NamedTuple):
  """Everything that a run needs to know.

  Attributes:
    config: the resolved config as plain JSON values.
    dataset: numpy arrays.
    plan: what the method asks of the run.
    earlier: the run whose weights and masks this one starts from, or `None`.
    model: the Flax module.
    setup: the static side of the compiled step.
    steps: when things happen.
    init_key: typed key of the first parameters.
    data_key: typed key of order and augmentation.
    mask_key: typed key of the masks.
    prices: what the network costs.
    target_sparsity: what the method is requested; `None` where it has none.
    warnings: what is allowed and probably not meant.
  """

  config: dict[str, Any]
  dataset: Dataset
  plan: plans.Plan
  earlier: init_from.Earlier | None
  model: nn.Module
  setup: step.Setup
  steps: Steps
  init_key: jax.Array
  data_key: jax.Array
  mask_key: jax.Array
  prices: flops.Prices
  target_sparsity: float | None
  warnings: tuple[str, ...]

  @property
  def select(self) -> tuple[str, ...] | None:
    """Which leaves are sparse, as `sparsify` takes it."""
    return tuple(self.config["select"]) or None

  @property
  def overrides(self) -> dict[str, str | float]:
    """What stays dense or has a sparsity of its own, as `sparsify` takes it."""
    return _overrides(self.config)


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


def build(config: ConfigDict, data: Dataset | None = None) -> Experiment:
  """Turn a config into an experiment.

  Args:
    config: as a file in `configs/` makes it, overrides included.
    data: what is trained on; that of the config where it is `None`.

  Returns:
    The experiment. Nothing is compiled yet.

  Raises:
    InputError: if anything in the config cannot work.
  """
  plain = resolved(config)
  _check_keys(plain)
  timed = _stretched(plain)
  dataset = data or _dataset(plain)
  steps = _steps(timed, dataset.train.examples)
  fed = {
    "classes": dataset.classes,
    "total_steps": steps.total,
    "steps_per_epoch": steps.per_epoch,
    "epochs": -(-steps.total // steps.per_epoch),
  }
  inner = schema.call(
    KINDS["optimizer"], "config.optimizer", plain["optimizer"], fed
  )
  of_optimizer = schema.arguments(
    KINDS["optimizer"], "config.optimizer", plain["optimizer"], fed
  )
  fed |= dict.fromkeys(schema.LIKE_WEIGHTS, optimizers.rate(**of_optimizer))
  plan = plans.plan_of(
    schema.call(KINDS["method"], "config.method", timed["method"], fed)
  )
  source = metric.source(
    plain["metric"],
    plan.method,
    validates=dataset.validation is not None,
  )
  steps = _on_grid(steps, plain, source)
  before = init_from.look(plain, retrains=plan.retrains)
  model, configured = _models(plain, fed, plan, dataset)
  key = jax.random.key(plain["seed"])
  mask_key = jax.random.fold_in(key, _MASK_KEY)
  tx_with = _transformation(plain, inner, plan.method, mask_key)
  setup = _setup(plain, dataset, model, plan.method, tx_with, steps, source)
  init_key = jax.random.fold_in(key, _MODEL_KEY)
  data_key = jax.random.fold_in(key, _DATA_KEY)
  return Experiment(
    config=plain,
    dataset=dataset,
    plan=plan,
    earlier=before,
    model=model,
    setup=setup,
    steps=steps,
    init_key=init_key,
    data_key=data_key,
    mask_key=mask_key,
    prices=_prices(setup, configured, init_key, data_key, dataset.example),
    target_sparsity=_target(plan, before),
    warnings=_late_schedules(timed, fed),
  )


def usual() -> dict[str, Any]:
  """Returns the keys of a config that most runs leave as they are.

  Returns:
    `init_from`, `init_mode` and `init_step`: the earlier run to start from,
    how (`earlier` has the ways), and at which of its steps; `keep_steps`: steps
    whose weights are kept for such runs, on the grid of `dispatch_steps`;
    `epochs_multiplier`: how much later the run and its milestones end;
    `metric`: what a method is told that follows how well the epochs went
    (`metric.source` has the rule); `microbatches`: parts of a batch whose
    gradients are taken one after the other; `sparsities`: layers with a
    sparsity of their own, as `("classifier/*=0.8",)`, which the others make up
    for; `select_checkpoint`: the state that the result, and a later run, takes:
    "last", or "best", the checkpoint of highest accuracy among those with the
    fewest active weights, on the validation part where there is one and else on
    the test split.
  """
  return {
    "microbatches": 1,
    "sparsities": (),
    "metric": config_dict.placeholder(str),
    "init_from": config_dict.placeholder(str),
    "init_mode": "rewind",
    "init_step": 0,
    "keep_steps": (0,),
    "epochs_multiplier": 1.0,
    "select_checkpoint": "last",
  }


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
  needed = [*_VALUES, *KINDS]
  known = [*needed, *_OPTIONAL]
  for key in plain:
    if key not in known:
      raise command_line.unknown("The config", key, known)
  for key in known:
    if key not in plain or (plain[key] is None and key in needed):
      raise command_line.InputError(f"`config.{key}` is missing.")
  for key, kind in _VALUES.items():
    value = plain[key]
    if not isinstance(value, kind | int if kind is float else kind):
      raise command_line.InputError(
        f"`config.{key}` must be of type {kind.__name__}, got {value!r}."
      )
  selected = plain["select_checkpoint"]
  if selected not in _CHECKPOINTS:
    raise command_line.unknown(
      "`config.select_checkpoint`", selected, _CHECKPOINTS
    )


def _steps(plain: Mapping[str, Any], examples: int) -> Steps:
  """Turns the durations of the config into steps."""
  _at_least(plain, "seed", 0)
  _at_least(plain, "log_every_steps", 1)
  _at_least(plain, "dispatch_steps", 1)
  _at_least(plain, "batch_size", 1)
  _at_least(plain, "microbatches", 1)
  for key in ("label_smoothing", "ema_decay"):
    if not 0 <= plain[key] < 1:
      raise command_line.InputError(
        f"`config.{key}` must be in [0, 1), got {plain[key]}."
      )
  for key in ("epochs", "eval_every_epochs", "checkpoint_every_epochs"):
    if not 0 < plain[key] < float("inf"):
      raise command_line.InputError(
        f"`config.{key}` must be above 0 and finite, got {plain[key]}."
      )
  batch_size, devices = plain["batch_size"], jax.device_count()
  microbatches = plain["microbatches"]
  if batch_size > examples:
    raise command_line.InputError(
      f"`config.batch_size` must be at most {examples}, the training"
      f" examples, got {batch_size}."
    )
  if batch_size % devices:
    raise command_line.InputError(
      f"`config.batch_size` must be a multiple of {devices}, the devices"
      f" that share a batch, got {batch_size}."
    )
  if batch_size // devices % microbatches:
    raise command_line.InputError(
      f"`config.microbatches` must divide {batch_size // devices}, the examples"
      f" of a batch on each device, got {microbatches}."
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
    kept=(),
  )


def _on_grid(
  steps: Steps, plain: Mapping[str, Any], source: str | None
) -> Steps:
  """Settles where dispatches end, and checks what has to fall on that grid.

  Where the validation part is judged for the method, they end with every epoch:
  as long as an epoch where they would not.
  """
  dispatch = steps.dispatch
  if metric.is_judged(source) and steps.per_epoch % dispatch:
    dispatch = min(steps.per_epoch, steps.total)
  kept = _kept_steps(plain, dispatch, steps.total)
  return steps._replace(dispatch=dispatch, kept=kept)


def _stretched(plain: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the config of extended training: what ends, ends later.

  The run is longer, and so is all of the method and the optimizer that happens
  at a certain time; intervals (`every_steps`) stay.
  """
  multiplier = plain["epochs_multiplier"]
  if not 0 < multiplier < float("inf"):
    raise command_line.InputError(
      "`config.epochs_multiplier` must be above 0 and finite, got"
      f" {multiplier}."
    )

  def later(key: str, value: Any) -> Any:
    if isinstance(value, list):
      return [later(key, item) for item in value]
    *words, unit = key.split("_")
    fixed = "every" in words or not isinstance(value, int | float)
    if unit == "epochs" and not fixed:
      return value * multiplier
    if unit in ("step", "steps") and not fixed:
      return round(value * multiplier)
    return value

  def section(name: str) -> dict[str, Any]:
    return {key: later(key, value) for key, value in plain[name].items()}

  return {
    **plain,
    "epochs": plain["epochs"] * multiplier,
    "method": section("method"),
    "optimizer": section("optimizer"),
  }


def _kept_steps(
  plain: Mapping[str, Any], dispatch: int, total: int
) -> tuple[int, ...]:
  """Returns the steps whose weights are kept; a dispatch ends at each."""
  for at in plain["keep_steps"]:
    if not isinstance(at, int) or not (
      0 <= at <= total and (at % dispatch == 0 or at == total)
    ):
      raise command_line.InputError(
        f"`config.keep_steps` must hold multiples of {dispatch},"
        f" `config.dispatch_steps`, up to {total}, the last step, got {at}."
      )
  return tuple(plain["keep_steps"])


def _overrides(plain: Mapping[str, Any]) -> dict[str, str | float]:
  """Returns what the config says of single layers, as `sparsify` takes it."""
  found: dict[str, str | float] = {}
  for item in plain["sparsities"]:
    glob, _, value = str(item).rpartition("=")
    try:
      found[glob] = float(value)
    except ValueError:
      glob = ""
    if not glob:
      raise command_line.InputError(
        f"`config.sparsities` must hold items like 'classifier/*=0.8', got"
        f" {item!r}."
      )
  return found | {glob: "dense" for glob in plain["dense"]}


def _at_least(plain: Mapping[str, Any], key: str, least: int) -> None:
  if plain[key] < least:
    raise command_line.InputError(
      f"`config.{key}` must be at least {least}, got {plain[key]}."
    )


def _dataset(plain: Mapping[str, Any]) -> Dataset:
  return schema.call(KINDS["data"], "config.data", plain["data"], {})


def _models(
  plain: Mapping[str, Any],
  fed: Mapping[str, Any],
  plan: plans.Plan,
  dataset: Dataset,
) -> tuple[nn.Module, nn.Module]:
  """Returns what the plan makes of the config's model, and that model."""

  def make(**changes: Any) -> nn.Module:
    values = {**plain["model"], **changes}
    return schema.call(KINDS["model"], "config.model", values, fed)

  def params_of(model: nn.Module) -> Any:
    image = jax.ShapeDtypeStruct(dataset.example.shape, jnp.float32)
    variables = jax.eval_shape(
      functools.partial(model.init, train=False), jax.random.key(0), image
    )
    return variables["params"]

  def sparse(model: nn.Module) -> int:
    params = params_of(model)
    chosen = trees.select_leaves(params, plain["select"] or None)
    return sum(trees.layout(params, chosen, _overrides(plain)).sizes)

  def parameters(model: nn.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params_of(model)))

  try:
    return plan.model(make, plans.Size(sparse, parameters)), make()
  except ValueError as error:
    raise command_line.InputError(f"`config.method`: {error}") from error


def _target(plan: plans.Plan, before: init_from.Earlier | None) -> float | None:
  """Returns the requested sparsity, that of the earlier run where none is given."""
  if plan.method.target_sparsity is None and before is not None:
    return before.summary["target_sparsity"]
  return plan.method.target_sparsity


def _transformation(
  plain: Mapping[str, Any],
  inner: optax.GradientTransformation,
  method: sparsejax.Method,
  key: jax.Array,
) -> Callable[[Any], optax.GradientTransformationExtraArgs]:
  """Puts the method around the optimizer, given first masks."""
  return lambda masks: sparsejax.sparsify(
    inner,
    sparsejax.track_ever_active(method),
    key=key,
    select=plain["select"] or None if masks is None else None,
    overrides=_overrides(plain),
    masks=masks,
  )


def _setup(
  plain: Mapping[str, Any],
  dataset: Dataset,
  model: nn.Module,
  method: sparsejax.Method,
  tx_with: Callable[[Any], optax.GradientTransformationExtraArgs],
  steps: Steps,
  source: str | None,
) -> step.Setup:
  return step.Setup(
    model=model,
    tx=tx_with(None),
    tx_with=tx_with,
    batch_size=plain["batch_size"],
    steps_per_epoch=steps.per_epoch,
    total_steps=steps.total,
    dispatch_steps=steps.dispatch,
    mean=dataset.mean,
    std=dataset.std,
    augment=dataset.augment,
    label_smoothing=plain["label_smoothing"],
    ema_decay=plain["ema_decay"],
    dense_gradient=gradients.dense_gradient(method),
    metric=source,
    microbatches=plain["microbatches"],
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


def _prices(
  setup: step.Setup,
  configured: nn.Module,
  init_key: jax.Array,
  data_key: jax.Array,
  example: Any,
) -> flops.Prices:
  """Traces the network, so that what cannot work fails here.

  Ratios are to the config's model, where a narrower one is trained as well.
  """
  image = jax.ShapeDtypeStruct(example.shape, jnp.float32)

  def prices_of(setup: step.Setup) -> flops.Prices:
    state = jax.eval_shape(
      functools.partial(step.initial_state, setup), init_key, data_key, example
    )
    return flops.prices(
      setup.model,
      {"params": state.params, **state.model_state},
      jax.eval_shape(sparsejax.get_masks, state.opt_state),
      image,
      batch_size=setup.batch_size,
    )

  try:
    found = prices_of(setup)
    if setup.model == configured:
      return found
    whole = prices_of(setup._replace(model=configured))
    return found._replace(reference=whole.reference)
  except ValueError as error:
    raise command_line.InputError(
      f"The experiment cannot start: {error}"
    ) from error
