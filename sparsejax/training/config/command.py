"""The command line: flags, a config file, and changes of its values."""

import functools
import importlib.util
import pathlib
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from sparsejax import command_line
from sparsejax.training.config import build


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


def parse(argv: Sequence[str]) -> Command:
  """Read a command line.

  Args:
    argv: the arguments without the program's name.

  Returns:
    What it asks for.

  Raises:
    InputError: if an argument is not known, has a wrong value or is missing.
  """
  values = _flags()
  source, changes = _split(argv)
  config = _load(*source.partition(":")[::2])
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
    name=pathlib.Path(source.partition(":")[0]).stem,
    flags=values,
  )


def flag_help() -> str:
  """Returns the help text of the flags."""
  return _flags().get_help()


def flag_names() -> list[str]:
  """Returns the names of the flags, without those of a config."""
  return sorted(set(_flags()) - {"workdir"})


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
  flags.DEFINE_integer(
    "heartbeat_timeout_seconds",
    100,
    "How long after a process was lost the others end.",
    lower_bound=1,
    flag_values=values,
  )
  return values


def _split(argv: Sequence[str]) -> tuple[str, list[str]]:
  """Returns what `--config` is given, and all other arguments."""
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
      f"`--config=FILE[:OPTIONS]` must be given once, got {len(sources)}"
      " times. The main job is --config=configs/digits.py."
    )
  return sources[0], others


def _load(file: str, options: str) -> ConfigDict:
  """Returns the locked config that a file makes of its options."""
  path = pathlib.Path(file)
  if not path.is_file():
    near = sorted(str(p) for p in pathlib.Path("configs").glob("*.py"))
    raise command_line.unknown("`--config`", file, near)
  module = load_module(path)
  if not hasattr(module, "get_config"):
    raise command_line.InputError(f"`--config` {file} has no `get_config`.")
  config = module.get_config(options or None)
  return config.lock()


def load_module(path: pathlib.Path) -> ModuleType:
  """Run a Python file of the user's and return it as a module.

  Args:
    path: exists.

  Raises:
    InputError: if it is no Python file.
  """
  spec = importlib.util.spec_from_file_location("_sparsejax_config", path)
  if spec is None or spec.loader is None:
    raise command_line.InputError(f"A config must be a .py file, got {path}.")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _check_flags(
  argv: Sequence[str], config: ConfigDict, values: flags.FlagValues
) -> None:
  """Refuses flags that do not exist, with the nearest that does."""
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
  """Gives a section the arguments of the name that it is changed to."""
  rest = []
  for arg in argv:
    match = re.fullmatch(r"--?config\.(\w+)\.name=(.*)", arg)
    if match is None or match[1] not in build.KINDS:
      rest.append(arg)
    elif match[2] != config[match[1]].name:
      with config.unlocked():
        config[match[1]] = ConfigDict(build.section(match[1], match[2]))
  config.lock()
  return rest


def _clear(argv: Sequence[str], config: Any) -> list[str]:
  """Sets to nothing what is given as `none`, and returns the other changes."""
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
