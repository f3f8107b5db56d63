"""What a checkpoint says it is: a sealed record, and what differs from a run.

The record is one JSON object:

- `config`: the resolved config of the run,
- `sparse_leaves`: sorted names of the parameters that have a mask,
- `leaves`: leaf name to dtype and shape, like `float32[64,10]`,
- and whatever else was put into it.
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

_MOST_TOLD = 6


def seal(record: Record) -> dict[str, Any]:
  """Packs a record with the checksum of its text."""
  text = json.dumps(record, sort_keys=True)
  return {"record": text, "crc32": zlib.crc32(text.encode())}


def unseal(data: bytes) -> Record:
  """Reads the JSON text of what `seal` made.

  Raises:
    ValueError: if a byte of it has changed.
  """
  try:
    sealed = json.loads(data)
    text, checksum = sealed["record"], sealed["crc32"]
    intact = zlib.crc32(text.encode()) == checksum
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise ValueError("it is not what was written") from error
  if not intact:
    raise ValueError("its checksum does not match")
  return json.loads(text)


def signatures(state: PyTree) -> dict[str, str]:
  """Leaf name to dtype and shape, of arrays or `jax.ShapeDtypeStruct`."""
  return {
    digests.leaf_name(path): (f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]")
    for path, leaf in jax.tree.leaves_with_path(state)
  }


def differences(saved: Record, requested: Record) -> list[str]:
  """Says what differs: config keys, else sparse leaves, else shapes and dtypes.

  Returns:
    One phrase for each difference, none if there is none. The later kinds are
    left out where an earlier one explains them.
  """
  return (
    _value_differences(_flat(saved["config"]), _flat(requested["config"]))
    or _name_differences(saved["sparse_leaves"], requested["sparse_leaves"])
    or _value_differences(saved["leaves"], requested["leaves"])
  )


def told(phrases: Sequence[str]) -> str:
  """Joins what `differences` found, the first few of many."""
  left = len(phrases) - _MOST_TOLD
  more = [f"and {left} more"] if left > 0 else []
  return "; ".join([*phrases[:_MOST_TOLD], *more])


def _value_differences(
  saved: Mapping[str, Any], requested: Mapping[str, Any]
) -> list[str]:
  return [
    f"`{key}` is {_shown(saved, key)} there and {_shown(requested, key)} here"
    for key in sorted(saved.keys() | requested.keys())
    if _shown(saved, key) != _shown(requested, key)
  ]


def _shown(values: Mapping[str, Any], key: str) -> str:
  return json.dumps(values[key]) if key in values else "missing"


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Nested keys joined with dots, as they are written on a command line."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, Mapping) and value:
      flat |= _flat(value, f"{prefix}{key}.")
    else:
      flat[f"{prefix}{key}"] = value
  return flat


def _name_differences(
  saved: Sequence[str], requested: Sequence[str]
) -> list[str]:
  gone, new = (
    sorted(set(saved) - set(requested)),
    sorted(set(requested) - set(saved)),
  )
  return [f"`{name}` is sparse there and dense here" for name in gone] + [
    f"`{name}` is dense there and sparse here" for name in new
  ]
