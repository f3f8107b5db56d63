"""SET's MLP trained on the values of active weights alone, compared to masks.

    taskset -c 0 python benchmarks/sparse_training.py

One core. The network of `configs/set_mlp.py` on CIFAR-10, 3072-4000-1000-4000-
10 at epsilon 20, a batch of 100, on random images of CIFAR's size. Rows:

    masked   the trainer's step with dense kernels and masks
    sparse   the trainer's step with `config.model.layout=sparse`
    scipy    the same network and optimizer in numpy and scipy: CSR products,
             and gradients of active weights by row products; no dropout and no
             augmentation, which the other two have

Each is timed alone, in processor time of the process, in turns, in rounds of a
few steps without a mask update; then one mask update. Memory is the arrays
between steps, and what the compiled programs take temporarily.
"""

import functools
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import outputs  # noqa: E402
import scipy.sparse as sp  # noqa: E402
import timing  # noqa: E402

from sparsejax.components import fan_in  # noqa: E402
from sparsejax.data import Dataset, Split, labeled_images  # noqa: E402
from sparsejax.data.augment import identity, rotate_shift_flip  # noqa: E402
from sparsejax.state import active_flags, stored_masks  # noqa: E402
from sparsejax.training import train_state, train_step  # noqa: E402
from sparsejax.training.config import build, command  # noqa: E402
from sparsejax.training.train_state import Setup, TrainState  # noqa: E402

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "set_mlp.py"
BATCH, STEPS, ROUNDS = 100, 3, 7
MOMENTUM, LEARNING_RATE, SLOPE = 0.9, 0.01, 0.3
MEAN, STD = 127.5, 73.9


class Timed(NamedTuple):
  """A way to train: a step, a mask update, and what they take.

  Attributes:
    step: () -> takes one step.
    update: () -> updates the masks once.
    state_bytes: arrays between steps.
    step_bytes: temporary memory of a step; None if unknown.
    update_bytes: temporary memory of a mask update; None if unknown.
  """

  step: Callable[[], Any]
  update: Callable[[], Any]
  state_bytes: int
  step_bytes: int | None
  update_bytes: int | None


def random_images(augment: bool, examples: int = 1000) -> Dataset:
  """Returns images of CIFAR's size without anything to learn in them."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (examples, 32, 32, 3), np.uint8)
  split = Split(images, rng.integers(0, 10, examples).astype(np.int32))
  return labeled_images(
    train=split,
    test=split,
    classes=10,
    mean=MEAN,
    std=STD,
    augment=rotate_shift_flip() if augment else identity,
  )


def experiment(layout: str, augment: bool, small: bool) -> Any:
  """Returns the experiment of the config, on random images."""
  argv = [f"--config={CONFIG}:cifar10", f"--config.model.layout={layout}"]
  if small:
    argv.append("--config.model.width=0.02")
  if not augment:
    argv.append("--config.model.dropout=0.0")
  return build.build(command.parse(argv).config, random_images(augment))


class Network:
  """The trainer's compiled step and mask update, and their state."""

  def __init__(self, layout: str, augment: bool, small: bool):
    found = experiment(layout, augment, small)
    setup = found.setup
    self.batch = jax.tree.map(lambda x: x[:BATCH], found.dataset.train)
    init = functools.partial(train_state.init, setup)
    self.state: TrainState = jax.jit(init)(
      found.init_key, found.data_key, found.dataset.example
    )
    self._interval = found.steps.per_epoch
    self._step = self._compiled(_step, setup, self.state, self.batch)
    self._update = self._compiled(train_step.update_masks, setup, self.state)

  def _compiled(self, function: Callable, setup: Setup, *args: Any) -> Any:
    bound = functools.partial(function, setup)
    return jax.jit(bound, donate_argnums=0).lower(*args).compile()

  def step(self) -> None:
    """Takes a step."""
    self.state = jax.block_until_ready(self._step(self.state, self.batch))

  def update(self) -> None:
    """Updates the masks; they are made due at every call."""
    state = self.state.opt_state
    at_epoch = state.step * 0 + np.int32(self._interval)
    state = state._replace(step=at_epoch, last_update=state.last_update * 0 - 1)
    state = self.state._replace(opt_state=state)
    self.state = jax.block_until_ready(self._update(state))

  def timed(self) -> Timed:
    """Returns what is measured."""
    programs = (self._step, self._update)
    temporary = [x.memory_analysis().temp_size_in_bytes for x in programs]
    arrays = jax.tree.leaves((self.state.params, self.state.opt_state))
    size = sum(array.nbytes for array in arrays)
    return Timed(self.step, self.update, size, *temporary)


def _step(setup: Setup, state: TrainState, batch: Split) -> TrainState:
  return train_step.train_step(setup, state, batch)[0]


class ScipyNetwork:
  """Sparse evolutionary training in numpy and scipy, as authors' codes do it.

  Kernels are CSR matrices of shape (outputs, inputs), and stay so while they
  train; a mask update rebuilds them.
  """

  def __init__(self, network: Network):
    params, masks = network.state.params, network.state.opt_state.masks
    self._rng = np.random.default_rng(0)
    images, labels = network.batch
    self._images = np.asarray(images, np.float32).reshape(BATCH, -1).T
    self._images = np.ascontiguousarray((self._images - MEAN) / STD)
    self._labels = np.asarray(labels)
    self._kernels, self._biases = [], []
    for name in sorted(params):
      mask, kernel = masks[name]["kernel"], params[name]["kernel"]
      if isinstance(mask, fan_in.FanIn):
        kernel = fan_in.kernel_of(kernel, mask)
      self._kernels.append(self._as_kernel(np.asarray(kernel)))
      self._biases.append(np.asarray(params[name]["bias"])[:, None].copy())
    self._moments = [np.zeros_like(_numbers(k)) for k in self._kernels]
    self._bias_moments = [np.zeros_like(b) for b in self._biases]

  def _as_kernel(self, kernel: np.ndarray) -> Any:
    sparse = sp.csr_matrix(kernel.T)
    return sparse if sparse.nnz < kernel.size / 2 else kernel.T.copy()

  def step(self) -> float:
    """Takes a step and returns the loss."""
    inputs, before = [self._images], []
    for kernel, bias in zip(self._kernels, self._biases, strict=True):
      before.append(kernel @ inputs[-1] + bias)
      inputs.append(np.where(before[-1] > 0, before[-1], SLOPE * before[-1]))
    logits = before[-1] - before[-1].max(axis=0)
    probabilities = np.exp(logits)
    probabilities /= probabilities.sum(axis=0)
    columns = np.arange(BATCH)
    loss = -np.log(probabilities[self._labels, columns]).mean()
    grad = probabilities
    grad[self._labels, columns] -= 1
    grad /= BATCH
    for i in reversed(range(len(self._kernels))):
      if i < len(self._kernels) - 1:
        grad = grad * np.where(before[i] > 0, np.float32(1), np.float32(SLOPE))
      kernel_grad = _kernel_gradient(self._kernels[i], grad, inputs[i])
      bias_grad = grad.sum(axis=1, keepdims=True)
      grad = self._kernels[i].T @ grad if i else grad
      self._move(i, kernel_grad, bias_grad)
    return float(loss)

  def update(self) -> None:
    """Prunes and regrows, by sign, as in SET."""
    for i, kernel in enumerate(self._kernels):
      if sp.issparse(kernel):
        self._kernels[i], self._moments[i] = self._evolved(
          kernel, self._moments[i]
        )

  def timed(self) -> Timed:
    """Returns what is measured."""
    size = sum(
      2 * _numbers(k).nbytes
      + (k.indices.nbytes + k.indptr.nbytes if sp.issparse(k) else 0)
      for k in self._kernels
    )
    return Timed(self.step, self.update, size, None, None)

  def _move(self, i: int, grad: np.ndarray, bias_grad: np.ndarray) -> None:
    for numbers, moment, step in (
      (_numbers(self._kernels[i]), self._moments[i], grad),
      (self._biases[i], self._bias_moments[i], bias_grad),
    ):
      moment *= MOMENTUM
      moment += step
      numbers -= LEARNING_RATE * moment

  def _evolved(self, kernel: Any, moment: np.ndarray) -> tuple[Any, np.ndarray]:
    found = kernel.tocoo()
    stays = np.zeros(found.nnz, bool)
    for part in (found.data >= 0, found.data < 0):
      where = np.flatnonzero(part)
      pruned = int(np.ceil(0.3 * len(where)))
      order = np.argsort(np.abs(found.data[where]), kind="stable")
      stays[where[order[pruned:]]] = True
    flat = found.row.astype(np.int64) * kernel.shape[1] + found.col
    kept, missing = flat[stays], found.nnz - int(stays.sum())
    fresh = np.zeros(0, np.int64)
    while len(fresh) < missing:
      size = kernel.shape[0] * kernel.shape[1]
      drawn = self._rng.integers(0, size, 2 * missing)
      fresh = np.setdiff1d(np.concatenate([fresh, drawn]), kept)
      fresh = self._rng.permutation(fresh)[:missing]
    flat = np.concatenate([kept, fresh])
    zeros = np.zeros(missing, np.float32)
    order = np.argsort(flat)
    columns = flat[order] % kernel.shape[1]
    rows = flat[order] // kernel.shape[1]
    starts = np.searchsorted(rows, np.arange(kernel.shape[0] + 1))
    data, moments = (
      np.concatenate([x[stays], zeros])[order] for x in (found.data, moment)
    )
    made = (data, columns.astype(np.int32), starts.astype(np.int32))
    return sp.csr_matrix(made, shape=kernel.shape), moments


def _numbers(kernel: Any) -> np.ndarray:
  return kernel.data if sp.issparse(kernel) else kernel


def _kernel_gradient(
  kernel: Any, grad: np.ndarray, inputs: np.ndarray
) -> np.ndarray:
  """Returns the gradient of the active weights, chunk by chunk of them."""
  if not sp.issparse(kernel):
    return grad @ inputs.T
  rows = np.repeat(np.arange(kernel.shape[0]), np.diff(kernel.indptr))
  found = np.empty(kernel.nnz, np.float32)
  for start in range(0, kernel.nnz, 4096):
    part = slice(start, start + 4096)
    found[part] = np.einsum(
      "nb,nb->n", grad[rows[part]], inputs[kernel.indices[part]]
    )
  return found


def processor_seconds(call: Callable[[], Any], times: int) -> float:
  """Returns the processor seconds of a call, mean over a few."""
  start = time.process_time()
  for _ in range(times):
    call()
  return (time.process_time() - start) / times


def measure(
  networks: dict[str, Timed], rounds: int
) -> dict[str, dict[str, list[float]]]:
  """Returns processor milliseconds of steps and mask updates, in turns."""
  found = {name: {"step": [], "update": []} for name in networks}
  for each in networks.values():
    each.step()
    each.update()
    each.step()
  for _ in range(rounds):
    for name, each in networks.items():
      seconds = processor_seconds(each.step, STEPS)
      found[name]["step"].append(1e3 * seconds)
  for _ in range(max(rounds // 3, 1)):
    for name, each in networks.items():
      found[name]["update"].append(1e3 * processor_seconds(each.update, 1))
  return found


def rows(small: bool, augment: bool) -> list[dict[str, Any]]:
  """Returns one row per way to train."""
  networks: dict[str, Any] = {
    layout: Network(layout, augment, small) for layout in ("masked", "sparse")
  }
  if not augment:
    networks["scipy"] = ScipyNetwork(networks["sparse"])
  timed = {name: each.timed() for name, each in networks.items()}
  found = measure(timed, 1 if small else ROUNDS)
  masked = statistics.median(found["masked"]["step"])
  table = []
  for name, each in timed.items():
    step, update = (found[name][key] for key in ("step", "update"))
    table.append(
      {
        "training": f"{name}, {'whole step' if augment else 'bare step'}",
        "times faster": masked / statistics.median(step),
        "step ms": statistics.median(step),
        "least ms": min(step),
        "most ms": max(step),
        "mask update ms": statistics.median(update),
        "state MB": each.state_bytes / 1e6,
        "step temporary MB": _megabytes(each.step_bytes),
        "update temporary MB": _megabytes(each.update_bytes),
      }
    )
  flags = active_flags(stored_masks(networks["sparse"].state.opt_state))
  print("active weights:", [int(x.sum()) for x in flags])
  print(timing.table(table), flush=True)
  return table


def _megabytes(size: int | None) -> float | str:
  return "" if size is None else size / 1e6


def main(argv: Sequence[str] | None = None) -> None:
  """Run the command line `argv`."""
  options, where = outputs.options(__doc__, argv), timing.machine()
  found = [
    row for augment in (False, True) for row in rows(options.small, augment)
  ]
  timing.save("sparse_training", found, where, options.folder)


if __name__ == "__main__":
  main()
