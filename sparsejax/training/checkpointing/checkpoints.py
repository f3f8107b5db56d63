"""Whole training states on disk: saved at once or not at all, and verified.

Orbax writes a checkpoint beside its final name and renames it when it is
complete, so that a killed process or a full disk never leaves half of one under
a step's number. What Orbax does not do is done here:

- Damage. A flipped byte in array data restores without an error. Every save
  therefore records a digest of each leaf, and a restore that does not give the
  same digests is refused; the checkpoint before it is used.
- Identity. Orbax casts to the dtypes that it is requested and restores into a
  state with fewer masks. Every save therefore records the config, the sparse
  leaves, and the shape and dtype of each leaf, all compared before restoring.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from sparsejax.training import processes
from sparsejax.training.checkpointing import (
  best,
  digests,
  identity,
  orbax_stderr,
)

PyTree = Any

FOLDER = "checkpoints"
_FORMAT = 1
_DAMAGED_FOLDER = "checkpoints_damaged"
_UNFINISHED = ".orbax-checkpoint-tmp"
# The newest may be damaged, then the one before it is needed.
_NEWEST_KEPT = 2
_DISK_FULL_TEXTS = ("no space left", "quota exceeded", "file too large")


class CheckpointError(Exception):
  """A checkpoint could not be written, or does not belong to this run."""


class Restored(NamedTuple):
  """What `Checkpoints.restore_newest` or `restore_best` found.

  Attributes:
    state: the tree that was saved, placed as the abstract state requested.
    step: optimizer steps that were completed when it was saved.
    skipped: one line for each newer or better checkpoint that is damaged, and
      why.
  """

  state: PyTree
  step: int
  skipped: tuple[str, ...]


class _DamagedError(Exception):
  """What was read is not what was written."""


def open(
  workdir: pathlib.Path,
  *,
  fingerprint: str,
  sparse_leaves: tuple[str, ...],
  keep_best_by: str | None = "test_accuracy",
  keep_all: bool = False,
  folder: str = FOLDER,
) -> Checkpoints:
  """Opens the checkpoints of a run, and clears what a killed save left behind.

  With several processes all of them call this, and every method, together.

  Args:
    workdir: folder of the run, made if it is missing; all processes share it.
    fingerprint: the resolved config as JSON text; a restore compares it key by
      key.
    sparse_leaves: names of the parameters that have a mask.
    keep_best_by: the accuracy by which one is the best of those with the fewest
      active weights (`best`); that one is kept beside the newest two. None
      keeps the newest two alone.
    keep_all: keeps every checkpoint instead.
    folder: name of their folder in `workdir`.

  Raises:
    ValueError: if `fingerprint` is not a JSON object.
    CheckpointError: if the folder cannot be made or is not shared.
  """
  config = json.loads(fingerprint)
  if not isinstance(config, dict):
    raise ValueError(
      f"`fingerprint` must be a JSON object, got {fingerprint[:60]!r}."
    )
  workdir = pathlib.Path(workdir).resolve()
  directory = workdir / folder
  _make_shared(directory)
  return Checkpoints(
    directory,
    run={"config": config, "sparse_leaves": sorted(sparse_leaves)},
    keep_best_by=keep_best_by,
    keep_all=keep_all,
  )


def steps(workdir: pathlib.Path, *, folder: str = FOLDER) -> list[int]:
  """Returns the steps that were saved, ascending; none where there is nothing.

  Args:
    workdir: folder of a run.
    folder: name of the checkpoints' folder in it.
  """
  directory = workdir / folder
  names = [p.name for p in directory.iterdir()] if directory.is_dir() else []
  return sorted(int(name) for name in names if name.isdigit())


def read(workdir: pathlib.Path, step: int, *, folder: str = FOLDER) -> PyTree:
  """Reads a checkpoint of any run, whatever its config, in this process.

  Args:
    workdir: folder of the run.
    step: one of `steps`.
    folder: name of the checkpoints' folder in it.

  Returns:
    Nested dicts of numpy arrays: a named tuple is a dict, a tuple a list, and
    a node without arrays is None.

  Raises:
    CheckpointError: if it is not there, or damaged.
  """
  place = workdir.resolve() / folder / str(step)
  try:
    record = _read_record(place)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    state = _read_alone(place, ocp.args.StandardRestore(fallback_sharding=here))
    _check_digests(record, digests.tree_digests(state))
  except Exception as error:
    raise CheckpointError(
      f"The checkpoint {place} cannot be read: {_first_line(error)}."
    ) from error
  return jax.tree.map(np.asarray, state)


class Checkpoints:
  """The checkpoints of one run; made by `open`."""

  def __init__(
    self,
    directory: pathlib.Path,
    *,
    run: Mapping[str, Any],
    keep_best_by: str | None,
    keep_all: bool,
  ):
    self._directory = directory
    self._run = run
    self._keep_all = keep_all
    self._keep_best_by = keep_best_by
    self._best = best.KeepBest(keep_best_by, self._recorded_metrics)
    self._pending: int | None = None
    self._manager = self._new_manager()
    self._silence = contextlib.ExitStack()
    self._silence.enter_context(orbax_stderr.silenced())

  def save(
    self, step: int, state: PyTree, *, metrics: Mapping[str, float]
  ) -> None:
    """Starts to save `state`, and returns as soon as it may be donated.

    Waits for the save before this one. Saving the newest step again does
    nothing.

    Args:
      step: completed optimizer steps; above every step that is on disk.
      state: tree of arrays.
      metrics: numbers that belong to this step, recorded with it. Without the
        accuracy it is never the best one.

    Raises:
      CheckpointError: if this save, or the one before it, failed. Every older
        checkpoint is whole, `state` is unharmed, and calling again tries again.
      ValueError: if `step` is below the newest one.
    """
    self._wait()
    newest = self._manager.latest_step()
    if newest is not None and step <= newest:
      if step == newest:
        return
      raise ValueError(
        f"`step` must be above {newest}, the newest, got {step}."
      )
    record = self._record(step, state, metrics)
    self._best.remember(step, record["metrics"])
    self._pending = step
    try:
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(_without_empty(state)),
          record=ocp.args.JsonSave(identity.seal(record)),
        ),
      )
    except Exception as error:
      raise self._save_failed(error) from error

  def restore_newest(self, abstract_state: PyTree) -> Restored | None:
    """Restores the newest checkpoint that is whole.

    Damaged ones that are newer than it are moved to `checkpoints_damaged`, so
    that their steps can be saved again.

    Args:
      abstract_state: tree of `jax.ShapeDtypeStruct` with shardings; they need
        not be those of the run that saved.

    Returns:
      The state, its step and what was skipped, or None if there is no
      checkpoint.

    Raises:
      CheckpointError: if the newest readable checkpoint is of another config,
        other sparse leaves, other shapes or other dtypes; it names what
        differs. Also if there are checkpoints and none of them is whole.
      ValueError: if a leaf of `abstract_state` has no sharding.
    """
    _check_placed(abstract_state)
    self._wait()
    damaged: dict[int, str] = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      state, why = self._try_restore(step, abstract_state)
      if why is None:
        self._set_aside(list(damaged))
        return Restored(state, step, tuple(damaged.values()))
      damaged[step] = _is_damaged(step, why)
      orbax_stderr.wait()
    if damaged:
      raise CheckpointError(
        f"No checkpoint in {self._directory} is whole: "
        + "; ".join(damaged.values())
        + ". Remove that folder to start from the beginning."
      )
    return None

  def restore_best(self, abstract_state: PyTree, last: Restored) -> Restored:
    """Restores the best checkpoint that is whole.

    Damaged ones that would be better are moved to `checkpoints_damaged`.

    Args:
      abstract_state: as for `restore_newest`.
      last: the newest step and its state, which need not be read.

    Returns:
      The state, its step and what was skipped; those of `last` where it is the
      best one, or where no other can be told to be.

    Raises:
      CheckpointError: if the last save failed, or as in `restore_newest`.
    """
    assert self._keep_best_by is not None
    self._wait()
    damaged: dict[int, str] = {}
    found: dict[int, best.Metrics | None] = {}
    for step in sorted(self._manager.all_steps()):
      try:
        found[step] = self._read_metrics(step)
      except _DamagedError as error:
        damaged[step] = _is_damaged(step, error)
    restored = last
    for step in best.best_first(found, self._keep_best_by):
      if step == last.step:
        break
      state, why = self._try_restore(step, abstract_state)
      if why is None:
        restored = Restored(state, step, ())
        break
      damaged[step] = _is_damaged(step, why)
      orbax_stderr.wait()
    self._set_aside(list(damaged))
    return restored._replace(skipped=tuple(damaged.values()))

  def close(self) -> None:
    """Waits for the pending save.

    Raises:
      CheckpointError: if it failed.
    """
    try:
      self._wait()
    finally:
      self._manager.close()
      self._silence.close()

  def _record(
    self, step: int, state: PyTree, metrics: Mapping[str, float]
  ) -> dict[str, Any]:
    return {
      "format": _FORMAT,
      "step": step,
      **self._run,
      "leaves": identity.signatures(state),
      "digests": digests.tree_digests(state),
      "metrics": {name: float(value) for name, value in metrics.items()},
    }

  def _wait(self) -> None:
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      raise self._save_failed(error) from error
    self._pending = None

  def _save_failed(self, error: Exception) -> CheckpointError:
    """Makes the manager usable again, and the error that says what happened."""
    step, self._pending = self._pending, None
    self._reopen()
    orbax_stderr.wait()
    newest = self._manager.latest_step()
    kept = (
      "There is no older checkpoint."
      if newest is None
      else f"The newest whole checkpoint is step {newest}."
    )
    return CheckpointError(
      f"Step {step} could not be saved in {self._directory}: "
      f"{_cause(error)}. Nothing that was saved before is lost. {kept}"
    )

  def _reopen(self) -> None:
    try:
      self._manager.close()
    except Exception:  # The failed save, once more.
      pass
    self._manager = self._new_manager()

  def _new_manager(self) -> ocp.CheckpointManager:
    keep = checkpoint_managers.AnyPreservationPolicy(
      [
        # Without a number, all of them.
        checkpoint_managers.LatestN(None if self._keep_all else _NEWEST_KEPT),
        self._best,
      ]
    )
    try:
      _remove_leftovers(self._directory)
      return ocp.CheckpointManager(
        self._directory,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=keep,
          create=False,
          save_root_metadata=False,
          # Reading every step's files here would let a damaged one stop
          # the start.
          lightweight_initialize=True,
          async_options=ocp.AsyncOptions(barrier_sync_fn=_barrier),
        ),
      )
    except OSError as error:
      raise CheckpointError(
        f"{self._directory} cannot be used: {_cause(error)}."
      ) from error

  def _recorded_metrics(self, step: int) -> best.Metrics | None:
    try:
      return _read_record(self._directory / str(step))["metrics"]
    except _DamagedError:
      return None

  def _read_metrics(self, step: int) -> best.Metrics:
    """Returns the same, or raises in every process."""
    return _agreed(lambda: _read_record(self._directory / str(step)))["metrics"]

  def _try_restore(
    self, step: int, abstract_state: PyTree
  ) -> tuple[PyTree, str | None]:
    """Returns the state and None, or None and how it is damaged."""
    try:
      return self._restore(step, abstract_state), None
    except _DamagedError as error:
      return None, str(error)

  def _restore(self, step: int, abstract_state: PyTree) -> PyTree:
    folder = self._directory / str(step)
    record = _agreed(lambda: _read_record(folder))
    self._check_identity(step, record, abstract_state)
    state = _agreed(lambda: _read_state(folder, abstract_state))
    found = _agreed(lambda: digests.tree_digests(state))
    _check_digests(record, found)
    return state

  def _check_identity(
    self, step: int, record: Mapping[str, Any], abstract_state: PyTree
  ) -> None:
    if record["format"] != _FORMAT:
      raise CheckpointError(
        f"Checkpoint {step} in {self._directory} has format "
        f"{record['format']}; this version reads format {_FORMAT}."
      )
    requested = {**self._run, "leaves": identity.signatures(abstract_state)}
    differences = identity.differences(record, requested)
    if differences:
      raise CheckpointError(
        f"Checkpoint {step} in {self._directory} is of another run: "
        + identity.told(differences)
        + ". Run with what it was made with, or use another workdir."
      )

  def _set_aside(self, steps: Sequence[int]) -> None:
    """Moves damaged steps away: Orbax saves no step that is on disk."""
    if not steps:
      return
    if processes.is_first():
      for step in steps:
        target = self._directory.parent / _DAMAGED_FOLDER / str(step)
        while target.exists():
          target = target.with_name(target.name + "_again")
        target.parent.mkdir(exist_ok=True)
        (self._directory / str(step)).rename(target)
    processes.wait("damaged_set_aside")
    self._reopen()


def _read_record(step_folder: pathlib.Path) -> identity.Record:
  # Read without Orbax: a preservation policy runs on a thread where Orbax's
  # barriers cannot be used.
  try:
    return identity.unseal((step_folder / "record" / "metadata").read_bytes())
  except (OSError, ValueError) as error:
    raise _DamagedError(f"its record cannot be read ({error})") from error


def _is_damaged(step: int, why: object) -> str:
  return f"checkpoint {step} is damaged: {why}"


def _check_digests(record: identity.Record, found: Mapping[str, int]) -> None:
  wrong = [n for n, d in found.items() if record["digests"].get(n) != d]
  if wrong:
    raise _DamagedError(f"the bytes of `{wrong[0]}` have changed")


def _read_state(step_folder: pathlib.Path, abstract_state: PyTree) -> PyTree:
  args = ocp.args.StandardRestore(_without_empty(abstract_state))
  return _with_empty(_read_alone(step_folder, args), abstract_state)


def _read_alone(
  step_folder: pathlib.Path, args: ocp.args.StandardRestore
) -> PyTree:
  # Each process reads its shards by itself. The manager would wait for the
  # others at the end of the read, and one that failed never comes there.
  alone = ocp.options.MultiprocessingOptions(
    primary_host=jax.process_index(), active_processes={jax.process_index()}
  )
  handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
  with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
    return reader.restore(step_folder / "state", args=args)


def _without_empty(tree: PyTree) -> PyTree:
  # Orbax refuses arrays without elements.
  return jax.tree.map(lambda leaf: leaf if 0 not in leaf.shape else None, tree)


def _with_empty(state: PyTree, abstract_state: PyTree) -> PyTree:
  whole = iter(jax.tree.leaves(state))
  return jax.tree.map(
    lambda leaf: next(whole) if 0 not in leaf.shape else _empty(leaf),
    abstract_state,
  )


def _empty(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  zeros = np.zeros(leaf.shape, leaf.dtype)
  return jax.make_array_from_callback(
    leaf.shape, leaf.sharding, lambda index: zeros[index]
  )


def _agreed(read: Callable[[], Any]) -> Any:
  """Calls `read` in every process; damage seen by one is damage for all."""
  try:
    result, error = read(), None
  except Exception as caught:
    result, error = None, caught
  if processes.any_of(error is not None):
    if isinstance(error, _DamagedError):
      raise error
    raise _DamagedError(
      _first_line(error) if error else "another process could not read it"
    ) from error
  return result


def _make_shared(directory: pathlib.Path) -> None:
  """Makes the folder once; a process that does not see it must not go on."""
  error = None
  if processes.is_first():
    try:
      directory.mkdir(parents=True, exist_ok=True)
    except OSError as caught:
      error = caught
  processes.wait("checkpoints_made")
  if processes.any_of(error is not None or not directory.is_dir()):
    why = _cause(error) if error else "not all processes see it"
    raise CheckpointError(f"{directory} cannot be used: {why}.") from error


def _barrier(*, key: str, timeout_ms: int) -> None:
  """Orbax's barrier, where a process whose save has failed does not wait.

  Orbax waits for the other processes before it tells what failed, and they
  wait, for 20 minutes, for what this one has not written.
  """
  error = sys.exception()
  if error is not None and jax.process_count() > 1:
    raise error
  ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


def _remove_leftovers(directory: pathlib.Path) -> None:
  # Orbax does this from a thread that may outlive the run, and then complains.
  if processes.is_first():
    for leftover in directory.glob(f"*{_UNFINISHED}*"):
      shutil.rmtree(leftover, ignore_errors=True)


def _check_placed(abstract_state: PyTree) -> None:
  for path, leaf in jax.tree.leaves_with_path(abstract_state):
    if getattr(leaf, "sharding", None) is None:
      name = digests.leaf_name(path)
      raise ValueError(
        f"`abstract_state` must have shardings, `{name}` has none."
      )


def _cause(error: BaseException) -> str:
  """One line; a full disk by its name, however deep it is wrapped."""
  link: BaseException | None = error
  while link is not None:
    if any(text in str(link).lower() for text in _DISK_FULL_TEXTS):
      return "the disk is full or a quota is reached"
    link = link.__cause__ or link.__context__
  return _first_line(error)


def _first_line(error: BaseException) -> str:
  lines = str(error).splitlines() or [""]
  return f"{type(error).__name__}: {lines[0][:160]}"
