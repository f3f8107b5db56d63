"""An earlier run, to be trained again: does it fit, and what it left behind.

    init_mode=rewind     its weights of `init_step` (0: the first ones), which
                         it kept in the folder `weights`
    init_mode=lr_rewind  weights and batch statistics of its result: of the
                         last step, or of the one that it selected
    init_mode=reinit     newly drawn weights, of another seed

The optimizer and its schedule start anew in all of them.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from sparsejax import command_line
from sparsejax.components import trees
from sparsejax.selection import search
from sparsejax.training import plans, step
from sparsejax.training.checkpointing import checkpoints, identity
from sparsejax.training.reporting import records

WEIGHTS = "weights"
"""The folder of the weights that a run keeps, by step."""

# What of a config decides which parameters there are, and which are sparse.
_SHARED = ("model", "select", "dense")


class Earlier(NamedTuple):
  """A run that is done, as its records tell of it.

  Attributes:
    workdir: its folder.
    config: its resolved config.
    summary: its result.
  """

  workdir: pathlib.Path
  config: dict[str, Any]
  summary: dict[str, Any]

  @property
  def method(self) -> str:
    """The method that found its masks, over any number of retrainings."""
    return self.summary.get("init_method") or self.summary["method"]

  @property
  def selected_step(self) -> int:
    """The step that its result is of."""
    return self.summary.get("selected_step", self.summary["steps"])

  @property
  def first_step(self) -> int:
    """The step of the very first run whose weights this one began with."""
    return self.summary.get("init_step") or 0


class Left(NamedTuple):
  """What a run starts from: weights, and what an earlier run found."""

  weights: step.Weights
  found: plans.Found | None


class _Mode(NamedTuple):
  """A way to start from an earlier run.

  Attributes:
    check: (config, run) raises InputError where it cannot work.
    weights: (run, state of its result, step, drawn weights) -> the weights.
  """

  check: Callable[[Mapping[str, Any], Earlier], None]
  weights: Callable[[Earlier, Any, int, step.Weights], step.Weights]


def look(plain: Mapping[str, Any], *, retrains: bool) -> Earlier | None:
  """Look for the run that a config starts from, and refuse what cannot fit.

  Args:
    plain: the resolved config.
    retrains: whether its method takes the masks of an earlier run.

  Returns:
    The run; `None` where the config starts from nothing.

  Raises:
    InputError: if there is no such run, or something of it does not fit.
  """
  name, mode = plain["init_from"], plain["init_mode"]
  if mode not in MODES:
    raise command_line.unknown("`config.init_mode`", mode, MODES)
  method = plain["method"]["name"]
  if retrains and not name:
    raise command_line.InputError(
      f"`config.init_from` is missing: {method!r} trains the mask of an"
      " earlier run. Give that run's workdir."
    )
  if not name:
    return None
  if not retrains:
    raise command_line.InputError(
      f"`config.init_from` is given, but {method!r} takes no mask of an"
      " earlier run. 'retrain' does."
    )
  earlier = _records(pathlib.Path(name))
  differ = identity.differences(_shared(earlier.config), _shared(plain))
  if differ:
    raise command_line.InputError(
      f"`config.init_from` {name} does not fit: {identity.told(differ)}. Give"
      " the model and the selection of that run."
    )
  _check_sparsity(plain, earlier)
  MODES[mode].check(plain, earlier)
  return earlier


def load(
  earlier: Earlier, mode: str, at_step: int, drawn: step.Weights
) -> Left:
  """Read what a run starts from.

  Args:
    earlier: as `look` found it.
    mode: one of `MODES`.
    at_step: the step to rewind to.
    drawn: newly drawn weights; what is read has their leaves and shapes.

  Returns:
    Arrays in this process.

  Raises:
    InputError: if parameters or masks do not fit.
    CheckpointError: if they cannot be read.
  """
  last = checkpoints.read(earlier.workdir, earlier.selected_step)
  weights = MODES[mode].weights(earlier, last, at_step, drawn)
  _check_leaves(earlier, weights.params, drawn.params)
  _check_leaves(earlier, last["params"], drawn.params)
  found = jax.tree.map(
    lambda mask: optax.MaskedNode() if mask is None else mask,
    last["opt_state"]["masks"],
    is_leaf=lambda x: x is None,
  )
  try:
    trees.sparse_flags(last["params"], found)
  except ValueError as error:
    raise command_line.InputError(
      f"`config.init_from` {earlier.workdir}: {error}"
    ) from error
  return Left(weights, plans.Found(last["params"], found))


def _records(workdir: pathlib.Path) -> Earlier:
  """Reads the records of a run that is done."""
  if not (workdir / records.CONFIG).is_file():
    raise command_line.InputError(
      f"`config.init_from` {workdir} holds no run: there is no"
      f" {records.CONFIG}."
    )
  summary = records.finished(workdir)
  if summary is None:
    raise command_line.InputError(
      f"`config.init_from` {workdir} holds a run that is not done. The command"
      " that started it finishes it."
    )
  config = json.loads((workdir / records.CONFIG).read_text(encoding="utf-8"))
  return Earlier(workdir, config, summary)


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what two runs must share, as a record to compare."""
  shared = {key: config[key] for key in _SHARED if key in config}
  shared["data"] = {"name": config["data"]["name"]}
  return {"config": shared, "sparse_leaves": [], "leaves": {}}


def _check_sparsity(plain: Mapping[str, Any], earlier: Earlier) -> None:
  requested, found = plain["method"].get("sparsity"), earlier.summary
  if requested is None:
    return
  count = search.requested_count(found["total"], requested)
  if count > found["active"]:
    raise command_line.InputError(
      f"`config.method.sparsity` of {requested} asks for {count} weights, but the"
      f" mask in {earlier.workdir} has {found['active']} (sparsity"
      f" {found['sparsity']:.6g}). Raise it; none takes the mask as it is."
    )


def _check_leaves(earlier: Earlier, there: Any, here: Any) -> None:
  """Refuses parameters of other names, shapes or types."""
  found, wanted = identity.signatures(there), identity.signatures(here)
  blank = {"config": {}, "sparse_leaves": []}
  differ = identity.differences(
    {**blank, "leaves": found}, {**blank, "leaves": wanted}
  )
  if differ:
    raise command_line.InputError(
      f"`config.init_from` {earlier.workdir} has another network:"
      f" {identity.told(differ)}."
    )


def _check_kept(plain: Mapping[str, Any], earlier: Earlier) -> None:
  kept = checkpoints.steps(earlier.workdir, folder=WEIGHTS)
  if plain["init_step"] not in kept:
    raise command_line.InputError(
      f"`config.init_step` of {plain['init_step']}: {earlier.workdir} kept"
      f" weights of the steps {kept}. A run keeps those of"
      " `config.keep_steps`."
    )


def _check_no_step(plain: Mapping[str, Any], earlier: Earlier) -> None:
  del earlier  # Any will do.
  if plain["init_step"]:
    raise command_line.InputError(
      f"`config.init_step` of {plain['init_step']} is for"
      f" `config.init_mode` 'rewind' alone, got {plain['init_mode']!r}."
    )


def _check_seed(plain: Mapping[str, Any], earlier: Earlier) -> None:
  _check_no_step(plain, earlier)
  if plain["seed"] == earlier.config["seed"]:
    raise command_line.InputError(
      f"`config.seed` must not be {plain['seed']}, that of {earlier.workdir}:"
      " the same seed draws the same weights again."
    )


def _kept(
  earlier: Earlier, last: Any, at_step: int, drawn: step.Weights
) -> step.Weights:
  del last, drawn  # What was kept counts.
  kept = checkpoints.read(earlier.workdir, at_step, folder=WEIGHTS)
  return step.Weights(kept["params"], kept["model_state"])


def _last(
  earlier: Earlier, last: Any, at_step: int, drawn: step.Weights
) -> step.Weights:
  del earlier, at_step, drawn  # Where it ended counts.
  return step.Weights(last["params"], last["model_state"])


def _drawn(
  earlier: Earlier, last: Any, at_step: int, drawn: step.Weights
) -> step.Weights:
  del earlier, last, at_step  # Only the mask is taken.
  return drawn


MODES = {
  "rewind": _Mode(_check_kept, _kept),
  "lr_rewind": _Mode(_check_no_step, _last),
  "reinit": _Mode(_check_seed, _drawn),
}
"""What `config.init_mode` can be."""
