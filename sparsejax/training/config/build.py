"""Build an experiment from a config, before anything is compiled."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

import sparsejax
from sparsejax import command_line
from sparsejax.analysis import coupling
from sparsejax.components import leaves, trees
from sparsejax.components.counts import INT32_MAX
from sparsejax.data import Dataset, Stream
from sparsejax.tasks import Task
from sparsejax.training import (
  metric,
  optimizers,
  recipes,
  run_flops,
  sharding,
  train_state,
  weight_layouts,
  weight_sharding,
)
from sparsejax.training.checkpointing import init_from
from sparsejax.training.config import keys, schema, sections, steps as when
from sparsejax.training.config.experiment import Experiment, overrides
from sparsejax.updates import orders, requested

# One key per purpose, folded from the seed.
_MODEL_KEY, _DATA_KEY, _MASK_KEY = range(3)


def build(
  config: ConfigDict,
  data: Dataset | None = None,
  *,
  wrap: Callable[[Any], Any] = lambda inner: inner,
) -> Experiment:
  """Build an experiment from a config.

  Args:
    config: as a config file returns it, with overrides applied.
    data: the data set; the config's by default.
    wrap: changes the optimizer, before `sparsify` wraps it.

  Returns:
    The experiment. Nothing is compiled yet.

  Raises:
    InputError: if the config cannot work.
  """
  resolved = keys.resolved(config)
  extended = when.extended(resolved)
  dataset = data or _call("data", resolved, {})
  seeds = keys.seeds(resolved)
  if len(seeds) > 1:
    _check_together(resolved, dataset)
  steps = when.steps(extended, dataset.train.examples)
  provided = _provided(dataset, steps)
  inner = wrap(_call("optimizer", resolved, provided))
  in_optimizer = _arguments("optimizer", resolved, provided)
  provided["learning_rate"] = optimizers.learning_rate_schedule(**in_optimizer)
  provided["groups"] = _groups(resolved, provided, dataset)
  provided["trained_params"] = init_from.trained_params(resolved)
  recipe = recipes.as_recipe(_call("method", extended, provided))
  layout = _layout(resolved, recipe)
  source = metric.source(
    resolved["metric"],
    recipe.method,
    dataset.task,
    validates=dataset.validation is not None,
  )
  steps = when.with_kept(steps, resolved["keep_steps"])
  before = None
  if provided["trained_params"] is None:
    before = init_from.find(resolved, needs_init_from=recipe.needs_init_from)
  model, configured = _models(resolved, provided, recipe, dataset)
  init_key, data_key, mask_key = _keys(resolved["seed"])
  rules = overrides(resolved, model, _names(_params(model, dataset)))
  tx_with = _transformation(
    resolved, inner, recipe.method, mask_key, rules, layout
  )
  setup = _setup(resolved, dataset, steps, model, tx_with)._replace(
    dense_gradient=recipe.method.dense_gradient,
    metric=source,
    layout=layout,
    mask_update_steps=_mask_update_steps(recipe.method, steps.total),
    replicas=len(seeds),
  )
  experiment = Experiment(
    config=resolved,
    dataset=dataset,
    recipe=recipe,
    source_run=before,
    model=model,
    inner=inner,
    setup=setup,
    steps=steps,
    init_key=init_key,
    data_key=data_key,
    mask_key=mask_key,
    costs=_model_costs(setup, configured, init_key, data_key, dataset.example),
    overrides=rules,
    target_sparsity=_target(recipe, before),
    warnings=_late_schedules(extended, provided),
  )
  if len(seeds) == 1:
    return experiment
  of_seeds = tuple(_of_seed(experiment, seed) for seed in seeds)
  return experiment._replace(of_seeds=of_seeds)


def _keys(seed: int) -> list[jax.Array]:
  """Returns the keys of parameters, data and masks."""
  key = jax.random.key(seed)
  return [
    jax.random.fold_in(key, purpose)
    for purpose in (_MODEL_KEY, _DATA_KEY, _MASK_KEY)
  ]


def _of_seed(experiment: Experiment, seed: int) -> Experiment:
  """Returns the experiment of one seed: only its keys are others."""
  config = keys.of_seed(experiment.config, seed)
  init_key, data_key, mask_key = _keys(seed)
  setup = experiment.setup
  tx_with = _transformation(
    config,
    experiment.inner,
    experiment.recipe.method,
    mask_key,
    experiment.overrides,
    setup.layout,
  )
  return experiment._replace(
    config=config,
    init_key=init_key,
    data_key=data_key,
    mask_key=mask_key,
    setup=setup._replace(tx=tx_with(None), tx_from_masks=tx_with, replicas=1),
  )


def _check_together(config: Mapping[str, Any], dataset: Dataset) -> None:
  """Raises `InputError` where several seeds cannot train in one program."""
  devices, data = jax.device_count(), config["data"]["name"]
  found = {
    f"there are {devices} devices": devices > 1,
    f"{data!r} is read from disk while training": isinstance(
      dataset.train, Stream
    ),
    "`config.model.layout` of 'sparse' holds the weights of one network": (
      config["model"].get("layout") == "sparse"
    ),
    "the best checkpoint (`config.select_checkpoint`) is another one for each"
    " seed": config["select_checkpoint"] == "best",
  }
  for why, holds in found.items():
    if holds:
      raise command_line.InputError(
        f"`config.seeds` must be 1, because {why}, got {config['seeds']}. Train"
        " each seed by itself: --config.seed=N."
      )


def _call(
  kind: str, config: Mapping[str, Any], provided: Mapping[str, Any]
) -> Any:
  return schema.call(
    sections.KINDS[kind], f"config.{kind}", config[kind], provided
  )


def _arguments(
  kind: str, config: Mapping[str, Any], provided: Mapping[str, Any]
) -> dict[str, Any]:
  return schema.arguments(
    sections.KINDS[kind], f"config.{kind}", config[kind], provided
  )


def _provided(dataset: Dataset, steps: when.Steps) -> dict[str, Any]:
  """Returns the values that factories get from the run."""
  return {
    **dataset.provided,
    "total_steps": steps.total,
    "steps_per_epoch": steps.per_epoch,
    "epochs": -(-steps.total // steps.per_epoch),
  }


def _groups(
  config: Mapping[str, Any], provided: Mapping[str, Any], dataset: Dataset
) -> coupling.Groups | None:
  """Traces which channels of the config's model belong together.

  None where the granularity does not ask for them.
  """
  kind = sections.KINDS["method"].nested["granularity"]
  given = config["method"].get("granularity")
  name = str(given.get("name")) if isinstance(given, Mapping) else ""
  if name not in kind.factories or not schema.takes(kind, name, "groups"):
    return None
  model = _call("model", config, provided)
  inputs = _inputs(dataset.task, dataset.example)
  shapes = jax.eval_shape(
    functools.partial(model.init, train=False), jax.random.key(0), inputs
  )
  rest = {
    key: jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), value)
    for key, value in shapes.items()
    if key != "params"
  }
  return coupling.coupling(
    lambda params, x: model.apply({"params": params, **rest}, x, train=False),
    shapes["params"],
    inputs,
  )


def _models(
  config: Mapping[str, Any],
  provided: Mapping[str, Any],
  recipe: recipes.Recipe,
  dataset: Dataset,
) -> tuple[nn.Module, nn.Module]:
  """Returns the recipe's version of the config's model, and that model."""

  def make(**changes: Any) -> nn.Module:
    changed = {"model": {**config["model"], **changes}}
    return _call("model", changed, provided)

  def sparse(model: nn.Module) -> int:
    select = config["select"] or None
    params = _params(model, dataset)
    rules = overrides(config, model, _names(params))
    return sum(leaves.find_layout(params, select, rules).sizes)

  def parameters(model: nn.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(_params(model, dataset)))

  configured = make()  # Checks `config.model` by itself.
  mesh = sharding.make_mesh(config["mesh"])
  weight_sharding.shardings(
    _params(configured, dataset), mesh, config["mesh"]["rules"]
  )
  for name, leaf in trees.named_leaves(_params(configured, dataset)):
    if leaf.size > INT32_MAX:
      raise command_line.InputError(
        f"`config.model` has {leaf.size} weights in {name}, but counts of a"
        f" parameter end at {INT32_MAX}. Use a narrower model."
      )
  try:
    size = recipes.ModelSize(sparse, parameters)
    return recipe.build_model(make, size), configured
  except ValueError as error:
    raise command_line.InputError(f"`config.method`: {error}") from error


def _params(model: nn.Module, dataset: Dataset) -> Any:
  """Returns the shapes of the parameters."""
  variables = jax.eval_shape(
    functools.partial(model.init, train=False),
    jax.random.key(0),
    _inputs(dataset.task, dataset.example),
  )
  return variables["params"]


def _names(params: Any) -> list[str]:
  return [name for name, _ in trees.named_leaves(params)]


def _target(
  recipe: recipes.Recipe, before: init_from.SourceRun | None
) -> float | None:
  """Returns the requested sparsity: the method's, else that of `init_from`."""
  if recipe.method.target_sparsity is None and before is not None:
    return before.summary["target_sparsity"]
  return recipe.method.target_sparsity


def _layout(
  config: Mapping[str, Any], recipe: recipes.Recipe
) -> weight_layouts.WeightLayout:
  """Returns the layout of the model's weights; checks that it can be had."""
  name = config["model"].get("layout", "masked")
  layout = weight_layouts.LAYOUTS[name]
  if layout is weight_layouts.MASKED:
    return layout
  method = config["method"]["name"]
  try:
    layout.check(recipe.method)
    if recipe.initial_masks is not None:
      raise ValueError(
        "its masks are computed before the first step. Use 'set' or 'static',"
        " or the layout 'masked'."
      )
  except ValueError as error:
    raise command_line.InputError(
      f"`config.model.layout` {name!r} does not fit the method {method!r}:"
      f" {error}"
    ) from error
  refused = {
    "`config.ema_decay` must be 0": config["ema_decay"] != 0,
    "`config.keep_steps` must hold no step but 0": any(config["keep_steps"]),
    "`config.mesh` must have 1 for fsdp and tensor": any(
      config["mesh"][axis] != 1 for axis in ("fsdp", "tensor")
    ),
  }
  for rule, breaks in refused.items():
    if breaks:
      raise command_line.InputError(
        f"{rule} where `config.model.layout` is {name!r}: its weights are no"
        " dense arrays."
      )
  return layout


def _transformation(
  config: Mapping[str, Any],
  inner: optax.GradientTransformation,
  method: sparsejax.Method,
  key: jax.Array,
  rules: Mapping[str, Any],
  layout: weight_layouts.WeightLayout,
) -> Callable[[Any], sparsejax.SparseTransformation]:
  """Returns initial masks -> the method around the optimizer."""
  sharded = sharding.shards_weights(config["mesh"])
  return lambda masks: layout.sparsify(
    inner,
    method,
    key=key,
    select=config["select"] or None if masks is None else None,
    overrides=rules,
    masks=masks,
    sharded=sharded,
  )


def _setup(
  config: Mapping[str, Any],
  dataset: Dataset,
  steps: when.Steps,
  model: nn.Module,
  tx_with: Callable[[Any], sparsejax.SparseTransformation],
) -> train_state.Setup:
  return train_state.Setup(
    model=model,
    task=_task(config, dataset.task),
    tx=tx_with(None),
    tx_from_masks=tx_with,
    batch_size=config["batch_size"],
    steps_per_epoch=steps.per_epoch,
    total_steps=steps.total,
    dispatch_steps=steps.dispatch,
    label_smoothing=config["label_smoothing"],
    ema_decay=config["ema_decay"],
    microbatches=config["microbatches"],
  )


def _task(config: Mapping[str, Any], task: Task) -> Task:
  """Returns the task; raises `InputError` if it has no labels to smooth."""
  if config["label_smoothing"] and task.smoothed is None:
    raise command_line.InputError(
      f"`config.label_smoothing` must be 0, because the task {task.name!r} has"
      f" no labels to smooth, got {config['label_smoothing']}."
    )
  return task


def _inputs(task: Task, example: Any) -> Any:
  """Returns the shapes of the inputs of one example."""
  return jax.eval_shape(functools.partial(task.draw, None), example).inputs


def _mask_update_steps(method: sparsejax.Method, total: int) -> int:
  """Returns the interval of the updates between steps; 0 if there are none."""
  if not orders.between_steps(method):
    return 0
  due = np.flatnonzero(requested.due_steps(method, total))
  return math.gcd(*due.tolist()) or total


def _late_schedules(
  config: Mapping[str, Any], provided: Mapping[str, Any]
) -> tuple[str, ...]:
  """Returns a warning for each event of the method after the last step."""
  total = provided["total_steps"]
  return tuple(
    f"`config.method.{key}` is step {value}, after the last step {total} of"
    f" the run: the schedule does not end."
    for key, value in _arguments("method", config, provided).items()
    if key.endswith("_step") and isinstance(value, int) and value > total
  )


def _model_costs(
  setup: train_state.Setup,
  configured: nn.Module,
  init_key: jax.Array,
  data_key: jax.Array,
  example: Any,
) -> run_flops.ModelCosts:
  """Traces the network, so that what cannot work fails here.

  Ratios are to the config's model, even if a narrower one is trained.
  """
  inputs = _inputs(setup.task, example)

  def costs_of(setup: train_state.Setup) -> run_flops.ModelCosts:
    state = jax.eval_shape(
      functools.partial(train_state.init, setup), init_key, data_key, example
    )
    masks = jax.eval_shape(sparsejax.get_masks, state.opt_state)
    params = setup.layout.shapes(state.params, state.opt_state)
    if not jax.tree.leaves(masks):
      raise ValueError(
        "`config.dense` leaves no sparse layer. Leave one out, or train the"
        " method 'dense'."
      )
    return run_flops.model_costs(
      setup.model,
      {"params": params, **state.model_state},
      masks,
      inputs,
      batch_size=setup.batch_size,
    )

  try:
    found = costs_of(setup)
    if setup.model == configured:
      return found
    whole = costs_of(setup._replace(model=configured))
    return found._replace(reference_macs=whole.reference_macs)
  except ValueError as error:
    raise command_line.InputError(
      f"The experiment cannot start: {error}"
    ) from error
