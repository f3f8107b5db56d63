"""Language models in the trainer: records, exact resume, sparse to dense."""

import functools
import json
import pathlib
import signal

import jax
import numpy as np
import pytest
from helpers import stopping, trainer

import sparsejax
from sparsejax import command_line, train
from sparsejax.data import windows
from sparsejax.training import initial_state, sharding, train_step
from sparsejax.training.config import build, command, files

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "lm.py"


def main(workdir, options, *changes, stop=None):
  argv = [f"--config={CONFIG}:{options},runlocal", *changes]
  return train.main([*argv, f"--workdir={workdir}"], stop=stop)


def experiment(options, *changes):
  argv = [f"--config={CONFIG}:{options},runlocal", *changes]
  return build.build(command.parse(argv).config)


def records(workdir):
  return trainer.metrics(workdir), trainer.summary(workdir)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run that nothing interrupts."""
  workdir = tmp_path_factory.mktemp("lm") / "whole"
  assert main(workdir, "granet,sparsity=0.8") == command_line.DONE
  return workdir


def test_records_have_the_measures_of_the_task(whole):
  rows, summary = records(whole)
  assert summary["task"] == "next_token"
  assert summary["sparsity"] == pytest.approx(0.8, abs=1e-4)
  assert [m["name"] for m in summary["measures"]] == [
    "bits_per_byte",
    "perplexity",
    "accuracy",
  ]
  for prefix, found in (("", rows[-1]), ("test_", summary)):
    loss = found[f"{prefix}loss"]
    assert found[f"{prefix}bits_per_byte"] == pytest.approx(loss / 0.693147181)
    assert found[f"{prefix}perplexity"] == pytest.approx(2.718281828**loss)
  page = (whole / "report.html").read_text()
  assert "test bits per byte" in page and "Perplexity" in page
  assert "digest" in json.loads((whole / "config.json").read_text())["data"]


def test_each_matrix_of_each_block_is_a_layer(whole):
  _, summary = records(whole)
  layers = summary["layers"]
  assert len(layers) == 2 * 7
  # The config's scope is uniform.
  assert max(layer["sparsity"] for layer in layers) < 0.81
  assert all(layer["macs"] == 32 * layer["total"] for layer in layers)


def test_a_resumed_run_equals_an_uninterrupted_one(whole, tmp_path):
  stopped = main(tmp_path, "granet,sparsity=0.8", stop=stopping.StopAfter(3))
  assert stopped == command_line.TERMINATED
  assert trainer.last_step(tmp_path) == 15
  assert main(tmp_path, "granet,sparsity=0.8") == command_line.DONE
  trainer.assert_same_run(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_resumes_bit_for_bit(tmp_path, number):
  """As a user kills it, in a longer run."""
  options = {
    "config": CONFIG,
    "options": "granet,runlocal",
  }
  longer = ("--config.epochs=60", "--config.checkpoint_every_epochs=6")
  status, out, error = trainer.run(tmp_path / "whole", *longer, **options)
  assert status == 0, out + error
  process = trainer.start(tmp_path / "run", *longer, **options)
  trainer.wait_for(process, lambda: trainer.last_step(tmp_path / "run") >= 200)
  process.send_signal(number)
  status, _, _ = trainer.finish(process)
  assert status == (143 if number == signal.SIGTERM else -9)
  status, out, error = trainer.run(tmp_path / "run", *longer, **options)
  assert status == 0 and "Resuming from step" in out, out + error
  trainer.assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_sparse_pre_training_then_dense_fine_tuning(whole, tmp_path):
  changes = (f"--config.init_from={whole}", "--config.method.at_step=10")
  assert main(tmp_path, "release", *changes) == command_line.DONE
  rows, summary = records(tmp_path)
  before = trainer.summary(whole)["active"]
  assert [row["active"] for row in rows] == [before] * 9 + [20480] * 11
  assert summary["sparsity"] == 0 and summary["init_method"] == "granet"
  start = experiment("release", *changes)
  state = initial_state.create(start, sharding.make_mesh())
  found = sparsejax.summary(state.params, state.opt_state)
  assert found.active == before


@pytest.mark.slow
@pytest.mark.parametrize(
  "method",
  (
    *("rigl", "set", "gmp", "static", "top_kast", "dense", "optg", "sr_ste"),
    "rigl,granularity=n_of_m,sparsity=0.5",
    "granet,granularity=blocks,sparsity=0.5",
  ),
)
def test_methods_train(tmp_path, method):
  assert main(tmp_path, method) == command_line.DONE
  found = trainer.summary(tmp_path)
  if found["target_sparsity"] is not None:
    assert found["active_units"] == found["requested"]


@pytest.mark.slow
def test_bfloat16_trains(tmp_path):
  assert main(tmp_path, "granet,dtype=bfloat16") == command_line.DONE


def test_a_step_of_8_billion_weights_traces(monkeypatch):
  """By shapes alone; `-m pods` compiles it for a pod."""
  config = files.load(CONFIG).get_config("gmp,size=8b,dtype=bfloat16")
  config.model.remat = True
  config.mesh.data, config.mesh.fsdp = 1, -1
  monkeypatch.setattr(jax, "device_count", lambda: 16)
  tokens = np.broadcast_to(np.int32(0), (1_000_000,))
  data = windows.token_dataset(
    {"train": tokens, "test": tokens[:1000]}, vocabulary=128_256, context=128
  )
  made = build.build(config.lock(), data)
  state = initial_state.abstract(made, sharding.make_mesh())
  batch = train_step.batch_shapes(made.dataset.example, made.setup.batch_size)
  step = functools.partial(train_step.train_step, made.setup)
  after, metrics = jax.eval_shape(step, state, batch)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  pairs = zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True)
  assert all((x.shape, x.dtype) == (y.shape, y.dtype) for x, y in pairs)
  assert metrics.loss.shape == ()
  assert sum(x.size for x in jax.tree.leaves(after.params)) > 8e9
  masks = jax.tree.leaves(sparsejax.get_masks(after.opt_state))
  assert sum(x.size for x in masks) > 6.9e9


@pytest.mark.parametrize(
  ("options", "changes", "message"),
  [
    ("granet,text_folder", (), "`config.data.path` is missing"),
    ("granet", ("--config.model.name=mlp",), "takes its `classes` from"),
    ("grasp", (), "takes its `classes` from the data"),
    ("granet", ("--config.data.digest=x",), "it is another text"),
    ("granet,tiny_shakespeare", ("--config.data.path=/no",), "is not on disk"),
  ],
)
def test_what_does_not_fit_is_refused(options, changes, message):
  with pytest.raises(command_line.InputError, match=message):
    experiment(options, *changes)
