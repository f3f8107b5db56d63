"""The record of a checkpoint, and how it differs from the current run.

The record is a JSON object with at least:

- `format`: `FORMAT`,
- `step`: completed steps, as in the name of the checkpoint's folder,
- `config`: the resolved config of the run,
- `sparse_leaves`: sorted names of the parameters that have a mask,
- `leaves`: leaf name -> dtype and shape, such as `float32[64,10]`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from sparsejax.training.checkpointing import digests

PyTree = Any
Record = Mapping[str, Any]

FORMAT = 2
"""The format of checkpoints; others are refused."""

_MAX_LISTED = 6

# A run may be resumed on another mesh.
_NOT_OF_THE_RUN = ("mesh",)


def seal(record: Record) -> dict[str, Any]:
  """Packs a record with the checksum of its text."""
  text = json.dumps(record, sort_keys=True)
  return {"record": text, "crc32": zlib.crc32(text.encode())}


def unseal(data: bytes) -> Record:
  """Unpacks the JSON text of what `seal` returned.

  Raises:
    ValueError: if a byte of it has changed.
  """
  try:
    sealed = json.loads(data)
    text, checksum = sealed["record"], sealed["crc32"]
    intact = zlib.crc32(text.encode()) == checksum
  except (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RecursionError,
  ) as error:
    raise ValueError("it is not what was written") from error
  if not intact:
    raise ValueError("its checksum does not match")
  return json.loads(text)


def signatures(state: PyTree) -> dict[str, str]:
  """Leaf name -> dtype and shape, of arrays or `jax.ShapeDtypeStruct`."""
  return {
    digests.leaf_name(path): (f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]")
    for path, leaf in jax.tree.leaves_with_path(state)
  }


def differences(saved: Record, requested: Record) -> list[str]:
  """Compare configs, then sparse leaves, then shapes and dtypes.

  Returns:
    One phrase per difference, empty if there is none. If one kind differs,
    later kinds are omitted, since they follow from it.
  """
  return (
    config_differences(saved["config"], requested["config"])
    or _name_differences(saved["sparse_leaves"], requested["sparse_leaves"])
    or leaf_differences(saved["leaves"], requested["leaves"])
  )


def config_differences(
  saved: Mapping[str, Any], requested: Mapping[str, Any]
) -> list[str]:
  """Returns one phrase per key that differs between the configs of two runs.

  `mesh` is no part of a run: it says which devices it uses.
  """
  return _value_differences(flat(_of_run(saved)), flat(_of_run(requested)))


def leaf_differences(
  saved: Mapping[str, Any], requested: Mapping[str, Any]
) -> list[str]:
  """Returns one phrase per leaf that differs between two `signatures`."""
  return _value_differences(saved, requested)


def join(phrases: Sequence[str]) -> str:
  """Joins the first few differences, and counts the rest."""
  rest = len(phrases) - _MAX_LISTED
  more = [f"and {rest} more"] if rest > 0 else []
  return "; ".join([*phrases[:_MAX_LISTED], *more])


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Joins nested keys with dots, as on the command line."""
  joined = {}
  for key, value in config.items():
    if isinstance(value, Mapping) and value:
      joined |= flat(value, f"{prefix}{key}.")
    else:
      joined[f"{prefix}{key}"] = value
  return joined


def _value_differences(
  saved: Mapping[str, Any], requested: Mapping[str, Any]
) -> list[str]:
  return [
    f"`{key}` is {_text(saved, key)} there and {_text(requested, key)} here"
    for key in sorted(saved.keys() | requested.keys())
    if _text(saved, key) != _text(requested, key)
  ]


def _of_run(config: Mapping[str, Any]) -> dict[str, Any]:
  return {k: v for k, v in config.items() if k not in _NOT_OF_THE_RUN}


def _text(values: Mapping[str, Any], key: str) -> str:
  return json.dumps(values[key]) if key in values else "missing"


def _name_differences(
  saved: Sequence[str], requested: Sequence[str]
) -> list[str]:
  removed = sorted(set(saved) - set(requested))
  added = sorted(set(requested) - set(saved))
  return [f"`{name}` is sparse there and dense here" for name in removed] + [
    f"`{name}` is dense there and sparse here" for name in added
  ]
