"""One command exports a finished run, and says what is gained."""

import json
import subprocess
import sys

import numpy as np
import pytest

from sparsejax import train
from sparsejax.export import __main__, llama, report, shrink, timing


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Returns the workdir of a finished run."""
  workdir = tmp_path_factory.mktemp("run") / "run"
  argv = ["--config=digits:granet,sparsity=0.95,runlocal"]
  assert train.main([*argv, f"--workdir={workdir}"]) == 0
  return workdir


def test_a_run_becomes_files_with_the_same_accuracy(run, tmp_path, capsys):
  argv = [str(run), "--to=shrink,program,onnx", f"--out={tmp_path}"]
  assert __main__.main([*argv, "--seconds=0.01"]) == 0
  shown = capsys.readouterr().out
  record = json.loads((tmp_path / report.JSON).read_text())
  assert record["verdict"] in shown
  names = ["dense XLA", "ours, XLA", "dense onnxruntime", "ours, onnxruntime"]
  assert list(record["test_accuracy"]) == names
  assert len(set(record["test_accuracy"].values())) == 1
  assert record["milliseconds"].keys() == {"1", "32"}
  assert all(list(t) == names for t in record["milliseconds"].values())
  for name, size in record["files_bytes"].items():
    assert (tmp_path / name).stat().st_size == size > 0
  arrays = np.load(tmp_path / "shrunk.npz")
  sizes = sum(arrays[name].size for name in arrays.files)
  assert sizes == record["shrunk"]["after"]["parameters"]
  page = (tmp_path / report.PAGE).read_text()
  assert "<script" not in page and "http" not in page and "verdict" in page


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


def result(*, removed, sparsity, dense=2.0, ours=2.0):
  """Returns a result with these times, and half as many multiply-adds."""
  before = shrink.Size(100, 100)
  after = shrink.Size(50, 50) if removed else before
  times = {
    name: timing.Time(ms, ms, ms, 1)
    for name, ms in {"dense XLA": dense, "ours, XLA": ours}.items()
  }
  families = (shrink.Family("a", 9, removed, ()),)
  shrunk = shrink.Report(families, before, after, 0.0, {})
  return report.Result("r", {}, shrunk, sparsity, {}, {}, {1: times, 32: times})


def test_verdicts():
  assert report.verdict(result(removed=0, sparsity=0.9)) == (
    "Nothing is gained: 90.0% of the weights are zero, but no whole channel is,"
    " and scattered zeros make dense kernels no faster; prune whole filters or"
    " blocks to gain time."
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
  command = [sys.executable, "-m", "sparsejax.train", f"--workdir={workdir}"]
  config = "--config=lm:granet,sparsity=0.5,runlocal"
  subprocess.run([*command, config], check=True, stdout=subprocess.DEVNULL)
  argv = [str(workdir), "--to=llama", "--seconds=0.01"]
  assert __main__.main(argv) == 0
  assert (workdir / "export" / "llama" / llama.WEIGHTS).is_file()
