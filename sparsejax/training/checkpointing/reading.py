"""Reading checkpoints, verified against the digests that were saved."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from sparsejax.training import processes
from sparsejax.training.checkpointing import digests, errors, identity

PyTree = Any

FOLDER = "checkpoints"
"""The default folder of checkpoints in a workdir."""

_STEP = re.compile("0|[1-9][0-9]*")


def saved_steps(workdir: pathlib.Path, *, folder: str = FOLDER) -> list[int]:
  """Returns the saved steps, ascending; none if there is no folder.

  Args:
    workdir: workdir of a run.
    folder: name of the checkpoint folder in it.
  """
  directory = workdir / folder
  names = [p.name for p in directory.iterdir()] if directory.is_dir() else []
  return sorted(int(name) for name in names if _STEP.fullmatch(name))


def read(workdir: pathlib.Path, step: int, *, folder: str = FOLDER) -> PyTree:
  """Read a checkpoint of any run, in this process.

  Args:
    workdir: workdir of the run.
    step: one of `saved_steps`.
    folder: name of the checkpoint folder in it.

  Returns:
    Nested dicts of numpy arrays: a named tuple becomes a dict, a tuple a list,
    and a node without arrays None.

  Raises:
    CheckpointError: if the checkpoint is missing or damaged.
  """
  path = workdir.resolve() / folder / str(step)
  try:
    record = read_record(path)
    local = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    args = ocp.args.StandardRestore(fallback_sharding=local)
    state = _read_in_this_process(path, args)
    _check_digests(record, digests.tree_digests(state))
  except Exception as error:
    raise errors.CheckpointError(
      f"The checkpoint {path} cannot be read: {errors.first_line(error)}."
    ) from error
  return jax.tree.map(np.asarray, state)


def restore(
  path: pathlib.Path, abstract_state: PyTree, *, run: Mapping[str, Any]
) -> PyTree:
  """Restore a checkpoint of a given run; a collective call.

  Args:
    path: folder of the checkpoint.
    abstract_state: tree of `jax.ShapeDtypeStruct` with shardings.
    run: `config` and `sparse_leaves`, as in the record.

  Returns:
    The saved tree.

  Raises:
    DamagedError: if it differs from what was saved.
    CheckpointError: if it belongs to another run; names the differences.
  """
  record = in_agreement(lambda: read_record(path))
  _check_identity(
    path, record, {**run, "leaves": identity.signatures(abstract_state)}
  )
  state = in_agreement(lambda: _read_state(path, abstract_state))
  found = in_agreement(lambda: digests.tree_digests(state))
  _check_digests(record, found)
  return state


def read_record(path: pathlib.Path) -> identity.Record:
  """Returns the record of a checkpoint.

  Raises:
    DamagedError: if it cannot be read, or is that of another step.
  """
  # Not with Orbax: preservation policies call this on a thread where Orbax's
  # barriers do not work.
  try:
    record = identity.unseal((path / "record" / "metadata").read_bytes())
  except (OSError, ValueError) as error:
    raise errors.DamagedError(f"its record cannot be read ({error})") from error
  step = record.get("step")
  if record["format"] == identity.FORMAT and str(step) != path.name:
    raise errors.DamagedError(f"it is a copy of step {step}")
  return record


def in_agreement(read: Callable[[], Any]) -> Any:
  """Call `read` in every process; damage seen by one counts for all.

  Raises:
    DamagedError: in every process.
  """
  try:
    result, error = read(), None
  except Exception as caught:
    result, error = None, caught
  if processes.any_of(error is not None):
    if isinstance(error, errors.DamagedError):
      raise error
    raise errors.DamagedError(
      errors.first_line(error) if error else "another process cannot read it"
    ) from error
  return result


def without_empty(tree: PyTree) -> PyTree:
  """Returns the tree with None for arrays of size 0, which Orbax refuses."""
  return jax.tree.map(lambda leaf: leaf if 0 not in leaf.shape else None, tree)


def _check_identity(
  path: pathlib.Path, record: identity.Record, requested: identity.Record
) -> None:
  if record["format"] != identity.FORMAT:
    raise errors.CheckpointError(
      f"The checkpoint {path} has format {record['format']}, but this version"
      f" reads format {identity.FORMAT}. Use the version that saved it, or"
      " another workdir."
    )
  differ = identity.differences(record, requested)
  if differ:
    raise errors.CheckpointError(
      f"The checkpoint {path} belongs to another run:"
      f" {identity.join(differ)}. Use the config of that run, or another"
      " workdir."
    )


def _read_state(path: pathlib.Path, abstract_state: PyTree) -> PyTree:
  """Returns the arrays of a checkpoint, sharded as the abstract state says."""
  args = ocp.args.StandardRestore(without_empty(abstract_state))
  return _with_empty(_read_in_this_process(path, args), abstract_state)


def _check_digests(record: identity.Record, found: Mapping[str, int]) -> None:
  """Raise if the digest of a leaf differs from the recorded one.

  Raises:
    DamagedError: names the leaf.
  """
  wrong = [n for n, d in found.items() if record["digests"].get(n) != d]
  if wrong:
    raise errors.DamagedError(f"the bytes of `{wrong[0]}` have changed")


def _with_empty(state: PyTree, abstract_state: PyTree) -> PyTree:
  leaves = iter(jax.tree.leaves(state))
  return jax.tree.map(
    lambda leaf: next(leaves) if 0 not in leaf.shape else _empty(leaf),
    abstract_state,
  )


def _empty(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  zeros = np.zeros(leaf.shape, leaf.dtype)
  return jax.make_array_from_callback(
    leaf.shape, leaf.sharding, lambda index: zeros[index]
  )


def _read_in_this_process(
  path: pathlib.Path, args: ocp.args.StandardRestore
) -> PyTree:
  # Each process reads its own shards. A read by the manager ends with a
  # barrier, which a process whose read fails never reaches.
  alone = ocp.options.MultiprocessingOptions(
    primary_host=jax.process_index(), active_processes={jax.process_index()}
  )
  handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
  with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
    return reader.restore(path / "state", args=args)
