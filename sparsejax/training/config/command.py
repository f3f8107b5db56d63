"""The trainer's command line: flags, a config, and overrides of its values."""

import functools
import inspect
import pathlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from sparsejax import command_line
from sparsejax.training.config import (
  files,
  keys,
  schema,
  sections,
  value_types,
)


class Command(NamedTuple):
  """A parsed command line.

  Attributes:
    config: what to train, with overrides applied.
    workdir: the run's folder; `None` for a new one under `runs/`.
    name: the config's name, for that new folder.
    distributed: whether to join other processes.
    cluster: keyword arguments of `processes.join`.
    print_config: whether to print the config and train nothing.
    argv: the arguments.
  """

  config: ConfigDict
  workdir: pathlib.Path | None
  name: str
  distributed: bool
  cluster: dict[str, Any]
  print_config: bool
  argv: tuple[str, ...]


_TIMEOUTS = {
  "heartbeat_timeout_seconds": 100,
  "join_timeout_seconds": 300,
  "hang_timeout_seconds": 3600,
}
_CLUSTER = ("coordinator_address", "num_processes", "process_id", *_TIMEOUTS)
_PARSERS: dict[type, flags.ArgumentParser] = {
  bool: flags.BooleanParser(),
  int: flags.IntegerParser(),
  float: flags.FloatParser(),
}
FLAGS = ("distributed", "nodistributed", *_CLUSTER)
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
  source, changes = _split(command_line.join_values(argv))
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
  _check_cluster(values)
  workdir = values.workdir
  if workdir == "":
    raise command_line.InputError(
      "`--workdir` must not be empty. Give a folder, or leave the flag out for"
      " a new one under runs/."
    )
  command_line.refuse_url("`--workdir`", workdir or "")
  return Command(
    config=values.config,
    workdir=None if workdir is None else pathlib.Path(workdir).resolve(),
    name=pathlib.Path(file).stem,
    distributed=values.distributed,
    cluster={name: values[name].value for name in _CLUSTER},
    print_config=values.print_config,
    argv=tuple(argv),
  )


def lines(config: ConfigDict) -> list[str]:
  """Returns every value of a config as the option that would set it.

  Raises:
    InputError: if the config cannot work.
  """

  def flat(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
      if isinstance(value, Mapping):
        yield from flat(value, f"{prefix}{key}.")
      else:
        value = tuple(value) if isinstance(value, list) else value
        shown = "none" if value is None else str(value)
        yield f"{prefix}{key}={shlex.quote(shown)}"

  found = {"seeds": 1, **keys.resolved(config)}
  return list(flat(dict(sorted(found.items())), "--config."))


def _flags() -> flags.FlagValues:
  """Defines the flags, which `sparsejax.train` explains."""
  values = flags.FlagValues()
  for name in ("workdir", "coordinator_address"):
    flags.DEFINE_string(name, None, "", flag_values=values)
  for name in ("num_processes", "process_id"):
    flags.DEFINE_integer(name, None, "", flag_values=values)
  flags.DEFINE_boolean("distributed", True, "", flag_values=values)
  flags.DEFINE_boolean("print_config", False, "", flag_values=values)
  for name, seconds in _TIMEOUTS.items():
    flags.DEFINE_integer(name, seconds, "", lower_bound=1, flag_values=values)
  return values


def _split(argv: Sequence[str]) -> tuple[str, list[str]]:
  """Returns the value of `--config`, and all other arguments."""
  sources, others = [], []
  for arg in argv:
    match = re.fullmatch(r"--?config(=(.*))?", arg, re.DOTALL)
    if match is None:
      others.append(arg)
    else:
      sources.append(match[2])
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
  try:
    get_config = module.get_config
    inspect.signature(get_config).bind(options)
  except (AttributeError, TypeError, ValueError) as error:
    raise command_line.InputError(
      f"`--config` {path} must define a function `get_config(arg=None)`, which"
      " takes the option string."
    ) from error
  with files.running(path):
    config = get_config(options or None)
  if type(config) is not ConfigDict:
    raise command_line.InputError(
      f"`get_config` of {path} must return an `ml_collections.ConfigDict`, got"
      f" {value_types.shown(config)}."
    )
  return config.lock()


def _check_flags(
  argv: Sequence[str], config: ConfigDict, values: flags.FlagValues
) -> None:
  """Raises `InputError` for a flag that is unknown or cannot be parsed."""
  kinds = _types(config)
  switches = {name for name in values if values[name].boolean}
  switches |= {path for path, kind in kinds.items() if kind is bool}
  for arg in argv:
    match = re.match(r"--?((no)?([A-Za-z_][\w.]*))(?:=(.*))?$", arg, re.DOTALL)
    if match is None:
      continue
    flag, _, name, text = match.groups()
    if not {flag, name} & {*values, *kinds}:
      known = [f"--{each}" for each in (*values, *kinds)]
      error = command_line.unknown("The command line", f"--{flag}", known)
      raise command_line.InputError(
        f"{error} A value of the config is --config.KEY=VALUE; --print_config"
        " lists them all."
      )
    if text is None and not {flag, name} & switches:
      raise command_line.InputError(
        f"Missing value for flag --{flag}. Write --{flag}=VALUE."
      )
    if text is not None and flag in kinds and text.lower() != "none":
      _check_text(flag, text, kinds[flag])


def _check_text(path: str, text: str, kind: type) -> None:
  """Raises `InputError` for a value that is not of the type in the config."""
  if kind is type(None):
    raise command_line.InputError(
      f"`{path}` is None in the config file, which does not tell its type."
      " Write `config_dict.placeholder(TYPE)` there, or the value itself."
    )
  try:
    if kind in _PARSERS:
      _PARSERS[kind].parse(text)
  except (TypeError, ValueError) as error:
    raise command_line.InputError(
      f"`{path}` must be of type {kind.__name__}, got {text!r}."
    ) from error


def _rename_sections(argv: Sequence[str], config: Any) -> list[str]:
  """Replaces a section whose name is overridden by one of the new name."""
  rest = []
  for arg in argv:
    match = re.fullmatch(r"--?config\.([\w.]+)\.name=(.*)", arg)
    kind = match and sections.find_kind(match[1])
    if match is None or kind is None:
      rest.append(arg)
      continue
    *outer, key = match[1].split(".")
    holder = functools.reduce(lambda c, name: c.get(name) or {}, outer, config)
    name = sections.canonical(kind.title, match[2])
    if name != dict(holder.get(key) or {}).get("name"):
      with config.unlocked():
        holder[key] = ConfigDict(schema.section(kind, name, {}))
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


def _types(config: ConfigDict, prefix: str = "config.") -> dict[str, type]:
  """Returns the type of every value of a config, by its dotted path."""
  found: dict[str, type] = {}
  for key in _keys(config, prefix):
    value = config[key]
    if isinstance(value, ConfigDict):
      found |= _types(value, f"{prefix}{key}.")
    else:
      found[f"{prefix}{key}"] = config.get_type(key)
  return found


def _keys(config: ConfigDict, prefix: str) -> list[str]:
  """Returns the keys of a section; raises `InputError` unless all are text."""
  where = f"`{prefix.rstrip('.')}`"
  try:
    found = list(config)  # They are sorted, which needs one type.
  except TypeError as error:
    problem = f"{where} has keys of several types. Keys must be text."
    raise command_line.InputError(problem) from error
  for key in found:
    if not isinstance(key, str):
      shown = value_types.shown(key)
      raise command_line.InputError(
        f"{where} has the key {shown}. Keys must be text."
      )
  return found


def _check_cluster(values: flags.FlagValues) -> None:
  """Raises `InputError` for flags of a cluster that is not joined."""
  given = [f"--{name}" for name in _CLUSTER if values[name].present]
  if given and not values.distributed:
    raise command_line.InputError(
      f"`--distributed=False` trains in this process alone, so {given[0]} has"
      " no effect. Leave one of them out."
    )


def _refuse_rest(rest: list[str]) -> None:
  for arg in rest:
    hint = f" Did you mean --{arg}?" if arg.startswith("config.") else ""
    raise command_line.InputError(
      f"The command line has an argument without a flag: {arg!r}.{hint}"
    )
