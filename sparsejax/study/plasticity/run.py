"""A grid, from its command line to its exit status."""

import contextlib
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from sparsejax import command_line, plots
from sparsejax.plots import records
from sparsejax.study import tables
from sparsejax.study.plasticity import (
  continuation,
  grid as grids,
  lab as labs,
  protocol as protocols,
)
from sparsejax.study.plasticity.protocol import Protocol
from sparsejax.training import (
  outcomes,
  preemption,
  run as training_run,
  sharding,
  workdir_lock,
)
from sparsejax.training.checkpointing import errors
from sparsejax.training.config import command, keys
from sparsejax.training.reporting import console as reporting, workdirs

CSV = "plasticity.csv"

_FIRST_VALUES = {"branch": "{}"}
_LOG_SECONDS = 10.0  # Between two lines of a log file.
_METHOD = "static"


def run(argv: Sequence[str]) -> int:
  """Train what is missing of a grid, then write its CSV file and figures.

  Args:
    argv: arguments of `sparsejax.study.plasticity`.

  Returns:
    The exit status.

  Raises:
    InputError: if the command line, the config or a checkpoint cannot be used.
  """
  training_run.quiet_libraries()
  parsed = command.parse(argv)
  config, section = split(parsed.config)
  folder = parsed.workdir or _default_folder(argv)
  console = reporting.Console()
  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(preemption.stop_on_signals())
    stop.nothing_to_save = True  # Until the first dispatch.
    lock = stack.enter_context(
      _claimed(folder, resolved(parsed.config), console)
    )
    try:
      protocol = _train(config, section, folder, lock, stop, console)
    except grids.Stopped as stopped:
      print(stopped, file=sys.stderr)
      return stopped.status
    except preemption.Stopped as stopped:
      print(stopped, file=sys.stderr)
      return outcomes.TERMINATED
    except errors.CheckpointError as error:
      raise command_line.InputError(str(error)) from error
    _report(folder, protocol, console)
  return outcomes.DONE


def split(config: ConfigDict) -> tuple[ConfigDict, dict[str, Any]]:
  """Divide a config into that of the runs and the protocol's section.

  Args:
    config: as a config file returns it, with overrides applied.

  Returns:
    The config of the runs, and the section as plain values.

  Raises:
    InputError: if there is no such section, or the method is another one.
  """
  whole: Any = config.copy_and_resolve_references().unlock()
  section = whole.get("plasticity")
  if not isinstance(section, ConfigDict):
    raise command_line.InputError(
      "`config.plasticity` is missing: the config says nothing about a grid."
      " Start with --config=plasticity:digits."
    )
  del whole["plasticity"]
  if whole.method.name != _METHOD:
    raise command_line.InputError(
      f"`config.method.name` must be {_METHOD!r}, got {whole.method.name!r}:"
      " the runs that are pruned have random masks, whose sparsities"
      " `config.plasticity.sparsities` gives."
    )
  whole.method.sparsity = 0.0  # Each run has its own.
  return whole, section.to_dict()


def resolved(config: ConfigDict) -> dict[str, Any]:
  """Turn a config into what `config.json` of a grid holds, and check it.

  Raises:
    InputError: as `split` and `keys.resolved` do.
  """
  runs, section = split(config)
  plain = {
    key: list(value) if isinstance(value, tuple) else value
    for key, value in sorted(section.items())
  }
  found = keys.resolved(runs)
  keys.check_one_seed(found, "branches continue a run of one seed")
  return {**found, "plasticity": plain}


def _default_folder(argv: Sequence[str]) -> pathlib.Path:
  (source,) = [
    arg.partition("=")[2]
    for arg in command_line.join_values(argv)
    if re.match("--?config=", arg)
  ]
  file, _, options = source.partition(":")
  words = [pathlib.Path(file).stem, *filter(None, options.split(","))]
  return pathlib.Path("runs").resolve() / "-".join(words)


@contextlib.contextmanager
def _claimed(
  folder: pathlib.Path, config: Mapping[str, Any], console: reporting.Console
) -> Iterator[workdir_lock.Lock]:
  """Makes, locks and claims the folder of a grid."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with workdir_lock.hold(
      folder, message=lambda text: reporting.line(console, text)
    ) as lock:
      workdirs.claim(folder, config)
      yield lock
  except OSError as error:
    if error.filename is None or not str(error.filename).startswith(
      str(folder)
    ):
      raise
    raise command_line.InputError(
      f"`--workdir` {folder} cannot be used: {error.strerror}."
    ) from error


def _train(
  config: ConfigDict,
  section: Mapping[str, Any],
  folder: pathlib.Path,
  lock: workdir_lock.Lock,
  stop: preemption.StopRequest,
  console: reporting.Console,
) -> Protocol:
  """Trains the grid; returns its protocol."""
  first = grids.experiment(config, 0.0)
  when, measure = first.steps, first.dataset.task.measures[0]
  if measure.name != "accuracy":
    raise command_line.InputError(
      f"`config.data` must be of a task with an accuracy, got one that is"
      f" measured by {measure.title}: the measures of a grid are differences of"
      " accuracies."
    )
  protocol = protocols.from_section(
    section, total_steps=when.total, steps_per_epoch=when.per_epoch
  )
  _check_steps(protocol, when.dispatch)
  done = grids.finished(folder)
  every = grids.branches(protocol)
  missing = [branch for branch in every if branch not in done]
  runs = len(protocol.sparsities) * protocol.total_steps
  reporting.line(
    console,
    f"{len(every) - len(missing)} of {len(every)} branches are done. Results go"
    f" to {folder}",
  )
  unfinished = [
    sparsity
    for sparsity in protocol.sparsities
    if records.read_summary(grids.run_folder(folder, sparsity)) is None
  ]
  if not missing and not unfinished:
    return protocol
  held = grids.experiment(
    config, 0.0, first.dataset, wrap=continuation.hold_learning_rate
  )
  longer = held.setup._replace(
    total_steps=protocol.total_steps + protocol.continue_steps
  )
  with reporting.progress(
    console,
    measure=measure,
    total=runs + grids.steps(protocol, every),
    completed=runs
    - len(unfinished) * protocol.total_steps
    + grids.steps(protocol, every)
    - grids.steps(protocol, missing),
    first=_FIRST_VALUES,
    interval_seconds=_LOG_SECONDS,
  ) as reporter:
    grid = grids.Grid(
      folder=folder,
      experiments={
        sparsity: grids.experiment(config, sparsity, first.dataset)._replace(
          steps=when._replace(checkpoint_every=protocol.every_steps)
        )
        for sparsity in protocol.sparsities
      },
      lab=labs.Lab(
        first,
        held._replace(setup=longer),
        protocol,
        sharding.make_mesh(first.config["mesh"]),
      ),
      lock=lock,
      stop=stop,
      reporter=reporter,
    )
    grids.train(grid)
  return protocol


def _check_steps(protocol: Protocol, dispatch: int) -> None:
  """Raises `InputError` unless branches begin and end with a dispatch."""
  for name in ("every_steps", "continue_steps"):
    value = getattr(protocol, name)
    if value % dispatch:
      raise command_line.InputError(
        f"`config.plasticity.{name}` must be a multiple of {dispatch},"
        f" `config.dispatch_steps`, got {value}."
      )


def _report(
  folder: pathlib.Path, protocol: Protocol, console: reporting.Console
) -> None:
  """Writes the CSV file and the figures, from the records alone."""
  order = {b: number for number, b in enumerate(grids.branches(protocol))}
  rows = sorted(
    records.read_branches(folder), key=lambda row: order[grids.branch_of(row)]
  )
  tables.write_csv(rows, folder / CSV)
  reporting.line(console, f"Numbers of each branch: {folder / CSV}")
  if not plots.has_matplotlib():
    reporting.line(
      console, "note: figures need matplotlib: pip install 'sparsejax[plots]'."
    )
    return
  for measure in protocol.measures:
    path = folder / f"{measure}.png"
    plots.plot_plasticity([folder], measure, path)
    reporting.line(console, f"Figure: {path}")
