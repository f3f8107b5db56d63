"""Orbax's `CheckpointManager`, configured for shared folders and crashes."""

from __future__ import annotations

import pathlib
import shutil
import sys

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from sparsejax.training import coordination, processes
from sparsejax.training.checkpointing import best, errors

_UNFINISHED = ".orbax-checkpoint-tmp"
# If the newest is damaged, the previous one is needed.
_NEWEST = 2


def make_shared_folder(directory: pathlib.Path) -> None:
  """Make the checkpoint folder once; every process must see it.

  Raises:
    CheckpointError: in every process, if it cannot be made or is not shared.
  """
  error = None
  if processes.is_first():
    try:
      directory.mkdir(parents=True, exist_ok=True)
    except OSError as caught:
      error = caught
  processes.barrier("checkpoints_made")
  if processes.any_of(error is not None or not directory.is_dir()):
    why = errors.cause(error) if error else "not all processes see it"
    raise errors.CheckpointError(
      f"{directory} cannot be used: {why}."
    ) from error


def make_manager(
  directory: pathlib.Path, *, best_policy: best.BestPolicy, keep_all: bool
) -> ocp.CheckpointManager:
  """Make a manager, and remove what an interrupted save left.

  Args:
    directory: folder of the checkpoints.
    best_policy: keeps the best checkpoint.
    keep_all: keeps all checkpoints, instead of the newest two and the best.

  Raises:
    CheckpointError: if the folder cannot be used.
  """
  policy = checkpoint_managers.AnyPreservationPolicy(
    [
      # `None` keeps all of them.
      checkpoint_managers.LatestN(None if keep_all else _NEWEST),
      best_policy,
    ]
  )
  try:
    _remove_unfinished(directory)
    return ocp.CheckpointManager(
      directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        create=False,
        save_root_metadata=False,
        # Otherwise it reads files of every step here, and a damaged one would
        # raise.
        lightweight_initialize=True,
        async_options=ocp.AsyncOptions(
          barrier_sync_fn=_barrier,
          # Otherwise a thread makes the folders, and if it fails, others wait
          # 20 minutes for its signal, and the interpreter for them.
          create_directories_asynchronously=False,
        ),
      ),
    )
  except OSError as error:
    raise errors.CheckpointError(
      f"{directory} cannot be used: {errors.cause(error)}."
    ) from error


def discard(checkpoint: pathlib.Path) -> None:
  """Removes a checkpoint; if killed meanwhile, none or a whole one is left."""
  renamed = checkpoint.with_name(f"{checkpoint.name}{_UNFINISHED}-discarded")
  checkpoint.rename(renamed)
  shutil.rmtree(renamed)


def _barrier(*, key: str, timeout_ms: int) -> None:
  """Orbax's barrier, except that it names who does not come.

  A process whose save failed does not wait: Orbax would wait for the others
  before it raises, while they wait (for 20 minutes) for what this process did
  not write.
  """
  error = sys.exception()
  if error is not None and jax.process_count() > 1:
    raise error
  if jax.process_count() > 1:
    coordination.unique_barrier(key, timeout_ms / 1000)


def _remove_unfinished(directory: pathlib.Path) -> None:
  # Orbax does this on a thread that may outlive the run and then logs errors.
  if processes.is_first():
    for unfinished in directory.glob(f"*{_UNFINISHED}*"):
      shutil.rmtree(unfinished, ignore_errors=True)
