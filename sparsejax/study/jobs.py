"""Train the missing runs of a table, each alone or a row's seeds together."""

import pathlib
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sparsejax import train
from sparsejax.plots import records
from sparsejax.study.runs import Run
from sparsejax.training import outcomes


class Job(NamedTuple):
  """One command of the trainer.

  Attributes:
    runs: what it trains: one run, or all seeds of a row.
    argv: its arguments.
    workdir: its folder: that of the run, or one for all seeds.
  """

  runs: tuple[Run, ...]
  argv: tuple[str, ...]
  workdir: pathlib.Path

  @property
  def title(self) -> str:
    """The row and the seeds."""
    first, *others = self.runs
    if not others:
      return first.title
    return f"{first.row.name}, seeds {first.seed} to {others[-1].seed}"


def train_missing(
  runs: Sequence[Run], again: Sequence[str], *, together: bool = False
) -> int:
  """Train the runs that are not done.

  A run with a value that is not finite does not stop the others; any other
  failure does.

  Args:
    runs: as `plan` returns them.
    again: the command that resumes, printed after a failure.
    together: whether all seeds of a row train in one program.

  Returns:
    The exit status.
  """
  missing = jobs(runs, together=together)
  every = {run.workdir for run in runs}
  left = sum(len(job.runs) for job in missing)
  print(f"{len(every) - left} runs are done, {left} to train.")
  notes: list[str] = []
  job = None

  def to_train() -> Iterator[tuple[str, Sequence[str]]]:
    nonlocal job
    for number, job in enumerate(missing, 1):
      before = job.runs[0].before
      if before is not None and not before.done:
        notes.append(f"{job.title} was skipped: {before.row.name} is not done.")
      else:
        yield f"\nRun {number} of {len(missing)}: {job.title}", job.argv

  failed = outcomes.DONE
  for status in train.each(to_train(), total=len(missing)):
    assert job is not None
    if status == outcomes.NOT_FINITE:
      failed = status
      notes.append(f"{job.title} stopped at a value that is not finite.")
    elif status:
      number = missing.index(job) + 1
      print(
        f"Stopped with status {status} in run {number} of {len(missing)},"
        f" {job.title}. To resume: {shlex.join(again)}",
        file=sys.stderr,
      )
      return status
    elif len(job.runs) > 1:
      hand_over(job)
  for note in notes:
    print(f"note: {note}")
  return failed


def jobs(runs: Sequence[Run], *, together: bool) -> list[Job]:
  """Find the commands that train what is missing.

  Args:
    runs: as `runs.plan` returns them.
    together: whether all seeds of a row train in one program. A row that
      starts from another one has another source for each seed, and a run that
      was begun by itself is resumed by itself.

  Returns:
    The commands, in the order of the runs; runs that share a folder once.
  """
  unique = list({run.workdir: run for run in runs}.values())
  found: list[Job] = []
  for group in _rows(unique) if together else [[run] for run in unique]:
    job = _joint(group)
    if len(group) > 1:
      hand_over(job)
    if len(group) > 1 and not any(run.workdir.exists() for run in group):
      found.append(job)
    else:
      found += [_single(run) for run in group if not run.done]
  return found


def hand_over(job: Job) -> None:
  """Make the seeds of a finished job runs by themselves.

  A call that was interrupted is completed by the next one.

  Args:
    job: of several seeds; nothing happens unless it is done.
  """
  if (job.workdir / records.SUMMARY).exists():
    for run in job.runs:
      folder = records.seed_folder(job.workdir, run.seed)
      if folder.exists() and not run.workdir.exists():
        folder.rename(run.workdir)
  if job.workdir.exists() and all(run.done for run in job.runs):
    shutil.rmtree(job.workdir)


def _rows(runs: Sequence[Run]) -> list[list[Run]]:
  """Returns the runs, those that can train together in one list."""
  found: dict[object, list[Run]] = {}
  for run in runs:
    key = run.row.name if run.before is None else run.workdir
    found.setdefault(key, []).append(run)
  return list(found.values())


def _joint(runs: Sequence[Run]) -> Job:
  first, count = runs[0], len(runs)
  workdir = first.workdir.with_name(f"{first.workdir.name}-{count}-seeds")
  *argv, _ = first.argv  # The last one is `--workdir`.
  changes = (f"--config.seeds={count}", f"--workdir={workdir}")
  return Job(tuple(runs), (*argv, *changes), workdir)


def _single(run: Run) -> Job:
  return Job((run,), run.argv, run.workdir)
