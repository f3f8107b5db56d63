"""Trains many configs with many seeds, and remembers what is done.

A cell is one config but for its seed. Its runs share one compiled step: keys
are part of the state, so the seeds of a cell differ in data alone. Each run
gives the numbers that `python -m sparsejax.train` gives for the same config.
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
from sparsejax import train as trainer
from sparsejax.training import (
  evaluation,
  initial_state,
  sharding,
  train_state,
  train_step,
)
from sparsejax.training.config import build, command


class Cell(NamedTuple):
  """One config of a sweep.

  Attributes:
    title: its row in the table.
    sparsity: its column; `None` for a dense network.
    argv: arguments of the trainer, without the seed.
    before: arguments of the earlier runs, first to last; `config.init_from` of
      each, and of the run itself, will name the one before it.
    seed_shift: added to the seed of the run itself, not to those of earlier
      ones, where they must differ.
  """

  title: str
  sparsity: float | None
  argv: tuple[str, ...]
  before: tuple[tuple[str, ...], ...] = ()
  seed_shift: int = 0


def run(
  cells: Sequence[Cell],
  seeds: Sequence[int],
  path: pathlib.Path,
  *,
  jobs: int,
  trained_by: Callable[..., list[dict[str, Any]]] | None = None,
) -> list[dict[str, Any]]:
  """Train what is missing in a file of results.

  Args:
    cells: what to train.
    seeds: each cell is trained with each of them.
    path: JSON file of the results; it is written anew after every cell.
    jobs: processes at a time, each with one cell; 1 is this process.
    trained_by: (cell, seeds) -> a record of each run; `train` where None.

  Returns:
    One record for each cell and seed, in that order. Records in the file
    whose config has changed since are not used.
  """
  wanted = {
    (cell, seed): digest(build.resolved(config_of(cell, seed)))
    for cell in cells
    for seed in seeds
  }
  found = {record["config"]: record for record in _read(path)}
  missing: dict[Cell, list[int]] = {}
  for (cell, seed), known in wanted.items():
    if known not in found:
      missing.setdefault(cell, []).append(seed)
  done, tasks = 0, _tasks(missing)
  for records in _train_all(tasks, jobs, trained_by or train):
    done += 1
    found |= {record["config"]: record for record in records}
    kept = [found[known] for known in wanted.values() if known in found]
    _write(path, kept)
    mean = np.mean([record["test_accuracy"] for record in records])
    first = records[0]
    print(
      f"{done}/{len(tasks)}  {first['title']}  {first['sparsity'] or ''}"
      f"  {mean:.2%} test accuracy",
      flush=True,
    )
  return [found[known] for known in wanted.values()]


def train(cell: Cell, seeds: Sequence[int]) -> list[dict[str, Any]]:
  """Train one cell with several seeds, and one compiled step.

  Args:
    cell: what to train.
    seeds: the seeds.

  Returns:
    A record of each run.
  """
  train_steps: Callable | None = None
  evaluate: Callable | None = None
  records = []
  for seed in seeds:
    experiment, state = _begin(cell, seed)
    setup, dataset = experiment.setup, experiment.dataset
    if train_steps is None or evaluate is None:
      train_steps = jax.jit(
        functools.partial(train_step.run_dispatch, setup), donate_argnums=0
      )
      evaluate = jax.jit(functools.partial(evaluation.evaluate, setup))
    split, test = jax.device_put((dataset.train, dataset.test))
    started = time.perf_counter()
    for _ in range(0, experiment.steps.total, experiment.steps.dispatch):
      state, _ = train_steps(state, split)
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
        "test_accuracy": int(totals.correct) / dataset.test.examples,
        "test_loss": float(totals.loss) / dataset.test.examples,
        "steps": int(state.step),
        "active": counts.active,
        "requested": counts.requested,
        "total": counts.total,
        "parameters": counts.parameters,
        "itop_rate": counts.itop_rate,
        "train_seconds": round(seconds, 2),
        "arguments": [relative(arg) for arg in cell.argv],
        "config": digest(build.resolved(config_of(cell, seed))),
        "jax": jax.__version__,
      }
    )
  jax.clear_caches()  # No other cell has the same programs.
  return records


def _tasks(missing: dict[Cell, list[int]]) -> list[tuple[Cell, list[int]]]:
  """Returns what one process does at a time.

  Seeds with earlier runs share little, and are apart; those with most come
  first, so that none is left alone at the end.
  """
  tasks = []
  for cell, seeds in missing.items():
    if cell.before:
      tasks += [(cell, [seed]) for seed in seeds]
    else:
      tasks.append((cell, seeds))
  return sorted(tasks, key=lambda task: len(task[0].before), reverse=True)


def _train_all(
  tasks: Sequence[tuple[Cell, list[int]]],
  jobs: int,
  trained_by: Callable[..., list[dict[str, Any]]],
) -> Iterator[list[dict[str, Any]]]:
  """Yields the records of each cell when it is done."""
  if jobs == 1:
    yield from (trained_by(*task) for task in tasks)
    return
  # Forking a process that runs jax's threads can hang it.
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(jobs, context) as pool:
    futures = [pool.submit(trained_by, *task) for task in tasks]
    for future in concurrent.futures.as_completed(futures):
      yield future.result()


def config_of(cell: Cell, seed: int) -> Any:
  """Returns the config of one run, which names the one before by its digest."""
  known = None
  for argv in cell.before:
    earlier = command.parse(_argv(argv, seed, known)).config
    known = digest(build.resolved(earlier))
  return _config(cell, seed, known)


def digest(config: dict[str, Any]) -> str:
  """Returns what a resolved config is known by."""
  text = json.dumps(config, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def relative(arg: str) -> str:
  """Returns an argument as it is written in the project's root."""
  return arg.replace(f"{pathlib.Path(__file__).parents[1]}/", "")


def _begin(
  cell: Cell, seed: int
) -> tuple[build.Experiment, train_state.TrainState]:
  """Returns an experiment and its first state, after the runs before it."""
  with tempfile.TemporaryDirectory() as folder:
    last = None
    for number, argv in enumerate(cell.before):
      place = f"{folder}/{number}"
      earlier = [*_argv(argv, seed, last), f"--workdir={place}"]
      with contextlib.redirect_stdout(io.StringIO()):  # Its lines and table.
        status = trainer.main(earlier)
      if status:
        raise RuntimeError(f"{earlier} ended with {status}")
      last = place
    return _first(_config(cell, seed, last))


def _first(config: Any) -> tuple[build.Experiment, train_state.TrainState]:
  experiment = build.build(config)
  return experiment, initial_state.create(experiment, sharding.data_mesh())


def _config(cell: Cell, seed: int, init_from: str | None) -> Any:
  argv = _argv(cell.argv, seed + cell.seed_shift, init_from)
  return command.parse(argv).config


def _argv(argv: Sequence[str], seed: int, init_from: str | None) -> list[str]:
  after = [] if init_from is None else [f"--config.init_from={init_from}"]
  return [*argv, f"--config.seed={seed}", *after]


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
  return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _write(path: pathlib.Path, records: list[dict[str, Any]]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.tmp")
  lines = ",\n".join(json.dumps(record) for record in records)
  temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
  os.replace(temporary, path)
