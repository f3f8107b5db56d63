"""Overhead of the input pipeline: shuffling and augmentation, and decoding.

    python benchmarks/input.py

First, ResNet-20 on images of CIFAR's size: a dispatch of the trainer, which
shuffles, gathers, crops and flips inside jit, compared to the same number of
steps on one batch that is already on the device. Then JPEGs of ImageNet's size:
reading, decoding and cropping through a stream, compared to Pillow alone, in
images per second and core.
"""

import functools
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import outputs
import timing

from sparsejax.data import Split, imagenet, images, streams, tfds_writer
from sparsejax.data.imagenet import random_crop
from sparsejax.training import programs, sharding, train_state, train_step
from sparsejax.training.config import build, command
from sparsejax.training.config.experiment import Experiment

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "cifar.py"
HEIGHT, WIDTH, SIZE = 375, 500, 224


class Sizes(NamedTuple):
  """How much is measured.

  Attributes:
    rounds: timed calls of each function.
    width: of ResNet-20, relative to the paper's.
    batch: images in a batch.
    steps: steps in a dispatch.
    files: JPEGs that are streamed.
  """

  rounds: int = 8
  width: float = 1.0
  batch: int = 128
  steps: int = 8
  files: int = 256


def experiment(sizes: Sizes) -> Experiment:
  """Returns ResNet-20 with GraNet on a synthetic CIFAR-10."""
  argv = [
    f"--config={CONFIG}:resnet20,granet,runlocal,batch_size={sizes.batch}",
    f"--config.model.width={sizes.width}",
    "--config.data.train_examples=45000",
    "--config.epochs=1000",
    # No mask update in the timed steps.
    "--config.method.every_steps=1000",
    f"--config.dispatch_steps={sizes.steps}",
  ]
  return build.build(command.parse(argv).config)


class Trainer:
  """Dispatches of the trainer's compiled program."""

  def __init__(self, chosen: Experiment):
    devices = sharding.make_mesh()
    setup = chosen.setup._replace(shard=sharding.batch_sharder(devices))
    self._state = first_state(chosen)
    self._programs = programs.compile(
      setup, chosen.dataset, self._state, devices, trains=True
    )

  def __call__(self) -> train_state.TrainState:
    """Takes the steps of a dispatch."""
    self._state, _ = self._programs.train(self._state)
    return self._state


class BareSteps:
  """The same steps on one batch, without shuffling and augmentation."""

  def __init__(self, chosen: Experiment, sizes: Sizes):
    self._steps = sizes.steps
    train = chosen.dataset.train
    assert isinstance(train, Split)
    draw = chosen.setup.task.draw
    plain = chosen.setup.task._replace(draw=lambda key, x: draw(None, x))
    setup = chosen.setup._replace(task=plain)
    self._batch = jax.device_put(
      Split(train.images[: sizes.batch], train.labels[: sizes.batch])
    )
    self._state = first_state(chosen)
    self._history = train_step.empty_history(setup, self._state, self._batch)
    self._one = jax.jit(
      functools.partial(train_step.step_on_batch, setup), donate_argnums=(0, 1)
    )

  def __call__(self) -> train_state.TrainState:
    """Takes as many steps as a dispatch."""
    for _ in range(self._steps):
      self._state, self._history = self._one(
        self._state, self._history, self._batch
      )
    return self._state


def first_state(chosen: Experiment) -> train_state.TrainState:
  """Returns the state at step 0, replicated on all devices."""
  initialize = functools.partial(
    train_state.init,
    chosen.setup,
    chosen.init_key,
    chosen.data_key,
    chosen.dataset.example,
  )
  return jax.jit(
    initialize, out_shardings=sharding.replicated(sharding.make_mesh())
  )()


def measure_resident(sizes: Sizes) -> list[dict]:
  """Returns one row for the trainer and one for the bare steps."""
  chosen = experiment(sizes)
  calls = {"bare step": BareSteps(chosen, sizes), "trainer": Trainer(chosen)}
  seconds = timing.alternate(calls, sizes.rounds)
  return [
    {
      "input": name,
      "images per second": sizes.steps * sizes.batch / seconds[name],
      "relative to the bare step": seconds["bare step"] / seconds[name],
    }
    for name in calls
  ]


def write_images(folder: pathlib.Path, files: int) -> None:
  """Writes JPEGs as large and as detailed as those of ImageNet."""
  random = np.random.default_rng(0)

  def image() -> bytes:
    coarse = random.integers(0, 256, (HEIGHT // 5, WIDTH // 5, 3), np.uint8)
    smooth = coarse.repeat(5, 0).repeat(5, 1).astype(np.int16)
    noisy = smooth + random.integers(-12, 13, smooth.shape)
    return images.encode(np.clip(noisy, 0, 255).astype(np.uint8), "jpeg")

  examples = [{"image": image(), "label": i} for i in range(files)]
  features = {
    "image": tfds_writer.Feature("jpeg", shape=(None, None, 3)),
    "label": tfds_writer.Feature("label", names=[str(i) for i in range(1000)]),
  }
  splits = {"train": examples, "validation": examples[:1]}
  tfds_writer.write(
    folder / "imagenet2012" / "5.1.0",
    features,
    splits,
    description="generated for a benchmark",
  )


def measure_streamed(sizes: Sizes) -> list[dict]:
  """Returns one row for Pillow alone and one for the stream."""
  with tempfile.TemporaryDirectory() as folder:
    write_images(pathlib.Path(folder), sizes.files)
    train = imagenet(path=folder).train
    assert isinstance(train, streams.Stream)
    records = [train.records[i] for i in range(sizes.files)]
    kilobytes = np.mean([len(record["image"]) for record in records]) / 1000
    random = np.random.default_rng(0)

    def pillow() -> None:
      for record in records:
        random_crop(SIZE, record, random)

    def stream() -> None:
      # Each file once, so that no prefetched image is left over.
      for _ in streams.eval_batches(train, batch_size=sizes.batch // 4):
        pass

    seconds = {
      name: seconds_of(call, sizes.rounds)
      for name, call in {"Pillow": pillow, "stream": stream}.items()
    }
  per_core = {name: sizes.files / cpu for name, (_, cpu) in seconds.items()}
  return [
    {
      "reader": name,
      "images per core and second": per_core[name],
      "relative to Pillow": per_core[name] / per_core["Pillow"],
      "images per second": sizes.files / seconds[name][0],
      "kilobytes per file": kilobytes,
    }
    for name in per_core
  ]


def seconds_of(call: Callable[[], None], rounds: int) -> tuple[float, float]:
  """Returns mean wall-clock seconds and CPU seconds of a call."""
  call()
  started, used = time.perf_counter(), time.process_time()
  for _ in range(rounds):
    call()
  return (
    (time.perf_counter() - started) / rounds,
    (time.process_time() - used) / rounds,
  )


def main(argv: Sequence[str] | None = None) -> None:
  """Run the benchmark and save its results."""
  options = outputs.options(__doc__, argv)
  where, sizes = timing.machine(), Sizes()
  if options.small:
    sizes = Sizes(rounds=1, width=0.25, batch=4, steps=2, files=16)
  rows = measure_resident(sizes)
  timing.save("input_resident", rows, where, options.folder)
  rows = measure_streamed(sizes)
  timing.save("input_streamed", rows, where, options.folder)


if __name__ == "__main__":
  main()
