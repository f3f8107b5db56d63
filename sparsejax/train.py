"""Train a sparse network: `python -m sparsejax.train --config=FILE[:OPTIONS]`.

  --config=FILE[:METHOD[,word][,key=value...]]  what to train (needed)
  --config.KEY=VALUE                            change a value of it
  --workdir=DIR                                 where results go; the same
                                                command goes on where it was

Exit status: 0 done, 2 bad input, 3 a number was not finite, 130 interrupted,
143 stopped by SIGTERM after saving.
"""

import contextlib
import datetime
import os
import pathlib
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
from absl import flags
from absl import logging as absl_logging
from rich.console import Console

from sparsejax import command_line, plots
from sparsejax.training import loop, processes
from sparsejax.training.checkpointing import checkpoints
from sparsejax.training.config import build, command
from sparsejax.training.reporting import console as reporting_console
from sparsejax.training.reporting import records, results

BAD_INPUT, INTERRUPTED = 2, 130


def main(
  argv: Sequence[str] | None = None,
  *,
  stop: processes.StopRequest | None = None,
) -> int:
  """Run a command line and turn every way to end into an exit status.

  Args:
    argv: the arguments without the program's name; `sys.argv` by default.
    stop: requested at the end of each dispatch; SIGTERM is listened to where there
      is none.

  Returns:
    The exit status.
  """
  argv = sys.argv[1:] if argv is None else argv
  if {"--help", "-h", "--helpfull"} & set(argv):
    print(f"{__doc__}\n{command.flag_help()}")
    return 0
  # Orbax tells every save at this level; it is noise between our lines.
  absl_logging.set_verbosity(absl_logging.ERROR)
  try:
    with contextlib.ExitStack() as stack:
      if stop is None:
        stop = stack.enter_context(processes.stop_on_sigterm())
      return _leave(train(command.parse(argv), stop))
  except (command_line.InputError, checkpoints.CheckpointError) as error:
    print(f"error: {error}", file=sys.stderr)
    return _leave(BAD_INPUT, at_once=True)
  except OSError as error:  # A full disk, most of all.
    name = f" {error.filename}" if error.filename else ""
    print(
      f"error: {error.strerror or error}{name}. Saved checkpoints are whole;"
      " the same command goes on from the newest.",
      file=sys.stderr,
    )
    return _leave(BAD_INPUT, at_once=True)
  except KeyboardInterrupt:
    print("interrupted; the same command goes on", file=sys.stderr)
    return _leave(INTERRUPTED, at_once=True)
  except Exception:
    # A process that leaves by an exception waits minutes for the others, which
    # wait for it: with several, it is told here and left at once.
    if jax.process_count() == 1:
      raise
    traceback.print_exc()
    return _leave(1, at_once=True)


def each(runs: Iterable[tuple[str, Sequence[str]]]) -> Iterator[int]:
  """Run command lines one after the other, in this process.

  SIGTERM stops the run that it finds, and every later one as it begins.

  Args:
    runs: a line that says what comes, and the arguments of each run.

  Yields:
    The exit status of each, before the next one starts.
  """
  with processes.stop_on_sigterm() as stop:
    for title, argv in runs:
      print(title, flush=True)
      yield main(argv, stop=stop)
      jax.clear_caches()  # No other run has the same programs.


def train(requested: command.Command, stop: processes.StopRequest) -> int:
  """Train what a command asks for.

  Args:
    requested: the parsed command line.
    stop: requested at the end of each dispatch.

  Returns:
    The exit status.

  Raises:
    InputError: if the command cannot work.
    CheckpointError: if a checkpoint cannot be used.
  """
  _join(requested.flags)
  experiment = build.build(requested.config)
  console = Console(quiet=not processes.is_first())
  _warn(console, experiment, experiment.warnings)
  workdir = _workdir(requested, experiment)
  summary = records.finished(workdir)
  if summary is not None:
    reporting_console.line(
      console, f"{workdir} is finished; nothing was changed."
    )
    _report(workdir)
    reporting_console.result(console, summary, workdir)
    return loop.DONE
  reporting_console.line(console, f"Results go to {workdir}")
  with reporting_console.progress(
    console, total=experiment.steps.total
  ) as display:
    outcome = loop.run(experiment, workdir, stop=stop, show=display)
  if outcome.status != loop.DONE:
    if processes.is_first():
      print(f"error: {outcome.message}", file=sys.stderr)
    return outcome.status
  summary = results.summarize(experiment, outcome)
  _warn(console, experiment, summary["warnings"][len(experiment.warnings) :])
  if processes.is_first():
    records.write_json(workdir / records.SUMMARY, summary)
    _report(workdir)
  processes.wait("summary")  # A run that comes after it may look for it.
  reporting_console.result(console, summary, workdir)
  return loop.DONE


def _join(values: flags.FlagValues) -> None:
  named: dict[str, Any] = {
    name: values[name].value
    for name in (
      "coordinator_address",
      "num_processes",
      "process_id",
      "heartbeat_timeout_seconds",
    )
  }
  if values.distributed and not jax.distributed.is_initialized():
    processes.join(**named)


def _workdir(
  requested: command.Command, experiment: build.Experiment
) -> pathlib.Path:
  """Returns the run's folder, made and claimed by the first process."""
  workdir = requested.workdir
  if workdir is None:
    if jax.process_count() > 1:
      raise command_line.InputError(
        "`--workdir` is needed where several processes train together."
      )
    workdir = _new_folder(requested.name, experiment)
  if processes.is_first():
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      records.claim(workdir, experiment.config)
    except OSError as error:
      raise command_line.InputError(
        f"`--workdir` {workdir} cannot be used: {error.strerror}."
      ) from error
  processes.wait("workdir")
  processes.check_shared(workdir)
  return workdir


def _new_folder(name: str, experiment: build.Experiment) -> pathlib.Path:
  """Returns a folder under `runs/` that is not there yet."""
  now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  method = experiment.config["method"]["name"]
  base = pathlib.Path("runs").resolve() / f"{name}-{method}-{now}"
  folder, number = base, 1
  while folder.exists():
    number += 1
    folder = base.with_name(f"{base.name}-{number}")
  return folder


def _warn(
  console: Console, experiment: build.Experiment, warnings: Sequence[str]
) -> None:
  """Tells warnings, or refuses what they warn of where that is requested."""
  if warnings and experiment.config["forbid_warnings"]:
    raise command_line.InputError(
      "`config.forbid_warnings` is set: " + " ".join(warnings)
    )
  for warning in warnings:
    reporting_console.line(console, f"warning: {warning}")


def _report(workdir: pathlib.Path) -> None:
  """Writes the report unless it is there."""
  if processes.is_first() and not (workdir / plots.REPORT).exists():
    plots.write_report(workdir)


def _leave(status: int, *, at_once: bool = False) -> int:
  """Returns the status, or ends the process where others would wait for it.

  With several processes an ordinary exit waits for all of them; one that
  fails alone must not.
  """
  if at_once and jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  return status


if __name__ == "__main__":
  sys.exit(main())
