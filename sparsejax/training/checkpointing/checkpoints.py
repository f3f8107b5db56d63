"""Checkpoints of training states: atomic, verified, and tied to their run.

Orbax writes a checkpoint to a temporary folder and renames it once complete, so
neither a killed process nor a full disk leaves half a checkpoint under a step
number. This module adds what Orbax does not do:

- Damage. A flipped byte in array data restores without an error. Every save
  therefore records a digest of each leaf; a restore that does not reproduce
  them is refused, and the previous checkpoint is used.
- Identity. Orbax casts to the requested dtypes, and restores into a state with
  fewer masks. Every save therefore records the config, the sparse leaves, and
  the shape and dtype of each leaf; all are compared before restoring.

What is saved and restored is a whole `training.train_state.TrainState`;
`training.starts` restores the newest intact one at the start of a run. The rows
of `metrics.jsonl` after its step are dropped, and written again.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from sparsejax.training import agreement, processes
from sparsejax.training.checkpointing import (
  best,
  digests,
  identity,
  manager,
  orbax_stderr,
  reading,
)
from sparsejax.training.checkpointing.errors import (
  CheckpointError,
  DamagedError,
  cause,
)

PyTree = Any

_DAMAGED_FOLDER = "checkpoints_damaged"
_UNFINISHED = "unfinished"  # A key of the record.
_MASKS = "masks"  # Part of the names of masks in the state.
_COMPARE_SECONDS = 600.0  # How long to wait for the other processes.


class Restored(NamedTuple):
  """Result of `Checkpoints.restore_newest` or `restore_best`.

  Attributes:
    state: the saved tree, sharded as the abstract state says.
    step: completed optimizer steps when it was saved.
    skipped: one line per newer or better checkpoint that is damaged, with the
      reason.
    unfinished: what `Checkpoints.save` was given as such, else None.
  """

  state: PyTree
  step: int
  skipped: tuple[str, ...]
  unfinished: Any = None


def open(
  workdir: pathlib.Path,
  *,
  fingerprint: str,
  sparse_leaves: tuple[str, ...],
  best_metric: str | None = None,
  lowest: bool = False,
  keep_all: bool = False,
  folder: str = reading.FOLDER,
) -> Checkpoints:
  """Open the checkpoints of a run, and remove what an interrupted save left.

  This and every method are collective calls: all processes make them together.

  Args:
    workdir: workdir of the run, created if missing; shared by all processes.
    fingerprint: the resolved config as JSON text; a restore compares it key by
      key.
    sparse_leaves: names of the parameters that have a mask.
    best_metric: what selects the best checkpoint among those with the fewest
      active weights (see `best`); it is kept in addition to the newest two.
      None keeps only the newest two.
    lowest: whether lower values of it are better.
    keep_all: keeps every checkpoint instead.
    folder: name of the checkpoint folder in `workdir`.

  Raises:
    ValueError: if `fingerprint` is not a JSON object.
    CheckpointError: if the folder cannot be created or is not shared.
  """
  config = json.loads(fingerprint)
  if not isinstance(config, dict):
    raise ValueError(
      f"`fingerprint` must be a JSON object, got {fingerprint[:60]!r}."
    )
  directory = pathlib.Path(workdir).resolve() / folder
  manager.make_shared_folder(directory)
  return Checkpoints(
    directory,
    run={"config": config, "sparse_leaves": sorted(sparse_leaves)},
    best_metric=best_metric,
    lowest=lowest,
    keep_all=keep_all,
  )


class Checkpoints:
  """The checkpoints of one run; made by `open`."""

  def __init__(
    self,
    directory: pathlib.Path,
    *,
    run: Mapping[str, Any],
    best_metric: str | None,
    lowest: bool,
    keep_all: bool,
  ):
    self._directory = directory
    self._run = run
    self._keep_all = keep_all
    self._best_metric, self._lowest = best_metric, lowest
    self._best_policy = best.BestPolicy(
      best_metric, self._recorded_metrics, lowest=lowest
    )
    self._pending: int | None = None
    self._unfinished: int | None = None
    self._manager = self._make_manager()
    self._silence = contextlib.ExitStack()
    self._silence.enter_context(orbax_stderr.silenced())

  def save(
    self,
    step: int,
    state: PyTree,
    *,
    metrics: Mapping[str, float],
    unfinished: Any = None,
  ) -> None:
    """Start saving `state`; returns as soon as it may be donated.

    Waits for the previous save first. Saving the newest step again does
    nothing, unless that one is unfinished and this one is not.

    Args:
      step: completed optimizer steps; above every saved step.
      state: tree of arrays.
      metrics: metrics of this step, recorded with it. Without the best metric,
        it is never the best checkpoint.
      unfinished: JSON, what remains to be done at this step; a restore returns
        it.

    Raises:
      CheckpointError: if this save or the previous one failed, or if masks
        differ between processes. Older checkpoints are intact, `state` is
        unchanged, and the call may be repeated.
      ValueError: if `step` is below the newest one.
    """
    self._wait()
    newest = self._manager.latest_step()
    if newest is not None and step <= newest:
      if step == newest == self._unfinished and unfinished is None:
        self._discard(step)
      elif step == newest:
        return
      else:
        raise ValueError(
          f"`step` must be above {newest}, the newest, got {step}."
        )
    record = self._record(step, state, metrics)
    self._unfinished = None
    if unfinished is not None:
      record[_UNFINISHED], self._unfinished = unfinished, step
    _check_masks(step, record["digests"])
    self._best_policy.record(step, record["metrics"])
    self._pending = step
    try:
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(reading.without_empty(state)),
          record=ocp.args.JsonSave(identity.seal(record)),
        ),
      )
    except Exception as error:
      raise self._save_failed(error) from error

  def restore_newest(self, abstract_state: PyTree) -> Restored | None:
    """Restore the newest intact checkpoint.

    Moves newer, damaged ones to `checkpoints_damaged`, so that their steps can
    be saved again.

    Args:
      abstract_state: tree of `jax.ShapeDtypeStruct` with shardings, which may
        differ from those of the run that saved.

    Returns:
      The state, its step and what was skipped; None if there is no checkpoint.

    Raises:
      CheckpointError: if the newest readable checkpoint has another config,
        other sparse leaves, shapes or dtypes; names the differences. Also if
        there are checkpoints and all of them are damaged.
      ValueError: if a leaf of `abstract_state` has no sharding.
    """
    _check_shardings(abstract_state)
    self._wait()
    damaged: dict[int, str] = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      state, why = self._try_restore(step, abstract_state)
      if why is None:
        self._set_aside(list(damaged))
        unfinished = self._read_record(step).get(_UNFINISHED)
        self._unfinished = step if unfinished is not None else None
        return Restored(state, step, tuple(damaged.values()), unfinished)
      damaged[step] = _damage(step, why)
      orbax_stderr.wait()
    if damaged:
      raise CheckpointError(
        f"No checkpoint in {self._directory} is intact: "
        + "; ".join(damaged.values())
        + ". Remove that folder to start from scratch."
      )
    return None

  def restore(self, step: int, abstract_state: PyTree) -> PyTree:
    """Restore the checkpoint of one step.

    Args:
      step: completed optimizer steps.
      abstract_state: as for `restore_newest`.

    Returns:
      The state.

    Raises:
      CheckpointError: if it is missing or damaged, or belongs to another run.
    """
    _check_shardings(abstract_state)
    self._wait()
    if step not in self._manager.all_steps():
      raise CheckpointError(
        f"{self._directory} has no checkpoint of step {step}."
      )
    state, why = self._try_restore(step, abstract_state)
    if why is not None:
      raise CheckpointError(f"In {self._directory}, {_damage(step, why)}.")
    return state

  def restore_best(self, abstract_state: PyTree, last: Restored) -> Restored:
    """Restore the best intact checkpoint.

    Moves better, damaged ones to `checkpoints_damaged`.

    Args:
      abstract_state: as for `restore_newest`.
      last: the newest step and its state, which need not be read.

    Returns:
      The state, its step and what was skipped; those of `last` if it is the
      best, or if no other checkpoint has a rank.

    Raises:
      CheckpointError: if the last save failed, or as in `restore_newest`.
    """
    assert self._best_metric is not None
    self._wait()
    damaged: dict[int, str] = {}
    found: dict[int, best.Metrics | None] = {}
    for step in sorted(self._manager.all_steps()):
      try:
        found[step] = self._read_record(step)["metrics"]
      except DamagedError as error:
        damaged[step] = _damage(step, error)
    restored = last
    for step in best.best_first(found, self._best_metric, lowest=self._lowest):
      if step == last.step:
        break
      state, why = self._try_restore(step, abstract_state)
      if why is None:
        restored = Restored(state, step, ())
        break
      damaged[step] = _damage(step, why)
      orbax_stderr.wait()
    self._set_aside(list(damaged))
    return restored._replace(skipped=tuple(damaged.values()))

  def close(self) -> None:
    """Wait for the pending save.

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
      "format": identity.FORMAT,
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
    """Reopens the manager, and returns the error to raise."""
    step, self._pending = self._pending, None
    self._reopen()
    orbax_stderr.wait(error)
    newest = self._manager.latest_step()
    older = (
      "There is no older checkpoint."
      if newest is None
      else f"The newest intact checkpoint is step {newest}."
    )
    return CheckpointError(
      f"Step {step} could not be saved in {self._directory}: "
      f"{cause(error)}. No earlier checkpoint is lost. {older}"
    )

  def _reopen(self) -> None:
    try:
      self._manager.close()
    except Exception:  # The failed save raises again.
      pass
    self._manager = self._make_manager()

  def _make_manager(self) -> ocp.CheckpointManager:
    return manager.make_manager(
      self._directory, best_policy=self._best_policy, keep_all=self._keep_all
    )

  def _recorded_metrics(self, step: int) -> best.Metrics | None:
    try:
      return reading.read_record(self._directory / str(step))["metrics"]
    except DamagedError:
      return None

  def _read_record(self, step: int) -> identity.Record:
    """Returns the record of a step; raises in every process if damaged."""
    path = self._directory / str(step)
    return reading.in_agreement(lambda: reading.read_record(path))

  def _try_restore(
    self, step: int, abstract_state: PyTree
  ) -> tuple[PyTree, str | None]:
    """Returns the state and None, or None and the damage."""
    try:
      path = self._directory / str(step)
      return reading.restore(path, abstract_state, run=self._run), None
    except DamagedError as error:
      return None, str(error)

  def _discard(self, step: int) -> None:
    """Removes the newest step, which is about to be saved again."""
    if processes.is_first():
      manager.discard(self._directory / str(step))
    processes.barrier("discarded")
    self._reopen()

  def _set_aside(self, steps: Sequence[int]) -> None:
    """Moves damaged steps away, since Orbax saves no step that is on disk."""
    if not steps:
      return
    if processes.is_first():
      for step in steps:
        target = self._directory.parent / _DAMAGED_FOLDER / str(step)
        while os.path.lexists(target):  # It may be a link to nowhere.
          target = target.with_name(target.name + "_again")
        target.parent.mkdir(exist_ok=True)
        (self._directory / str(step)).rename(target)
    processes.barrier("damaged_set_aside")
    self._reopen()


def _damage(step: int, why: object) -> str:
  return f"checkpoint {step} is damaged: {why}"


def _check_masks(step: int, found: Mapping[str, int]) -> None:
  """Raise in every process if a mask differs between processes."""
  masks = {n: d for n, d in found.items() if _MASKS in n.split("/")}
  differ = agreement.differences(
    f"masks of step {step}", masks, seconds=_COMPARE_SECONDS
  )
  if differ:
    raise CheckpointError(
      f"Step {step} was not saved: its masks differ between processes, by their"
      f" checksums: {differ}. No earlier checkpoint is lost: the same command"
      " resumes from it, with equal masks."
    )


def _check_shardings(abstract_state: PyTree) -> None:
  for path, leaf in jax.tree.leaves_with_path(abstract_state):
    if getattr(leaf, "sharding", None) is None:
      name = digests.leaf_name(path)
      raise ValueError(
        f"Every leaf of `abstract_state` must have a sharding; `{name}` has"
        " none."
      )
