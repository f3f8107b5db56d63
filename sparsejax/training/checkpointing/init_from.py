"""`config.init_from`: start from the weights and masks of a finished run.

    init_mode=rewind     its weights at `init_step` (0: the initial ones), saved
                         in its folder `weights`
    init_mode=lr_rewind  the weights and batch statistics of its result: of the
                         last step, or of the selected checkpoint
    init_mode=reinit     new initial weights, from another seed
    init_mode=budgets    new initial weights; only the sparsity of each layer is
                         that of the run's result, pruned by global magnitude
                         (`config.method.scope` or `distribution` is
                         `global_magnitude`)

In every mode the optimizer and its schedule start from scratch.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sparsejax import command_line, methods
from sparsejax.components import counts, leaves
from sparsejax.plots import records
from sparsejax.training import recipes, weight_layouts
from sparsejax.training.checkpointing import identity, reading, weights
from sparsejax.training.train_state import Weights

# The config keys that determine which parameters exist, and which are sparse.
_SHARED = ("model", "select", "dense")

BUDGETS = "budgets"


class SourceRun(NamedTuple):
  """A finished run, as read from its workdir.

  Attributes:
    workdir: its workdir.
    config: its resolved config.
    summary: its result.
  """

  workdir: pathlib.Path
  config: dict[str, Any]
  summary: dict[str, Any]

  @property
  def method(self) -> str:
    """The method that found the masks, through any number of retrainings."""
    return self.summary.get("init_method") or self.summary["method"]

  @property
  def selected_step(self) -> int:
    """The step that its result describes."""
    return self.summary.get("selected_step", self.summary["steps"])

  @property
  def first_step(self) -> int:
    """The step of the original run from which its weights were taken."""
    return self.summary.get("init_step") or 0


class Loaded(NamedTuple):
  """What a run starts from.

  Attributes:
    weights: dense weights.
    source: the sparse network of the source run.
  """

  weights: Weights
  source: recipes.SparseNetwork


class _Mode(NamedTuple):
  """A choice of `config.init_mode`.

  Attributes:
    check: (config, run) raises InputError if the mode cannot work.
    weights: (run, state of its result, step, new weights) -> the weights.
  """

  check: Callable[[Mapping[str, Any], SourceRun], None]
  weights: Callable[[SourceRun, Any, int, Weights], Weights]


def find(
  config: Mapping[str, Any], *, needs_init_from: bool
) -> SourceRun | None:
  """Find the run that a config starts from, and check that it fits.

  Args:
    config: the resolved config.
    needs_init_from: whether the method takes the masks of another run.

  Returns:
    The run; `None` if the config names none.

  Raises:
    InputError: if there is no such run, or it does not fit.
  """
  name, mode = config["init_from"], config["init_mode"]
  if mode not in (*MODES, BUDGETS):
    raise command_line.unknown("`config.init_mode`", mode, [*MODES, BUDGETS])
  method = config["method"]["name"]
  if needs_init_from and not name:
    raise command_line.InputError(
      f"`config.init_from` is missing: {method!r} trains the masks of another"
      " run. Give the workdir of that run."
    )
  if not name:
    return None
  if mode == BUDGETS:
    raise command_line.InputError(
      f"`config.init_mode` {BUDGETS!r} gives only the sparsity of each layer:"
      " set `config.method.scope` or `config.method.distribution` to"
      f" {methods.GLOBAL_MAGNITUDE!r}, or choose another mode."
    )
  if not needs_init_from:
    raise command_line.InputError(
      f"`config.init_from` is set, but {method!r} does not use the masks of"
      " another run. Only 'retrain', 'release', 'wanda', 'ria' and 'sparsegpt'"
      " do."
    )
  run = _fitting_run(config)
  _check_sparsity(config, run)
  MODES[mode].check(config, run)
  return run


def trained_params(config: Mapping[str, Any]) -> Any:
  """Returns the weights whose magnitudes set the sparsity of each layer.

  Args:
    config: the resolved config.

  Returns:
    The parameters of the result of `config.init_from`, as numpy arrays; `None`
    unless the method has budgets by global magnitude.

  Raises:
    InputError: if there is no such run, or it does not fit.
    CheckpointError: if it cannot be read.
  """
  method = config["method"]
  names = (method.get("scope"), method.get("distribution"))
  if methods.GLOBAL_MAGNITUDE not in names:
    return None
  if not config["init_from"] or config["init_mode"] != BUDGETS:
    raise command_line.InputError(
      f"{methods.GLOBAL_MAGNITUDE!r} prunes the weights of a finished dense run"
      " to find the sparsity of each layer. Give its workdir:"
      f" --config.init_from=RUN --config.init_mode={BUDGETS}."
    )
  run = _fitting_run(config)
  return _result(run)["params"]


def _fitting_run(config: Mapping[str, Any]) -> SourceRun:
  """Returns the finished run in `config.init_from`, if it has this model."""
  name = config["init_from"]
  command_line.refuse_url("`config.init_from`", name)
  run = _read_run(pathlib.Path(name))
  differ = identity.config_differences(_shared(run.config), _shared(config))
  if differ:
    raise command_line.InputError(
      f"`config.init_from` {name} does not fit: {identity.join(differ)}. Use"
      " the model and the selected leaves of that run."
    )
  return run


def load(run: SourceRun, mode: str, step: int, new: Weights) -> Loaded:
  """Load what a run starts from.

  Args:
    run: result of `find`.
    mode: one of `MODES`.
    step: the step to rewind to.
    new: newly initialized weights; what is loaded must match their leaves and
      shapes.

  Returns:
    Process-local arrays.

  Raises:
    InputError: if parameters or masks do not fit.
    CheckpointError: if they cannot be read.
  """
  result = _result(run)
  loaded = MODES[mode].weights(run, result, step, new)
  _check_leaves(run, loaded.params, new.params)
  _check_leaves(run, result["params"], new.params)
  try:
    leaves.sparse_flags(result["params"], result["masks"])
  except ValueError as error:
    raise command_line.InputError(
      f"`config.init_from` {run.workdir}: {error}"
    ) from error
  return Loaded(
    loaded, recipes.SparseNetwork(result["params"], result["masks"])
  )


def _result(run: SourceRun) -> dict[str, Any]:
  """Returns `params`, `masks` and `model_state` of a result, dense arrays."""
  found = reading.read(run.workdir, run.selected_step)
  params, masks = weight_layouts.dense_network(
    found["params"], found["opt_state"]["masks"]
  )
  return {"params": params, "masks": masks, "model_state": found["model_state"]}


def _read_run(workdir: pathlib.Path) -> SourceRun:
  """Reads the config and the summary of a finished run."""
  if not (workdir / records.CONFIG).is_file():
    raise command_line.InputError(
      f"`config.init_from` {workdir} is not the workdir of a run: there is no"
      f" {records.CONFIG}."
    )
  summary = records.read_summary(workdir)
  if summary is None:
    raise command_line.InputError(
      f"`config.init_from` {workdir} is a run that is not finished. Run its"
      " command again to finish it."
    )
  return SourceRun(workdir, records.read_config(workdir), summary)


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the part of a config that both runs must share."""
  shared = {key: config[key] for key in _SHARED if key in config}
  # The same network, whichever way its weights lie in memory.
  network = {k: v for k, v in shared.get("model", {}).items() if k != "layout"}
  return {**shared, "model": network, "data": {"name": config["data"]["name"]}}


def _check_sparsity(config: Mapping[str, Any], run: SourceRun) -> None:
  requested, summary = config["method"].get("sparsity"), run.summary
  if requested is None:
    return
  count = counts.requested_count(summary["total"], requested)
  if count > summary["active"]:
    raise command_line.InputError(
      f"`config.method.sparsity` of {requested} requires {count} weights, but"
      f" the mask in {run.workdir} has {summary['active']} (sparsity"
      f" {summary['sparsity']:.6g}). Raise it, or use none to keep the mask as"
      " it is."
    )


def _check_leaves(run: SourceRun, there: Any, here: Any) -> None:
  """Refuses parameters with other names, shapes or dtypes."""
  differ = identity.leaf_differences(
    identity.signatures(there), identity.signatures(here)
  )
  if differ:
    raise command_line.InputError(
      f"`config.init_from` {run.workdir} has another network:"
      f" {identity.join(differ)}."
    )


def _check_saved(config: Mapping[str, Any], run: SourceRun) -> None:
  saved = weights.saved_steps(run.workdir)
  if config["init_step"] not in saved:
    raise command_line.InputError(
      f"`config.init_step` is {config['init_step']}, but {run.workdir} saved"
      f" weights of the steps {saved}. A run saves those of"
      " `config.keep_steps`."
    )


def _check_no_step(config: Mapping[str, Any], run: SourceRun) -> None:
  del run  # Any run will do.
  if config["init_step"]:
    raise command_line.InputError(
      f"`config.init_step` of {config['init_step']} requires"
      f" `config.init_mode` 'rewind', got {config['init_mode']!r}."
    )


def _check_seed(config: Mapping[str, Any], run: SourceRun) -> None:
  _check_no_step(config, run)
  if config["seed"] == run.config["seed"]:
    raise command_line.InputError(
      f"`config.seed` must differ from {config['seed']}, the seed of"
      f" {run.workdir}: the same seed gives the same initial weights."
    )


def _rewound(run: SourceRun, result: Any, step: int, new: Weights) -> Weights:
  del result, new  # Replaced by saved weights.
  return weights.read(run.workdir, step)


def _trained(run: SourceRun, result: Any, step: int, new: Weights) -> Weights:
  del run, step, new  # Replaced by the result.
  return Weights(result["params"], result["model_state"])


def _new(run: SourceRun, result: Any, step: int, new: Weights) -> Weights:
  del run, result, step  # Only the masks are used.
  return new


MODES = {
  "rewind": _Mode(_check_saved, _rewound),
  "lr_rewind": _Mode(_check_no_step, _trained),
  "reinit": _Mode(_check_seed, _new),
}
"""Choices of `config.init_mode` that start from a run's weights or masks."""
