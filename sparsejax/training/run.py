"""One run, from its command line to its exit status."""

import contextlib
import datetime
import functools
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from absl import logging as absl_logging

from sparsejax import command_line, plots
from sparsejax.plots import records
from sparsejax.training import (
  agreement,
  coordination,
  outcomes,
  preemption,
  processes,
  session,
  watchdog,
  workdir_lock,
)
from sparsejax.training.checkpointing import errors
from sparsejax.training.config import build, command
from sparsejax.training.config.experiment import Experiment
from sparsejax.training.reporting import (
  console as reporting,
  results,
  timing,
  workdirs,
)


def run(
  argv: Sequence[str], *, stop: preemption.StopRequest | None = None
) -> int:
  """Train what a command line says.

  Args:
    argv: arguments of `sparsejax.train`.
    stop: checked after each dispatch; by default one that SIGTERM and SIGHUP
      set.

  Returns:
    The exit status.

  Raises:
    InputError: if the command line, the config or a checkpoint cannot be used.
  """
  quiet_libraries()
  clock = timing.Clock()
  with contextlib.ExitStack() as stack:
    stack.enter_context(exit_alone("sparsejax.train"))
    if stop is None:
      stop = stack.enter_context(preemption.stop_on_signals())
    stop.nothing_to_save = True  # Until the first dispatch.
    try:
      parsed = command.parse(argv)
      if parsed.print_config:
        print("\n".join(command.lines(parsed.config)))
        return outcomes.DONE
      return _run(parsed, stop, clock)
    except errors.CheckpointError as error:
      raise command_line.InputError(str(error)) from error


def quiet_libraries() -> None:
  """Silences the log of Orbax, which has lines for every save."""
  absl_logging.set_verbosity(absl_logging.ERROR)


def _run(
  parsed: command.Command, stop: preemption.StopRequest, clock: timing.Clock
) -> int:
  """Joins the other processes, which must have the same command line."""
  if parsed.distributed and not jax.distributed.is_initialized():
    processes.join(**parsed.cluster)
  if coordination.count() == 1:
    return _run_together(parsed, stop, clock)
  with watchdog.watch_progress(parsed.cluster["hang_timeout_seconds"]):
    seconds = parsed.cluster["join_timeout_seconds"]
    facts = agreement.facts(parsed.config.to_dict(), parsed.workdir)
    agreement.check("start", facts, seconds=seconds)
    agreement.check("devices", agreement.device_facts(), seconds=seconds)
    return _run_together(parsed, stop, clock)


def _run_together(
  parsed: command.Command, stop: preemption.StopRequest, clock: timing.Clock
) -> int:
  """Trains, or reports the result of a run that is done."""
  experiment = build.build(parsed.config)
  if coordination.count() > 1:
    # Data may take minutes to prepare in one process, and be there in another.
    seconds = parsed.cluster["hang_timeout_seconds"]
    facts = agreement.data_facts(experiment.dataset)
    agreement.check("data", facts, seconds=seconds)
  console = reporting.Console(quiet=not processes.is_first())
  _warn(console, experiment, experiment.warnings)
  with _workdir(parsed, experiment, console) as (workdir, lock):
    if not (workdir / records.SUMMARY).exists():
      return _train(parsed, console, experiment, workdir, stop, lock, clock)
    reporting.line(console, f"{workdir} is finished; nothing was changed.")
    _show_result(console, experiment, workdir)
    return outcomes.DONE


def _train(
  parsed: command.Command,
  console: reporting.Console,
  experiment: Experiment,
  workdir: pathlib.Path,
  stop: preemption.StopRequest,
  lock: workdir_lock.Lock | None,
  clock: timing.Clock,
) -> int:
  """Trains from the newest checkpoint, and writes the result at the end."""
  reporting.line(console, f"Results go to {workdir}")
  measure = experiment.dataset.task.measures[0]
  with reporting.progress(
    console, total=experiment.steps.total, measure=measure
  ) as reporter:
    try:
      outcome = session.run(
        experiment,
        workdir,
        stop=stop,
        reporter=reporter,
        lock=lock,
        clock=clock,
        started=lambda: _record_environment(experiment, workdir, parsed),
      )
    except preemption.Stopped as stopped:
      if processes.is_first():
        print(stopped, file=sys.stderr)
      return outcomes.TERMINATED
  if outcome.status != outcomes.DONE:
    if processes.is_first():
      failed = outcome.status == outcomes.NOT_FINITE
      prefix = "error: " if failed else ""
      print(f"{prefix}{outcome.message}", file=sys.stderr)
    return outcome.status
  summaries = [
    results.summarize(each, own, replicas=len(experiment.each))
    for each, own in zip(
      experiment.each, outcomes.of_each(outcome), strict=True
    )
  ]
  found = [warning for each in summaries for warning in each["warnings"]]
  new = [each for each in found if each not in experiment.warnings]
  _warn(console, experiment, list(dict.fromkeys(new)))
  if processes.is_first():
    _write_summaries(experiment, workdir, summaries)
  processes.barrier("summary")  # A later run may look for it.
  _show_result(console, experiment, workdir)
  _warn(console, experiment, experiment.warnings)  # Thousands of lines later.
  return outcomes.DONE


def _write_summaries(
  experiment: Experiment,
  workdir: pathlib.Path,
  summaries: Sequence[dict[str, Any]],
) -> None:
  """Writes the result of each seed, then that of all."""
  folders = workdirs.of_seeds(experiment, workdir)
  for folder, summary in zip(folders, summaries, strict=True):
    workdirs.write_json(folder / workdirs.SUMMARY, summary)
  if experiment.of_seeds:
    of_all = results.summarize_seeds(experiment.config, summaries)
    workdirs.write_json(workdir / workdirs.SUMMARY, of_all)


def _show_result(
  console: reporting.Console, experiment: Experiment, workdir: pathlib.Path
) -> None:
  """Writes the missing reports of a finished run, and prints its result."""
  folders = workdirs.of_seeds(experiment, workdir)
  if processes.is_first():
    for folder in folders:
      _write_missing(folder / plots.REPORT, plots.write_report, folder)
    if experiment.of_seeds:
      path = workdir / plots.REPORT
      _write_missing(path, plots.write_comparison, folders, path)
  if experiment.of_seeds:
    summary = records.read_summary_of_seeds(workdir)
    assert summary is not None
    reporting.result_of_seeds(console, summary, folders, workdir)
    return
  summary = records.read_summary(workdir)
  assert summary is not None
  reporting.result(console, summary, workdir)


def _write_missing(
  path: pathlib.Path, write: Callable[..., Any], *args: Any
) -> None:
  if not path.exists():
    write(*args)


def _record_environment(
  experiment: Experiment, workdir: pathlib.Path, parsed: command.Command
) -> None:
  """Records what this start runs on, for the report."""
  if not processes.is_first():
    return
  arguments = ["python", "-m", "sparsejax.train", *parsed.argv]
  found = {
    "command": shlex.join(arguments),
    **agreement.environment(),
    **agreement.device_facts(),
    "processes": coordination.count(),
    "cores": os.cpu_count(),
  }
  for folder in workdirs.of_seeds(experiment, workdir):
    workdirs.write_json(folder / records.ENVIRONMENT, found)


@contextlib.contextmanager
def _workdir(
  parsed: command.Command, experiment: Experiment, console: reporting.Console
) -> Iterator[tuple[pathlib.Path, workdir_lock.Lock | None]]:
  """Yields the run's folder and its lock.

  The first process makes, locks and claims it. Nothing is written to the folder
  of a finished run, so it is not locked.
  """
  workdir = parsed.workdir
  if workdir is None:
    if jax.process_count() > 1:
      raise command_line.InputError(
        "`--workdir` is required when several processes train together."
      )
    workdir = _new_folder(parsed.name, experiment)
  lock = None
  with contextlib.ExitStack() as stack:
    if processes.is_first():
      try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not (workdir / records.SUMMARY).exists():
          message = functools.partial(reporting.line, console)
          lock = stack.enter_context(
            workdir_lock.hold(workdir, message=message)
          )
        workdirs.claim(workdir, experiment.config)
        for each, folder in workdirs.of_each(experiment, workdir):
          folder.mkdir(exist_ok=True)
          workdirs.claim(folder, each.config)
      except OSError as error:
        raise command_line.InputError(
          f"`--workdir` {workdir} cannot be used: {error.strerror}."
        ) from error
    processes.barrier("workdir")
    processes.check_shared(workdir)
    yield workdir, lock


def _new_folder(name: str, experiment: Experiment) -> pathlib.Path:
  """Returns a folder under `runs/` that does not exist yet."""
  now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  method = experiment.config["method"]["name"]
  base = pathlib.Path("runs").resolve() / f"{name}-{method}-{now}"
  folder, number = base, 1
  while folder.exists():
    number += 1
    folder = base.with_name(f"{base.name}-{number}")
  return folder


def _warn(
  console: reporting.Console, experiment: Experiment, warnings: Sequence[str]
) -> None:
  """Prints warnings; raises `InputError` if the config forbids them."""
  if warnings and experiment.config["forbid_warnings"]:
    raise command_line.InputError(
      "`config.forbid_warnings` is set: " + " ".join(warnings)
    )
  for warning in warnings:
    reporting.line(console, f"warning: {warning}")


@contextlib.contextmanager
def exit_alone(name: str) -> Iterator[None]:
  """End a failed process at once where others train with it.

  An ordinary exit of one of several processes waits minutes for the others,
  which wait for it.

  Args:
    name: the command's module.
  """
  try:
    yield
  except BaseException as error:
    if not jax.distributed.is_initialized():
      raise
    watchdog.leave_because_of(error, name=name, hint=command_line.RESUME)
