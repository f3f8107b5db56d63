"""Pruning a finished run with calibration data, then fine-tuning it."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiers

import sparsejax
from sparsejax import command_line, train
from sparsejax.components import counts
from sparsejax.training import initial_state, sharding
from sparsejax.training.config import build, command

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"
MODEL = "--config.model.hidden=(24, 12)"
TOTAL = 64 * 24 + 24 * 12 + 12 * 10


def argv(options, *changes):
  return [f"--config={CONFIG}:{options},runlocal", MODEL, *changes]


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
  """The workdir of a finished dense run."""
  workdir = tmp_path_factory.mktemp("runs") / "dense"
  assert train.main(argv("dense", f"--workdir={workdir}")) == 0
  return workdir


def first_state(dense, options, *changes):
  config = command.parse(
    argv(options, f"--config.init_from={dense}", *changes)
  ).config
  chosen = build.build(config)
  return chosen, initial_state.create(chosen, sharding.make_mesh())


@pytest.mark.parametrize(
  "name", tiers.some(("wanda", "ria", "sparsegpt"), lambda n: n == "wanda")
)
def test_a_run_starts_from_the_pruned_network(dense, name):
  _, state = first_state(dense, f"{name},sparsity=0.6")
  found = sparsejax.summary(state.params, state.opt_state)
  want = counts.requested_count(TOTAL, 0.6)
  assert found.active == found.requested == want
  sparsejax.assert_sparse(state.params, state.opt_state)
  # Only SparseGPT moves the weights that stay.
  _, whole = first_state(dense, "retrain", "--config.init_mode=lr_rewind")
  moved = [
    bool(jnp.any((p != q) & (p != 0)))
    for p, q in zip(
      jax.tree.leaves(state.params), jax.tree.leaves(whole.params), strict=True
    )
    if p.ndim > 1
  ]
  assert all(moved) == (name == "sparsegpt")


def test_the_command_prunes_and_fine_tunes(dense, tmp_path):
  status = train.main(
    argv(
      "wanda,sparsity=0.6",
      f"--config.init_from={dense}",
      f"--workdir={tmp_path}",
    )
  )
  assert status == 0
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["active"] == counts.requested_count(TOTAL, 0.6)
  assert summary["method"] == "wanda"


def test_n_of_m(dense):
  chosen, state = first_state(
    dense,
    "wanda",
    "--config.method.sparsity=None",
    "--config.method.n=2",
    "--config.method.m=4",
  )
  assert chosen.target_sparsity == 0.5
  for mask in jax.tree.leaves(sparsejax.get_masks(state.opt_state)):
    cells = np.asarray(mask).reshape(-1, 4, mask.shape[1])
    assert (cells.sum(1) == 2).all()


def test_arguments_that_contradict_each_other_are_refused(dense):
  with pytest.raises(command_line.InputError, match="`sparsity`, or `n` and"):
    first_state(dense, "wanda", "--config.method.n=2")
