"""The runs of a table's rows: their commands and folders."""

import hashlib
import json
import pathlib
import re
import shlex
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sparsejax.plots import records
from sparsejax.study import papers
from sparsejax.training.config import command, keys


class Run(NamedTuple):
  """One run of a row.

  Attributes:
    row: a row of the table.
    seed: the run's seed.
    argv: arguments of the trainer, `--workdir` included.
    config: the resolved config.
    workdir: the run's folder, which depends on its config alone.
    before: the run that it starts from, if any.
  """

  row: papers.Row
  seed: int
  argv: tuple[str, ...]
  config: dict[str, Any]
  workdir: pathlib.Path
  before: "Run | None" = None

  @property
  def title(self) -> str:
    """The row and the seed."""
    return f"{self.row.name}, seed {self.seed}"

  @property
  def done(self) -> bool:
    """Whether its workdir holds a summary."""
    return records.read_summary(self.workdir) is not None


def plan(
  table: papers.Table,
  rows: Sequence[papers.Row],
  *,
  workdir: pathlib.Path,
  seeds: int = 1,
  changes: Sequence[str] = (),
  sought: Mapping[str, Sequence[str]] = types.MappingProxyType({}),
  runlocal: bool = False,
) -> list[Run]:
  """Turn rows into runs of the trainer.

  Args:
    table: the rows' table.
    rows: the requested rows.
    workdir: folder of the runs, absolute.
    seeds: each row is trained with the seeds 0 to `seeds` - 1.
    changes: more arguments of the trainer, for all runs.
    sought: by row name, arguments that a search found.
    runlocal: whether to pass the option `runlocal` to the configs.

  Returns:
    One run per trainable row and seed. A run that starts from another one comes
    after it, and the other one is included even if its row is not requested.
    Rows with the same config share a folder.

  Raises:
    InputError: if a config does not resolve.
  """
  by_name = {row.name: row for row in table.rows}
  word = ",runlocal" if runlocal else ""
  found: dict[tuple[str, int], Run] = {}

  def add(row: papers.Row, seed: int) -> Run:
    key = row.name, seed
    if key not in found:
      before = None if row.after is None else add(by_name[row.after], seed)
      argv = [f"--config={row.config}{word}", *row.changes]
      argv += [f"--config.seed={seed + row.seed_shift}", *changes]
      argv += sought.get(row.name, ())
      found[key] = _run(row, argv, before, workdir)
    return found[key]

  for row in rows:
    for seed in range(seeds) if row.config is not None else ():
      add(row, seed)
  return list(found.values())


def _run(
  row: papers.Row,
  argv: Sequence[str],
  before: Run | None,
  workdir: pathlib.Path,
) -> Run:
  assert row.config is not None
  if before is not None:
    argv = [*argv, f"--config.init_from={before.workdir}"]
  config = keys.resolved(command.parse(argv).config)
  keys.check_one_seed(config, "`--seeds` gives each row several runs")
  found = workdir / _folder(row.config, config, before)
  argv = (*argv, f"--workdir={found}")
  return Run(row, config["seed"], argv, config, found, before)


def folder(
  row: papers.Row, argv: Sequence[str], workdir: pathlib.Path
) -> pathlib.Path:
  """Returns the workdir of a row's run with these arguments of the trainer."""
  return _run(row, argv, None, workdir).workdir


def _folder(name: str, config: Mapping[str, Any], before: Run | None) -> str:
  """Returns a name that depends on the config and on the run it starts from."""
  own = {key: value for key, value in config.items() if key != "init_from"}
  identity = [own, before and before.workdir.name]
  digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
  readable = re.sub(r"[^\w.]+", "-", name.rpartition("/")[2].replace(".py", ""))
  return f"{readable}-seed{config['seed']}-{digest.hexdigest()[:10]}"


def print_status(rows: Sequence[papers.Row], runs: Sequence[Run]) -> None:
  """Print how each row is trained, and how many of its runs are done."""
  for row in rows:
    if row.config is None:
      print(f"{row.name}: not trained here")
      continue
    done = [run.done for run in runs if run.row == row]
    print(f"{row.name}: {sum(done)} of {len(done)} done")
    print("    " + shlex.join([f"--config={row.config}", *row.changes]))
    if row.after is not None:
      print(f"    after {row.after}")
