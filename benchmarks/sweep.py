"""Train many configs with many seeds, resuming from a file of results.

A cell is one config without its seed. Its runs share one compiled step, since
PRNG keys are part of the state. Every run gives the same numbers as
`python -m sparsejax.train` with the same config.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import io
import json
import multiprocessing
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import sparsejax
from sparsejax import command_line, train as trainer
from sparsejax.training import (
  dispatches,
  evaluation,
  initial_state,
  sharding,
  train_state,
)
from sparsejax.training.config import build, command, keys
from sparsejax.training.config.experiment import Experiment


class Cell(NamedTuple):
  """One config of a sweep.

  Attributes:
    title: its row of the table.
    sparsity: its column; `None` for a dense network.
    argv: arguments of the trainer, without the seed.
    init_runs: arguments of the runs to start from, first to last; each run, and
      finally the cell's own, sets `config.init_from` to the previous one.
    seed_shift: added to the seed of the cell's own run, if it must differ from
      the seed of `init_runs`.
  """

  title: str
  sparsity: float | None
  argv: tuple[str, ...]
  init_runs: tuple[tuple[str, ...], ...] = ()
  seed_shift: int = 0


def run(
  cells: Sequence[Cell],
  seeds: Sequence[int],
  path: pathlib.Path,
  *,
  jobs: int,
  train_fn: Callable[..., list[dict[str, Any]]] | None = None,
) -> list[dict[str, Any]]:
  """Train the runs that are missing from a file of results.

  Args:
    cells: the cells to train.
    seeds: seeds for each cell.
    path: JSON file of the results, rewritten after every cell.
    jobs: parallel processes, one cell each; 1 trains in this process.
    train_fn: (cell, seeds) -> one record per run; `train` by default.

  Returns:
    One record per cell and seed, in that order. Records in the file whose
    config has changed since are ignored.
  """
  digests = {
    (cell, seed): digest(keys.resolved(config_of(cell, seed)))
    for cell in cells
    for seed in seeds
  }
  records = {record["config"]: record for record in _read(path)}
  missing: dict[Cell, list[int]] = {}
  for (cell, seed), config in digests.items():
    if config not in records:
      missing.setdefault(cell, []).append(seed)
  done, tasks, began = 0, _tasks(missing), time.monotonic()
  for new in _train_all(tasks, jobs, train_fn or train):
    done += 1
    records |= {record["config"]: record for record in new}
    _write(path, [records[c] for c in digests.values() if c in records])
    mean = np.mean([record["test_accuracy"] for record in new])
    print(
      f"{done}/{len(tasks)}  {new[0]['title']}  {new[0]['sparsity'] or ''}"
      f"  {mean:.2%} test accuracy"
      + command_line.time_left(done, len(tasks), time.monotonic() - began),
      flush=True,
    )
  return [records[config] for config in digests.values()]


def train(cell: Cell, seeds: Sequence[int]) -> list[dict[str, Any]]:
  """Train one cell with several seeds and one compiled step.

  Args:
    cell: the cell.
    seeds: the seeds.

  Returns:
    One record per run.
  """
  train_steps: Callable | None = None
  test: Any = None
  evaluate: Callable | None = None
  mesh, records = sharding.make_mesh(), []
  for seed in seeds:
    experiment, state = _initialize(cell, seed)
    setup, dataset = experiment.setup, experiment.dataset
    if train_steps is None or evaluate is None:
      split, test = sharding.replicate((dataset.train, dataset.test), mesh)
      train_steps = dispatches.compile_dispatches(
        dispatches.Target(setup, state, mesh), split, trains=True
      )
      evaluate = jax.jit(functools.partial(evaluation.evaluate, setup))
    started = time.perf_counter()
    while int(state.step) < experiment.steps.total:
      state, _ = train_steps(state)
    totals = jax.block_until_ready(evaluate(state, test))
    seconds = time.perf_counter() - started
    if not np.isfinite(totals.loss):
      raise FloatingPointError(f"{cell}, seed {seed}: the loss is not finite")
    counts = sparsejax.summary(state.params, state.opt_state)
    records.append(
      {
        "title": cell.title,
        "sparsity": cell.sparsity,
        "seed": seed,
        "test_accuracy": int(totals.metrics["accuracy"])
        / dataset.test.examples,
        "test_loss": float(totals.loss) / dataset.test.examples,
        "steps": int(state.step),
        "active": counts.active,
        "requested": counts.requested,
        "total": counts.total,
        "parameters": counts.parameters,
        "itop_rate": counts.itop_rate,
        "train_seconds": round(seconds, 2),
        "arguments": [relative(arg) for arg in cell.argv],
        "config": digest(keys.resolved(config_of(cell, seed))),
        "jax": jax.__version__,
      }
    )
  jax.clear_caches()  # Other cells compile other programs.
  return records


def _tasks(missing: dict[Cell, list[int]]) -> list[tuple[Cell, list[int]]]:
  """Returns the units of work of one process, the longest first.

  The seeds of a cell with `init_runs` share little and are separate tasks.
  """
  tasks = []
  for cell, seeds in missing.items():
    if cell.init_runs:
      tasks += [(cell, [seed]) for seed in seeds]
    else:
      tasks.append((cell, seeds))
  return sorted(tasks, key=lambda task: len(task[0].init_runs), reverse=True)


def _train_all(
  tasks: Sequence[tuple[Cell, list[int]]],
  jobs: int,
  train_fn: Callable[..., list[dict[str, Any]]],
) -> Iterator[list[dict[str, Any]]]:
  """Yields the records of each task as it finishes."""
  if jobs == 1:
    yield from (train_fn(*task) for task in tasks)
    return
  # Forking a process with JAX's threads can deadlock.
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(jobs, context) as pool:
    futures = [pool.submit(train_fn, *task) for task in tasks]
    for future in concurrent.futures.as_completed(futures):
      yield future.result()


def config_of(cell: Cell, seed: int) -> Any:
  """Returns a run's config, with the digest of the previous as `init_from`."""
  init_from = None
  for argv in cell.init_runs:
    config = command.parse(_argv(argv, seed, init_from)).config
    init_from = digest(keys.resolved(config))
  return _config(cell, seed, init_from)


def digest(config: dict[str, Any]) -> str:
  """Returns a short hash of a resolved config."""
  text = json.dumps(config, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def relative(arg: str) -> str:
  """Returns an argument with paths relative to the repository root."""
  return arg.replace(f"{pathlib.Path(__file__).parents[1]}/", "")


def _initialize(
  cell: Cell, seed: int
) -> tuple[Experiment, train_state.TrainState]:
  """Trains the `init_runs`; returns the experiment and its initial state."""
  with tempfile.TemporaryDirectory() as folder:
    init_from = None
    for number, argv in enumerate(cell.init_runs):
      workdir = f"{folder}/{number}"
      full_argv = [*_argv(argv, seed, init_from), f"--workdir={workdir}"]
      with contextlib.redirect_stdout(io.StringIO()):
        status = trainer.main(full_argv)
      if status:
        raise RuntimeError(f"{full_argv} exited with {status}")
      init_from = workdir
    experiment = build.build(_config(cell, seed, init_from))
    return experiment, initial_state.create(experiment, sharding.make_mesh())


def _config(cell: Cell, seed: int, init_from: str | None) -> Any:
  argv = _argv(cell.argv, seed + cell.seed_shift, init_from)
  return command.parse(argv).config


def _argv(argv: Sequence[str], seed: int, init_from: str | None) -> list[str]:
  start = [] if init_from is None else [f"--config.init_from={init_from}"]
  return [*argv, f"--config.seed={seed}", *start]


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
  return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _write(path: pathlib.Path, records: list[dict[str, Any]]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.tmp")
  lines = ",\n".join(json.dumps(record) for record in records)
  temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
  os.replace(temporary, path)
