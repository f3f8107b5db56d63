"""Streamed data: resuming, batches, evaluation, and several processes."""

import functools
import os

import jax
import numpy as np
from helpers import streamed, tiers, trainer
from helpers.stopping import StopAfter
from helpers.trainer import metrics as rows

from sparsejax.data import Split, streams
from sparsejax.training import (
  evaluation,
  initial_state,
  outcomes,
  preemption,
  session,
  sharding,
  train_step,
)
from sparsejax.training.reporting.reporter import Reporter


def run(workdir, stop=None):
  reporter = Reporter(
    message=lambda text: None, progress=lambda step, row: None
  )
  return session.run(
    streamed.experiment(),
    workdir,
    stop=stop or preemption.StopRequest(),
    reporter=reporter,
  )


def test_run_resumed_within_an_epoch_equals_an_uninterrupted_one(tmp_path):
  whole = run(tmp_path / "whole")
  assert whole.status == outcomes.DONE and whole.step == streamed.STEPS
  stopped = run(tmp_path / "parts", StopAfter(2))
  assert stopped.status == outcomes.TERMINATED and stopped.step == 4
  resumed = run(tmp_path / "parts")
  assert resumed.resumed_from_step == 4 and resumed.status == outcomes.DONE
  one, other = sharding.fetch(whole.state), sharding.fetch(resumed.state)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert a.tobytes() == b.tobytes()
  assert resumed.selected.evaluation == whole.selected.evaluation
  assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
  # Evaluating the training split would read all of it once more.
  assert set(whole.selected.evaluation) == {"test_loss", "test_accuracy"}


def test_each_step_trains_on_its_batch_of_the_stream():
  """Dispatches equal `step_on_batch` on the batches of the stream."""
  chosen, mesh = streamed.experiment(), sharding.make_mesh()
  state = initial_state.create(chosen, mesh)
  wanted = initial_state.create(chosen, mesh)
  seen = []
  stream = chosen.dataset.train
  read = stream.read

  def recording_read(record, random):
    image, label = read(record, random)
    seen.append((image.tobytes(), label))
    return image, label

  chosen = chosen._replace(
    dataset=chosen.dataset._replace(train=stream._replace(read=recording_read))
  )
  compiled = streamed.compile_programs(chosen, state, mesh)
  losses = []
  while int(state.step) < streamed.STEPS:
    first = int(state.step)
    state, stacked = compiled.train(state)
    losses += list(stacked.loss[: int(state.step) - first])
  batches = streams.train_batches(
    stream, seed=streams_seed(wanted), batch_size=8, first_batch=0
  )
  one = jax.jit(lambda s, h, b: train_step.step_on_batch(chosen.setup, s, h, b))
  for at in range(streamed.STEPS):
    batch = next(batches)
    split = Split(batch.images, batch.labels)
    for image, label in zip(batch.images, batch.labels, strict=True):
      assert (image.tobytes(), label) in seen
    history = train_step.empty_history(chosen.setup, wanted, split)
    wanted, history = one(wanted, history, split)
    np.testing.assert_allclose(history.loss[at % 2], losses[at], rtol=1e-5)


def streams_seed(state):
  from sparsejax.data import batches

  return batches.stream_seed(jax.random.wrap_key_data(state.key))


@tiers.SLOW
def test_single_steps_equal_a_dispatch():
  """Convolutions on a CPU: one call per step, not per dispatch."""
  chosen = streamed.experiment(
    "--config.data.streamed=False", model=streamed.SMALL_CNN
  )
  mesh = sharding.make_mesh()
  state, wanted = (initial_state.create(chosen, mesh) for _ in range(2))
  compiled = streamed.compile_programs(chosen, state, mesh)
  whole = jax.jit(functools.partial(train_step.run_dispatch, chosen.setup))
  train = sharding.replicate(chosen.dataset.train, mesh)
  at = [0]
  while int(state.step) < streamed.STEPS:
    state, found = compiled.train(state)
    wanted, stacked = whole(wanted, train)
    at.append(int(state.step))
    assert at[-1] == int(wanted.step)
    # Other examples would change the first digit of the losses.
    np.testing.assert_allclose(found.loss, stacked.loss, rtol=1e-3)
    assert found.loss.shape == stacked.loss.shape
  assert at == [0, 2, 4, 5]


def test_streamed_split_is_evaluated_like_a_resident_one():
  chosen, mesh = streamed.experiment(), sharding.make_mesh()
  state = initial_state.create(chosen, mesh)
  stream = chosen.dataset.test
  random = np.random.default_rng(0)  # Not used.
  examples = [stream.read(record, random) for record in stream.records]
  images, labels = zip(*examples, strict=True)
  part = Split(np.stack(images), np.array(labels, np.int32))
  assert part.examples == streamed.TEST
  wanted = evaluation.evaluate(chosen.setup, state, part)
  found = streamed.compile_programs(chosen, state, mesh).evaluate["test"](state)
  assert found.metrics["accuracy"] == wanted.metrics["accuracy"]
  np.testing.assert_allclose(found.loss, wanted.loss, rtol=1e-6)


def test_two_processes_equal_one_with_two_devices(tmp_path):
  """Bit for bit, since each process reads the rows of its devices."""
  one, two = tmp_path / "one", tmp_path / "two"
  args, quick = (
    (*streamed.CHANGES, *streamed.SMALL_MLP),
    {"XLA_FLAGS": os.environ["XLA_FLAGS"]},
  )
  several = trainer.start_several(two, 2, *args, options="set", env=quick)
  single = trainer.start(
    one, *args, options="set", env={"JAX_NUM_CPU_DEVICES": "2", **quick}
  )
  trainer.finish_all([single, *several])
  trainer.assert_same_run(one, two)
