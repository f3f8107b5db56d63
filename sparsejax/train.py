"""Train a sparse network: `python -m sparsejax.train --config=FILE[:OPTIONS]`.

  --config=FILE[:METHOD[,word][,key=value...]]  what to train (needed)
  --config.KEY=VALUE                            change a value of it
  --workdir=DIR                                 where results go; the same
                                                command goes on where it was

Exit status: 0 done, 2 bad input, 3 a number was not finite, 130 interrupted,
143 stopped by SIGTERM after saving.
"""

import datetime
import importlib.util
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags
from rich.console import Console

from sparsejax import plots
from sparsejax.training import (
  build,
  checkpoints,
  errors,
  loop,
  processes,
  records,
  results,
  show,
)

BAD_INPUT, INTERRUPTED = 2, 130


class Command(NamedTuple):
  """A parsed command line.

  Attributes:
    config: what to train, overrides included.
    workdir: where results go; `None` for a new folder under `runs/`.
    name: the config file's name, for that folder.
    flags: all flags.
  """

  config: ConfigDict
  workdir: pathlib.Path | None
  name: str
  flags: flags.FlagValues


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line and turn every way to end into an exit status.

  Args:
    argv: the arguments without the program's name; `sys.argv` by default.

  Returns:
    The exit status.
  """
  argv = sys.argv[1:] if argv is None else argv
  if {"--help", "-h", "--helpfull"} & set(argv):
    print(f"{__doc__}\n{_flags().get_help()}")
    return 0
  # Orbax tells every save at this level; it is noise between our lines.
  absl_logging.set_verbosity(absl_logging.ERROR)
  try:
    with processes.stop_on_sigterm() as stop:
      return _leave(train(parse(argv), stop))
  except (errors.InputError, checkpoints.CheckpointError) as error:
    print(f"error: {error}", file=sys.stderr)
    return _leave(BAD_INPUT, at_once=True)
  except KeyboardInterrupt:
    print("interrupted; the same command goes on", file=sys.stderr)
    return _leave(INTERRUPTED, at_once=True)
  except Exception:
    if jax.process_count() == 1:
      raise
    traceback.print_exc()
    return _leave(1, at_once=True)


def parse(argv: Sequence[str]) -> Command:
  """Read a command line.

  Args:
    argv: the arguments without the program's name.

  Returns:
    What it asks for.

  Raises:
    InputError: if an argument is not known, has a wrong value or is missing.
  """
  argv = list(argv)
  values = _flags()
  source = _config_source(argv)
  config = _load(*source.partition(":")[::2])
  overrides = [arg for arg in argv if not _is_config(arg)]
  if source in overrides:  # `--config FILE` in two arguments.
    overrides.remove(source)
  _check_overrides(overrides, config, values)
  try:
    config_flags.DEFINE_config_dict(
      "config", config, flag_values=values, sys_argv=["", *overrides]
    )
    rest = values(["", *overrides])
  except (flags.Error, ValueError, TypeError, KeyError) as error:
    raise errors.InputError(_one_line(error)) from error
  _refuse_rest(rest[1:])
  workdir = values.workdir
  return Command(
    config=values.config,
    workdir=None if workdir is None else pathlib.Path(workdir).resolve(),
    name=pathlib.Path(source.partition(":")[0]).stem,
    flags=values,
  )


def train(command: Command, stop: processes.StopRequest) -> int:
  """Train what a command asks for.

  Args:
    command: the parsed command line.
    stop: asked at the end of each dispatch.

  Returns:
    The exit status.

  Raises:
    InputError: if the command cannot work.
    CheckpointError: if a checkpoint cannot be used.
  """
  _join(command.flags)
  experiment = build.build(command.config)
  console = Console(quiet=not processes.is_first())
  workdir = _workdir(command, experiment)
  summary = records.finished(workdir)
  if summary is not None:
    show.line(console, f"{workdir} is finished; nothing was changed.")
    _report(workdir)
    show.result(console, summary, workdir)
    return loop.DONE
  show.line(console, f"Results go to {workdir}")
  for warning in experiment.warnings:
    show.line(console, f"warning: {warning}")
  with show.progress(console, total=experiment.steps.total) as display:
    outcome = loop.run(experiment, workdir, stop=stop, show=display)
  if outcome.status != loop.DONE:
    if processes.is_first():
      print(f"error: {outcome.message}", file=sys.stderr)
    return outcome.status
  summary = results.summarize(experiment, outcome)
  if processes.is_first():
    records.write_json(workdir / records.SUMMARY, summary)
    _report(workdir)
  show.result(console, summary, workdir)
  return loop.DONE


def _flags() -> flags.FlagValues:
  """Defines the flags, anew for each command line."""
  values = flags.FlagValues()
  flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run. A run that is in it goes on. By default a new"
    " folder under runs/.",
    flag_values=values,
  )
  flags.DEFINE_boolean(
    "distributed",
    True,
    "Join the processes of a cluster that jax detects.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "coordinator_address",
    None,
    "host:port of process 0, where no cluster is detected.",
    flag_values=values,
  )
  for name in ("num_processes", "process_id"):
    flags.DEFINE_integer(
      name, None, "See --coordinator_address.", flag_values=values
    )
  return values


def _is_config(arg: str) -> bool:
  return re.match(r"--?config(=|$)", arg) is not None


def _config_source(argv: list[str]) -> str:
  """Returns FILE[:OPTIONS]."""
  sources = [
    arg.partition("=")[2] or "".join(argv[index + 1 : index + 2])
    for index, arg in enumerate(argv)
    if _is_config(arg)
  ]
  if len(sources) != 1 or not sources[0]:
    raise errors.InputError(
      f"`--config=FILE[:OPTIONS]` must be given once, got {len(sources)}"
      " times. The main job is --config=configs/digits.py."
    )
  return sources[0]


def _load(file: str, options: str) -> ConfigDict:
  """Returns the locked config that a file makes of its options."""
  path = pathlib.Path(file)
  if not path.is_file():
    near = sorted(str(p) for p in pathlib.Path("configs").glob("*.py"))
    raise errors.unknown("`--config`", file, near)
  module = _import(path)
  if not hasattr(module, "get_config"):
    raise errors.InputError(f"`--config` {file} has no `get_config`.")
  config = module.get_config(options or None)
  return config.lock()


def _import(path: pathlib.Path) -> ModuleType:
  spec = importlib.util.spec_from_file_location("_sparsejax_config", path)
  if spec is None or spec.loader is None:
    raise errors.InputError(f"`--config` must be a .py file, got {path}.")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _check_overrides(
  argv: list[str], config: ConfigDict, values: flags.FlagValues
) -> None:
  """Refuses flags that do not exist, with the nearest that does."""
  paths = _paths(config)
  known = [f"--{name}" for name in values] + [f"--{path}" for path in paths]
  for arg in argv:
    match = re.match(r"--?(no)?([A-Za-z_][\w.]*)", arg)
    if match is None:
      continue
    name = match[2]
    negated = f"{match[1] or ''}{name}"
    if not {name, negated} & {*values, *paths}:
      raise errors.unknown("The command line", f"--{negated}", known)


def _paths(config: ConfigDict, prefix: str = "config.") -> list[str]:
  """Returns the dotted path of every value of a config."""
  paths = []
  for key in config:
    value = config.get_ref(key).get()
    if isinstance(value, ConfigDict):
      paths += _paths(value, f"{prefix}{key}.")
    else:
      paths.append(f"{prefix}{key}")
  return paths


def _refuse_rest(rest: list[str]) -> None:
  for arg in rest:
    hint = f" Did you mean --{arg}?" if arg.startswith("config.") else ""
    raise errors.InputError(
      f"The command line has an argument without a flag: {arg!r}.{hint}"
    )


def _one_line(error: Exception) -> str:
  """Returns an error of the flags' parser as one line that names the flag."""
  return " ".join(str(error).split()).removeprefix("flag ")


def _join(values: flags.FlagValues) -> None:
  named: dict[str, Any] = {
    name: values[name].value
    for name in ("coordinator_address", "num_processes", "process_id")
  }
  if values.distributed and not jax.distributed.is_initialized():
    processes.join(**named)


def _workdir(command: Command, experiment: build.Experiment) -> pathlib.Path:
  """Returns the run's folder, made and claimed by the first process."""
  workdir = command.workdir
  if workdir is None:
    if jax.process_count() > 1:
      raise errors.InputError(
        "`--workdir` is needed where several processes train together."
      )
    workdir = _new_folder(command.name, experiment)
  if processes.is_first():
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      records.claim(workdir, experiment.config)
    except OSError as error:
      raise errors.InputError(
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
