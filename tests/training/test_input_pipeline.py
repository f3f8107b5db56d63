"""A streamed run is stopped, goes on and is judged as a resident one."""

import functools
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import streamed
from helpers.stopping import StopAfter

from sparsejax.data import Split, streams
from sparsejax.training import initial_state, loop, mesh, processes, step
from sparsejax.training.reporting import records

SCRIPT = pathlib.Path(streamed.__file__)


def run(workdir, stop=None):
  lines = []
  show = loop.Show(say=lines.append, progress=lambda step, row: None)
  return loop.run(
    streamed.experiment(),
    workdir,
    stop=stop or processes.StopRequest(),
    show=show,
  )


def rows(workdir):
  return [
    {key: row[key] for key in row if not key.endswith("_per_second")}
    for row in records.read_metrics(workdir)
  ]


def test_stopped_within_an_epoch_and_resumed_equals_never_stopped(tmp_path):
  whole = run(tmp_path / "whole")
  assert whole.status == loop.DONE and whole.step == streamed.STEPS
  stopped = run(tmp_path / "parts", StopAfter(2))
  assert stopped.status == loop.TERMINATED and stopped.step == 4
  resumed = run(tmp_path / "parts")
  assert resumed.resumed_from_step == 4 and resumed.status == loop.DONE
  one, other = mesh.fetch(whole.state), mesh.fetch(resumed.state)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert a.tobytes() == b.tobytes()
  assert resumed.evaluation == whole.evaluation
  assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
  # The training part is not read once more only to be judged.
  assert set(whole.evaluation) == {"test_loss", "test_accuracy"}


def test_each_step_trains_on_the_batch_of_the_stream():
  """Steps of the feed are those of `train_batch` on what the stream gives."""
  chosen, devices = streamed.experiment(), mesh.data_mesh()
  state = initial_state.begin(chosen, devices)
  wanted = initial_state.begin(chosen, devices)
  seen = []
  stream = chosen.dataset.train
  read = stream.read

  def noting(record, random):
    image, label = read(record, random)
    seen.append((image.tobytes(), label))
    return image, label

  chosen = chosen._replace(
    dataset=chosen.dataset._replace(train=stream._replace(read=noting))
  )
  feed = streamed.opened(chosen, state, devices)
  metrics = []
  while int(state.step) < streamed.STEPS:
    first = int(state.step)
    state, stacked = feed.train(state)
    metrics += list(stacked.loss[: int(state.step) - first])
  batches = streams.train_batches(
    stream,
    seed=streams_seed(wanted),
    batch_size=8,
    first_batch=0,
    shard=streams.Shard(0, 1),
  )
  one = jax.jit(lambda s, h, b: step.train_batch(chosen.setup, s, h, b))
  for at in range(streamed.STEPS):
    batch = next(batches)
    split = Split(batch.images, batch.labels)
    for image, label in zip(batch.images, batch.labels, strict=True):
      assert (image.tobytes(), label) in seen
    history = step.empty_history(chosen.setup, wanted, split)
    wanted, history = one(wanted, history, split)
    np.testing.assert_allclose(history.loss[at % 2], metrics[at], rtol=1e-5)


def streams_seed(state):
  from sparsejax.data import batches

  return batches.stream_seed(jax.random.wrap_key_data(state.key))


def test_steps_one_by_one_are_those_of_a_dispatch():
  """Convolutions on a CPU: a program a step instead of one a dispatch."""
  chosen = streamed.experiment(
    "--config.data.streamed=False", model=streamed.SMALL_CNN
  )
  devices = mesh.data_mesh()
  state, wanted = (initial_state.begin(chosen, devices) for _ in range(2))
  feed = streamed.opened(chosen, state, devices)
  whole = jax.jit(functools.partial(step.train_steps, chosen.setup))
  train = mesh.replicate(chosen.dataset.train, devices)
  at = [0]
  while int(state.step) < streamed.STEPS:
    state, found = feed.train(state)
    wanted, metrics = whole(wanted, train)
    at.append(int(state.step))
    assert at[-1] == int(wanted.step)
    # Other examples would give other losses in the first digit.
    np.testing.assert_allclose(found.loss, metrics.loss, rtol=1e-3)
    assert found.loss.shape == metrics.loss.shape
  assert at == [0, 2, 4, 5]


def test_a_streamed_part_is_judged_like_a_resident_one():
  chosen, devices = streamed.experiment(), mesh.data_mesh()
  state = initial_state.begin(chosen, devices)
  stream = chosen.dataset.test
  random = np.random.default_rng(0)  # Nothing is drawn.
  examples = [stream.read(record, random) for record in stream.records]
  images, labels = zip(*examples, strict=True)
  part = Split(np.stack(images), np.array(labels, np.int32))
  assert part.examples == streamed.TEST
  wanted = step.evaluate(chosen.setup, state, part)
  found = streamed.opened(chosen, state, devices).judge["test"](state)
  assert int(found.correct) == int(wanted.correct)
  np.testing.assert_allclose(found.loss, wanted.loss, rtol=1e-6)


@pytest.fixture(scope="module")
def of_two_processes():
  with socket.socket() as server:
    server.bind(("127.0.0.1", 0))
    port = server.getsockname()[1]
  started = [
    subprocess.Popen(
      [sys.executable, SCRIPT, str(index), "2", str(port)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
    )
    for index in range(2)
  ]
  told = []
  try:
    for process in started:
      out, err = process.communicate(timeout=240)
      assert process.returncode == 0, out + err
      lines = [x for x in out.splitlines() if x.startswith("results ")]
      told.append(json.loads(lines[0].removeprefix("results ")))
  finally:
    for process in started:
      process.kill()
  return told


def test_two_processes_of_two_devices_train_and_judge_as_one(of_two_processes):
  first, second = of_two_processes
  assert first == second
  alone = streamed.results()
  assert first["correct"] == alone["correct"]
  np.testing.assert_allclose(first["loss"], alone["loss"], rtol=1e-4)
  np.testing.assert_allclose(first["sums"], alone["sums"], rtol=1e-4)
