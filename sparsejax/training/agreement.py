"""Agreement: processes that train together run the same, or none of them runs.

A process with another seed, sparsity or version would train along: the masks
would be a mixture that no config describes. So each process collects what must
be equal (`facts`, without using a device, and `device_facts`), and `check`
compares it through the coordination service, before anything is compiled.
"""

import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import socket
import time
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import sparsejax
from sparsejax import command_line
from sparsejax.data import Dataset, Resident, Stream
from sparsejax.training import coordination
from sparsejax.training.checkpointing import identity

Facts = Mapping[str, Any]
"""Name of a fact, such as `config.seed` or `jax`, -> a JSON value."""

_FOLDER = "sparsejax_agreement"
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
# The options of jax that change what is computed, or on what.
_OPTIONS = (
  "jax_platforms",
  "jax_enable_x64",
  "jax_default_matmul_precision",
  "jax_default_prng_impl",
  "jax_threefry_partitionable",
)

_numbers = itertools.count()


def facts(
  config: Mapping[str, Any], workdir: pathlib.Path | None
) -> dict[str, Any]:
  """Collect what must be equal in all processes; uses no device.

  Args:
    config: of the command line, with its overrides; nested.
    workdir: folder of the run.

  Returns:
    The values of the config, the workdir, a digest of the package's source
    (uncommitted changes count too), versions, and what changes compiled
    programs: flags of XLA and options of jax.
  """
  values = {f"config.{key}": v for key, v in identity.flat(config).items()}
  return {
    **values,
    "--workdir": None if workdir is None else str(workdir),
    **environment(),
  }


def environment() -> dict[str, Any]:
  """Collect what decides how a config computes; uses no device."""
  versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
  return {
    "sparsejax": sparsejax.__version__,
    "source of sparsejax": _source_digest(),
    "python": platform.python_version(),
    **versions,
    **{name: os.environ.get(name, "") for name in _VARIABLES},
    **{name: getattr(jax.config, name) for name in _OPTIONS},
  }


def device_facts() -> dict[str, Any]:
  """Collect what must be equal of the devices; the first use of them."""
  devices = jax.local_devices()
  return {
    "devices": len(devices),
    "device kinds": sorted({device.device_kind for device in devices}),
  }


def data_facts(dataset: Dataset) -> dict[str, Any]:
  """Collect what must be equal of the data.

  Returns:
    Number and shape of the examples of each split, and a checksum of those in
    memory; reading a stream to its end would take too long.
  """
  return {
    f"{name} split": _split_facts(split)
    for name in ("train", "validation", "test")
    if (split := getattr(dataset, name)) is not None
  }


def _split_facts(split: Resident | Stream) -> dict[str, Any]:
  shapes = [list(x.shape[1:]) for x in jax.tree.leaves(split.example)]
  found = {"examples": split.examples, "shapes": shapes}
  if not isinstance(split, Stream):
    arrays = map(np.ascontiguousarray, jax.tree.leaves(split))
    found["crc32"] = [zlib.crc32(array.data) for array in arrays]
  return found


def check(name: str, facts: Facts, *, seconds: float) -> None:
  """Compare facts with process 0, as in `differences`.

  Raises:
    InputError: in every process, if a fact differs: names it, both values,
      processes and hosts.
    PeerError: in every process, if one does not answer in time; names it.
  """
  differ = differences(name, facts, seconds=seconds)
  if differ:
    raise command_line.InputError(
      f"The processes that train together differ: {differ}. Start all of them"
      " with the same code, command line and environment."
    )


def differences(name: str, facts: Facts, *, seconds: float) -> str:
  """Compare facts with process 0; every process calls it, in the same order.

  Each process compares its own facts with those of process 0, which collects
  what differs, so that all processes return the same.

  Args:
    name: of this comparison.
    facts: of this process.
    seconds: how long to wait for the other processes.

  Returns:
    The facts that differ, with both values, processes and hosts; "" if none
    does.

  Raises:
    PeerError: in every process, if one does not answer in time; names it.
  """
  if coordination.count() == 1:
    return ""
  mine = json.dumps({"host": socket.gethostname(), "facts": facts}, default=str)
  number = next(_numbers)
  place = f"{_FOLDER}/{number}"
  if coordination.index() == 0:
    verdict = _collect(place, mine, seconds)
    coordination.forget(f"{_FOLDER}/{number - 1}")  # Which all have read.
  else:
    verdict = _answer(place, mine, seconds)
  if verdict["missing"]:
    raise command_line.PeerError(
      f"{coordination.named(verdict['missing'])} did not answer within"
      f" {seconds:g} s, when all compared `{name}`."
    )
  return identity.join(verdict["differences"])


def _collect(place: str, mine: str, seconds: float) -> dict[str, list]:
  """Publishes the facts of process 0, and a verdict on the others."""
  coordination.put(f"{place}/first", mine)
  deadline = time.monotonic() + seconds
  missing, differ = [], []
  for index in range(1, coordination.count()):
    left = deadline - time.monotonic()
    answer = coordination.get(f"{place}/{index}", seconds=left)
    if answer is None:
      missing.append(index)
    else:
      differ += json.loads(answer)
  verdict = {"missing": missing, "differences": differ}
  coordination.put(f"{place}/verdict", json.dumps(verdict))
  return verdict


def _answer(place: str, mine: str, seconds: float) -> dict[str, list]:
  """Publishes how this process differs; returns the verdict of process 0."""
  first = coordination.get(f"{place}/first", seconds=seconds)
  if first is not None:
    differ = _differences(json.loads(first), json.loads(mine))
    coordination.put(f"{place}/{coordination.index()}", json.dumps(differ))
    # Process 0 may have begun to wait for others just now.
    verdict = coordination.get(f"{place}/verdict", seconds=2 * seconds)
    if verdict is not None:
      return json.loads(verdict)
  return {"missing": [0], "differences": []}


def _differences(first: Mapping[str, Any], mine: Mapping[str, Any]) -> list:
  """Returns one phrase for each fact that differs from process 0."""
  theirs, ours, index = first["facts"], mine["facts"], coordination.index()
  return [
    f"`{key}` is {_shown(theirs, key)} in process 0 on {first['host']} and"
    f" {_shown(ours, key)} in process {index} on {mine['host']}"
    for key in sorted(theirs.keys() | ours.keys())
    if _shown(theirs, key) != _shown(ours, key)
  ]


def _shown(facts: Facts, key: str) -> str:
  return json.dumps(facts[key]) if key in facts else "missing"


def _source_digest() -> str:
  """Returns a checksum of the package's modules."""
  package = pathlib.Path(sparsejax.__file__).parent
  digest = 0
  for path in sorted(package.rglob("*.py")):
    name = path.relative_to(package).as_posix().encode()
    digest = zlib.crc32(path.read_bytes(), zlib.crc32(name, digest))
  return f"{digest:08x}"
