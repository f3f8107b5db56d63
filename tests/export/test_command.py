"""One command exports a finished run, and says what is gained."""

import html
import json
import re

import jax
import numpy as np
import pytest

from sparsejax import train
from sparsejax.export import (
  __main__,
  llama,
  modules,
  program,
  report,
  shrink,
  sparse_apply,
  timing,
)
from sparsejax.training.config import finished


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Returns the workdir of a finished run."""
  workdir = tmp_path_factory.mktemp("run") / "run"
  argv = ["--config=digits:granet,sparsity=0.95,runlocal"]
  assert train.main([*argv, f"--workdir={workdir}"]) == 0
  return workdir


def test_a_run_becomes_files_with_the_same_accuracy(run, tmp_path, capsys):
  argv = [str(run), "--to=shrink,program,onnx,sparse", f"--out={tmp_path}"]
  assert __main__.main([*argv, "--seconds=0.01"]) == 0
  shown = capsys.readouterr().out
  record = json.loads((tmp_path / report.JSON).read_text())
  assert record["verdict"] in shown
  names = ["dense XLA", "ours, XLA", "dense onnxruntime", "ours, onnxruntime"]
  gains = [p["in_lanes"] for s in record["sparse_layers"].values() for p in s]
  assert len(gains) == 6  # Three layers at two batch sizes.
  names += ["ours, sparse layers"] if any(gains) else []
  assert list(record["test_accuracy"]) == names
  assert len(set(record["test_accuracy"].values())) == 1
  assert record["milliseconds"].keys() == {"1", "32"}
  assert all(list(t) == names for t in record["milliseconds"].values())
  for name, size in record["files_bytes"].items():
    assert (tmp_path / name).stat().st_size == size > 0
  network = modules.load(tmp_path)
  sizes = sum(leaf.size for leaf in jax.tree.leaves(network.variables))
  assert sizes == record["shrunk"]["after"]["parameters"]
  x = jax.random.uniform(jax.random.key(0), (5, 8, 8, 1))
  found = network.apply(network.variables, x, train=False)
  masked = finished.read(run)
  expected = masked.experiment.model.apply(masked.variables, x, train=False)
  np.testing.assert_allclose(found, expected, atol=1e-4)
  page = (tmp_path / report.PAGE).read_text()
  assert "<script" not in page and "http" not in page
  assert html.escape(record["verdict"]) in page


@pytest.mark.parametrize(
  "argv, message",
  [
    (["nowhere"], "is not the workdir of a run"),
    (["RUN", "--to=shrink,onx"], "Did you mean 'onnx'?"),
    (["RUN", "--to=llama"], "this run trained a MLP"),
    (["RUN", "--seconds=0"], "must be above 0"),
    ([], "required"),
  ],
)
def test_bad_input_is_one_line(run, tmp_path, capsys, argv, message):
  argv = [str(run) if arg == "RUN" else arg for arg in argv]
  assert __main__.main([*argv, f"--out={tmp_path}"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: ") and message in line


@pytest.mark.slow
def test_a_run_in_lanes_is_exported_as_any_other(tmp_path, monkeypatch):
  workdir, folder = tmp_path / "run", tmp_path / "out"
  argv = ["--config=set_mlp:set,runlocal", "--config.model.layout=sparse"]
  assert train.main([*argv, f"--workdir={workdir}"]) == 0
  # A network this small gains nothing: take every product as faster.
  monkeypatch.setattr(sparse_apply, "_LEAST_GAIN", 0.0)
  argv = [str(workdir), "--to=sparse,weights,shrink", f"--out={folder}"]
  assert __main__.main([*argv, "--seconds=0.01"]) == 0
  record = json.loads((folder / report.JSON).read_text())
  summary = json.loads((workdir / "summary.json").read_text())
  accuracies = record["test_accuracy"]
  assert list(accuracies) == ["dense XLA", "ours, XLA", "ours, sparse layers"]
  assert set(accuracies.values()) == {summary["test_accuracy"]}
  assert record["sparsity"] == pytest.approx(summary["sparsity"])
  masked = finished.read(workdir)
  x = jax.random.uniform(jax.random.key(0), (5, 8, 8, 1))
  expected = masked.experiment.model.apply(masked.variables, x, train=False)
  found = program.load(folder, "sparse.bin")(x)
  np.testing.assert_allclose(found, expected, atol=1e-4)
  network = modules.load(folder)
  found = network.apply(network.variables, x, train=False)
  np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_damaged_network_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError):
    modules.load(tmp_path)
  arrays = {"params/Dense_0/kernel": np.zeros((2, 3), np.float32)}
  np.savez(tmp_path / modules.ARRAYS, allow_pickle=False, **arrays)
  record = {
    "model": {"name": "mlp", "hidden": [3]},
    "provided": {"classes": 10},
    "fits_module": True,
    "shapes": {"params/Dense_0/kernel": [2, 3]},
  }
  for changes, message in (
    ({}, None),
    ({"shapes": {}}, "its arrays are not those of shrunk.json"),
    ({"fits_module": False}, "does not fit a MLP"),
    ({"model": {"name": "mpl"}}, "Did you mean 'mlp'?"),
    ({"model": None}, "cannot be loaded"),
  ):
    text = json.dumps({**record, **changes})
    (tmp_path / modules.RECORD).write_text(text)
    if message is None:
      assert modules.load(tmp_path).variables.keys() == {"params"}
      continue
    with pytest.raises(modules.NetworkError, match=re.escape(message)):
      modules.load(tmp_path)


def result(*, removed, sparsity, dense=2.0, ours=2.0, lanes=()):
  """Returns a result with these times, and half as many multiply-adds."""
  before = shrink.Size(100, 100)
  after = shrink.Size(50, 50) if removed else before
  times = {
    name: timing.Time(ms, ms, ms, 1)
    for name, ms in {"dense XLA": dense, "ours, XLA": ours}.items()
  }
  families = (shrink.Family("a", 9, removed, ()),)
  shrunk = shrink.Report(families, before, after, 0.0, {})
  products = [
    sparse_apply.Product(("k",), (9, 9), sparsity, 1, gain, gain > 1)
    for gain in lanes
  ]
  return report.Result(
    "r",
    {},
    shrunk,
    sparsity,
    {},
    {},
    times={1: times, 32: times},
    products={1: products, 32: products},
  )


def test_verdicts():
  assert report.verdict(result(removed=0, sparsity=0.9)) == (
    "Nothing is gained: 90.0% of the weights are zero, but no whole channel is,"
    " and scattered zeros make dense kernels no faster; prune whole filters or"
    " blocks to gain time."
  )
  assert report.verdict(result(removed=0, sparsity=0.9, lanes=(0.5,))) == (
    "Nothing is gained: 90.0% of the weights are zero, but no whole channel is,"
    " and scattered zeros make dense kernels no faster; sparse layers are"
    " slower here, too; prune whole filters or blocks to gain time."
  )
  found = report.verdict(
    result(removed=0, sparsity=0.9, ours=0.5, lanes=(2, 3, 0.5))
  )
  assert found == (
    "Faster: with 2 of its kernels in sparse layers, the best of ours runs 4"
    " times at batch 1 and 4 times at batch 32 as fast as the best dense"
    " network here."
  )
  assert report.verdict(result(removed=4, sparsity=0.5, ours=1.0)) == (
    "Faster: with 2 times fewer multiply-adds, the best of ours runs 2 times at"
    " batch 1 and 2 times at batch 32 as fast as the best dense network here."
  )
  assert report.verdict(result(removed=4, sparsity=0.9)) == (
    "Smaller, but no faster: the network has 2 times fewer multiply-adds, and"
    " this machine spends its time elsewhere; the other zeros are scattered and"
    " gain nothing: prune whole filters or blocks."
  )


def test_times_are_measured_in_turns():
  order = []
  calls = {name: lambda name=name: order.append(name) for name in "ab"}
  found = timing.measure(calls, seconds=0.0, rounds=3)
  assert order == ["a", "a", "b", "b", *"ababab"]
  assert found["a"].calls == 3
  assert found["a"].low <= found["a"].median <= found["a"].high


def test_a_transformer_becomes_a_llama(tmp_path):
  workdir = tmp_path / "run"
  config = "--config=lm:granet,sparsity=0.5,runlocal"
  assert train.main([config, f"--workdir={workdir}"]) == 0
  argv = [str(workdir), "--to=llama", "--seconds=0.01"]
  assert __main__.main(argv) == 0
  assert (workdir / "export" / "llama" / llama.WEIGHTS).is_file()
