"""The trainer's command line: flags, a config, and overrides of its values."""

import functools
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from sparsejax import command_line
from sparsejax.training.config import files, sections


class Command(NamedTuple):
  """A parsed command line.

  Attributes:
    config: what to train, with overrides applied.
    workdir: the run's folder; `None` for a new one under `runs/`.
    name: the config's name, for that new folder.
    distributed: whether to join other processes.
    cluster: keyword arguments of `processes.join`.
  """

  config: ConfigDict
  workdir: pathlib.Path | None
  name: str
  distributed: bool
  cluster: dict[str, Any]


_CLUSTER = (
  "coordinator_address",
  "num_processes",
  "process_id",
  "heartbeat_timeout_seconds",
)
FLAGS = ("distributed", *_CLUSTER)
"""Flags that are the same for all runs of a command."""


def parse(argv: Sequence[str]) -> Command:
  """Parse a command line.

  Args:
    argv: arguments without the program's name.

  Returns:
    The command.

  Raises:
    InputError: if an argument is unknown, invalid or missing.
  """
  values = _flags()
  source, changes = _split(argv)
  file, _, options = source.partition(":")
  config = _load(file, options)
  changes = _rename_sections(changes, config)
  _check_flags(changes, config, values)
  changes = _clear(changes, config)
  try:
    config_flags.DEFINE_config_dict(
      "config", config, flag_values=values, sys_argv=["", *changes]
    )
    rest = values(["", *changes])
  except (flags.Error, ValueError, TypeError, KeyError) as error:
    message = " ".join(str(error).split()).removeprefix("flag ")
    raise command_line.InputError(message) from error
  _refuse_rest(rest[1:])
  workdir = values.workdir
  return Command(
    config=values.config,
    workdir=None if workdir is None else pathlib.Path(workdir).resolve(),
    name=pathlib.Path(file).stem,
    distributed=values.distributed,
    cluster={name: values[name].value for name in _CLUSTER},
  )


def _flags() -> flags.FlagValues:
  """Defines the flags, which `sparsejax.train` explains."""
  values = flags.FlagValues()
  for name in ("workdir", "coordinator_address"):
    flags.DEFINE_string(name, None, "", flag_values=values)
  for name in ("num_processes", "process_id"):
    flags.DEFINE_integer(name, None, "", flag_values=values)
  flags.DEFINE_boolean("distributed", True, "", flag_values=values)
  flags.DEFINE_integer(
    "heartbeat_timeout_seconds", 100, "", lower_bound=1, flag_values=values
  )
  return values


def _split(argv: Sequence[str]) -> tuple[str, list[str]]:
  """Returns the value of `--config`, and all other arguments."""
  sources, others = [], []
  rest = iter(argv)
  for arg in rest:
    if re.match(r"--?config(=|$)", arg) is None:
      others.append(arg)
    else:
      _, equals, value = arg.partition("=")
      sources.append(value if equals else next(rest, ""))
  if len(sources) != 1 or not sources[0]:
    raise command_line.InputError(
      f"`--config=NAME[:OPTIONS]` must be given once, got {len(sources)}"
      " times. Start with --config=digits."
    )
  return sources[0], others


def _load(file: str, options: str) -> ConfigDict:
  """Returns the locked config that a file makes for an option string."""
  path = files.find("`--config`", file)
  module = files.load(path)
  if not hasattr(module, "get_config"):
    raise command_line.InputError(f"`--config` {path} has no `get_config`.")
  config = module.get_config(options or None)
  return config.lock()


def _check_flags(
  argv: Sequence[str], config: ConfigDict, values: flags.FlagValues
) -> None:
  """Raises `InputError` for a flag that does not exist."""
  paths = _paths(config)
  known = {*values, *paths}
  for arg in argv:
    match = re.match(r"--?(no)?([A-Za-z_][\w.]*)", arg)
    if match is not None and not {match[2], f"{match[1]}{match[2]}"} & known:
      name = f"--{match[1] or ''}{match[2]}"
      raise command_line.unknown(
        "The command line", name, [f"--{flag}" for flag in known]
      )


def _rename_sections(argv: Sequence[str], config: Any) -> list[str]:
  """Replaces a section whose name is overridden by one of the new name."""
  rest = []
  for arg in argv:
    match = re.fullmatch(r"--?config\.(\w+)\.name=(.*)", arg)
    if match is None or match[1] not in sections.KINDS:
      rest.append(arg)
    elif match[2] != config[match[1]].name:
      with config.unlocked():
        config[match[1]] = ConfigDict(sections.section(match[1], match[2]))
  config.lock()
  return rest


def _clear(argv: Sequence[str], config: Any) -> list[str]:
  """Sets values overridden with `none`, and returns the other overrides."""
  rest = []
  for arg in argv:
    match = re.fullmatch(r"--?config\.([\w.]+)=none", arg, re.IGNORECASE)
    if match is None:
      rest.append(arg)
    else:
      *sections, key = match[1].split(".")
      section = functools.reduce(lambda c, name: c[name], sections, config)
      section[key] = None
  return rest


def _paths(config: ConfigDict, prefix: str = "config.") -> list[str]:
  """Returns the dotted path of every value of a config."""
  paths = []
  for key in config:
    value = config[key]
    if isinstance(value, ConfigDict):
      paths += _paths(value, f"{prefix}{key}.")
    else:
      paths.append(f"{prefix}{key}")
  return paths


def _refuse_rest(rest: list[str]) -> None:
  for arg in rest:
    hint = f" Did you mean --{arg}?" if arg.startswith("config.") else ""
    raise command_line.InputError(
      f"The command line has an argument without a flag: {arg!r}.{hint}"
    )
