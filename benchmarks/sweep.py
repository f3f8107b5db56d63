"""Trains many configs with many seeds, and remembers what is done.

A cell is one config but for its seed. Its runs share one compiled step: keys
are part of the state, so the seeds of a cell differ in data alone. Each run
gives the numbers that `python -m sparsejax.train` gives for the same config.
"""

import concurrent.futures
import functools
import hashlib
import json
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import sparsejax
from sparsejax.training import build, command, step


class Cell(NamedTuple):
  """One config of a sweep.

  Attributes:
    title: its row in the table.
    sparsity: its column; `None` for a dense network.
    argv: arguments of the trainer, without the seed.
  """

  title: str
  sparsity: float | None
  argv: tuple[str, ...]


def run(
  cells: Sequence[Cell],
  seeds: Sequence[int],
  path: pathlib.Path,
  *,
  jobs: int,
) -> list[dict[str, Any]]:
  """Train what is missing in a file of results.

  Args:
    cells: what to train.
    seeds: each cell is trained with each of them.
    path: JSON file of the results; it is written anew after every cell.
    jobs: processes at a time, each with one cell; 1 is this process.

  Returns:
    One record for each cell and seed, in that order. Records in the file
    whose config has changed since are not used.
  """
  wanted = {
    (cell, seed): _digest(build.resolved(_config(cell, seed)))
    for cell in cells
    for seed in seeds
  }
  found = {record["config"]: record for record in _read(path)}
  missing: dict[Cell, list[int]] = {}
  for (cell, seed), digest in wanted.items():
    if digest not in found:
      missing.setdefault(cell, []).append(seed)
  done = 0
  for records in _train_all(missing, jobs):
    done += 1
    found |= {record["config"]: record for record in records}
    kept = [found[digest] for digest in wanted.values() if digest in found]
    _write(path, kept)
    mean = np.mean([record["test_accuracy"] for record in records])
    first = records[0]
    print(
      f"{done}/{len(missing)}  {first['title']}  {first['sparsity'] or ''}"
      f"  {mean:.2%} test accuracy",
      flush=True,
    )
  return [found[digest] for digest in wanted.values()]


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
    experiment = build.build(_config(cell, seed))
    setup, dataset = experiment.setup, experiment.dataset
    if train_steps is None or evaluate is None:
      train_steps = jax.jit(
        functools.partial(step.train_steps, setup), donate_argnums=0
      )
      evaluate = jax.jit(functools.partial(step.evaluate, setup))
    state = step.initial_state(
      setup, experiment.init_key, experiment.data_key, dataset.example
    )
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
        "asked": counts.asked,
        "total": counts.total,
        "itop_rate": counts.itop_rate,
        "train_seconds": round(seconds, 2),
        "arguments": [_relative(arg) for arg in cell.argv],
        "config": _digest(experiment.config),
        "jax": jax.__version__,
      }
    )
  jax.clear_caches()  # No other cell has the same programs.
  return records


def _train_all(
  missing: dict[Cell, list[int]], jobs: int
) -> Iterator[list[dict[str, Any]]]:
  """Yields the records of each cell when it is done."""
  if jobs == 1:
    yield from (train(*item) for item in missing.items())
    return
  # Forking a process that runs jax's threads can hang it.
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(jobs, context) as pool:
    futures = [pool.submit(train, *item) for item in missing.items()]
    for future in concurrent.futures.as_completed(futures):
      yield future.result()


def _config(cell: Cell, seed: int) -> Any:
  return command.parse([*cell.argv, f"--config.seed={seed}"]).config


def _digest(config: dict[str, Any]) -> str:
  text = json.dumps(config, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _relative(arg: str) -> str:
  """Returns an argument as it is written in the project's root."""
  return arg.replace(f"{pathlib.Path(__file__).parents[1]}/", "")


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
  return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _write(path: pathlib.Path, records: list[dict[str, Any]]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.tmp")
  lines = ",\n".join(json.dumps(record) for record in records)
  temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
  os.replace(temporary, path)
