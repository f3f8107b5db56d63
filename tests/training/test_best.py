"""The best checkpoint, and `config.select_checkpoint`."""

import contextlib
import functools
import json
import math
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from helpers import in_process, tiers
from helpers.stopping import StopAfter

import sparsejax
from sparsejax import command_line, train
from sparsejax.plots import records
from sparsejax.training import (
  initial_state,
  outcomes,
  sharding,
)
from sparsejax.training.checkpointing import (
  best,
  checkpoints,
  init_from,
  reading,
)
from sparsejax.training.config import build, command
from sparsejax.training.reporting import results

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"
# The learning rate grows until weight decay shrinks all weights to zero, so
# accuracy rises and then falls. Pruning ends at step 42; checkpoints are saved
# at steps 15, 30, 45, 60 and 66.
FALLING = (
  f"--config={CONFIG}:granet",
  "--config.model.hidden=(32,)",
  "--config.epochs=3",
  "--config.dispatch_steps=15",
  "--config.eval_every_epochs=0.5",
  "--config.checkpoint_every_epochs=0.5",
  "--config.optimizer.warmup_epochs=2.9",
  "--config.optimizer.learning_rate=1.0",
  "--config.optimizer.weight_decay=0.1",
  "--config.method.every_steps=6",
  "--config.method.end_epochs=1.9",
  "--config.select_checkpoint=best",
)
SAVED = {"test_accuracy": 0.5}


def test_best_is_among_the_sparsest_and_newest_on_ties():
  found = {
    1: {"a": 0.9, best.ACTIVE: 20.0},
    2: {"a": 0.7, best.ACTIVE: 10.0},
    3: {"a": 0.8, best.ACTIVE: 10.0},
    4: {"a": 0.8, best.ACTIVE: 10.0},
    5: {"a": math.nan, best.ACTIVE: 10.0},
    6: {best.ACTIVE: 5.0},
    7: None,
  }
  assert best.best_first(found, "a") == [4, 3, 2, 1]
  assert best.best_first({1: {"a": 0.9}, 2: {"a": 0.8}}, "a") == [1, 2]


def open_run(workdir):
  return checkpoints.open(
    workdir,
    fingerprint="{}",
    sparse_leaves=(),
    best_metric="test_accuracy",
  )


def state(number):
  return {"w": jax.device_put(np.full(4, number, np.float32))}


ABSTRACT = {
  "w": jax.ShapeDtypeStruct(
    (4,),
    np.float32,
    sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]),
  )
}
# Accuracy and active weights of five checkpoints.
HISTORY = {1: (0.9, 20), 2: (0.7, 10), 3: (0.8, 10), 4: (0.6, 10), 5: (0.5, 10)}


def save_history(workdir):
  with contextlib.closing(open_run(workdir)) as run:
    for at, (accuracy, active) in HISTORY.items():
      metrics = {"test_accuracy": accuracy, best.ACTIVE: float(active)}
      run.save(at, state(at), metrics=metrics)


def restore_best(workdir):
  with contextlib.closing(open_run(workdir)) as run:
    last = checkpoints.Restored(state(5), 5, ())
    return run.restore_best(ABSTRACT, last)


def test_denser_checkpoint_is_neither_kept_nor_restored(tmp_path):
  save_history(tmp_path)
  assert reading.saved_steps(tmp_path) == [3, 4, 5]
  found = restore_best(tmp_path)
  assert (found.step, found.skipped) == (3, ())
  np.testing.assert_array_equal(found.state["w"], 3.0)


@pytest.mark.parametrize("part", ["state", "record"])
def test_damaged_best_checkpoint_is_replaced_by_the_next(tmp_path, part):
  save_history(tmp_path)
  shutil.rmtree(tmp_path / "checkpoints" / "3" / part)
  found = restore_best(tmp_path)
  assert found.step == 4
  (line,) = found.skipped
  assert line.startswith("checkpoint 3 is damaged: ")
  assert reading.saved_steps(tmp_path) == [4, 5]
  assert (tmp_path / "checkpoints_damaged" / "3").is_dir()


def test_last_state_is_the_best_if_no_other_is_intact(tmp_path):
  save_history(tmp_path)
  for at in (3, 4, 5):
    shutil.rmtree(tmp_path / "checkpoints" / str(at) / "state")
  found = restore_best(tmp_path)
  assert (found.step, len(found.skipped)) == (5, 2)
  np.testing.assert_array_equal(found.state["w"], 5.0)


def test_checkpoint_without_an_accuracy_is_never_the_best(tmp_path):
  with contextlib.closing(open_run(tmp_path)) as run:
    for at, metrics in {1: SAVED, 2: {}, 3: {}, 4: {}}.items():
      run.save(at, state(at), metrics=metrics)
    last = checkpoints.Restored(state(4), 4, ())
    assert run.restore_best(ABSTRACT, last).step == 1
  assert reading.saved_steps(tmp_path) == [1, 3, 4]


@functools.cache
def experiment(*changes):
  return build.build(command.parse([*FALLING, *changes]).config)


def run(workdir, *changes, stop=None):
  return in_process.run(experiment(*changes), workdir, stop=stop)


def evaluations(workdir):
  return {
    row["step"]: row
    for row in records.read_metrics(workdir).rows
    if "test_accuracy" in row
  }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole")
  return workdir, *run(workdir)


def without_clock(found):
  return {
    key: value
    for key, value in found.items()
    if not key.endswith("_seconds") and key != "resumed_from_step"
  }


def test_summary_describes_the_best_checkpoint(whole):
  workdir, outcome, _ = whole
  found = evaluations(workdir)
  # The last is not the best, and the most accurate one is too dense.
  assert max(found, key=lambda at: found[at]["test_accuracy"]) == 30
  assert found[30]["active"] > found[45]["active"] == found[66]["active"]
  assert found[45]["test_accuracy"] > found[66]["test_accuracy"]
  assert (outcome.step, outcome.selected.step) == (66, 45)
  assert int(outcome.state.step) == 66
  assert int(outcome.selected.state.step) == 45
  accuracy = found[45]["test_accuracy"]
  assert outcome.selected.evaluation["test_accuracy"] == accuracy
  summary = results.summarize(experiment(), outcome)
  assert (summary["steps"], summary["selected_step"]) == (66, 45)
  assert summary["test_accuracy"] == accuracy
  assert summary["active"] == found[45]["active"]
  assert summary["inference_flops"] == 2 * summary["inference_macs"]
  assert summary["training_flops"] == found[66]["training_flops"]
  state = outcome.selected.state
  counts = sparsejax.summary(state.params, state.opt_state)
  assert summary["itop_rate"] == counts.itop_rate


def test_summary_has_the_mask_updates_of_the_whole_run(whole):
  _, outcome, _ = whole
  found = results.summarize(experiment(), outcome)
  assert found["mask_updates"] == 66 // 6
  # None where other load hides what they take.
  seconds = found["mask_update_seconds"]
  assert seconds is None or seconds >= 0


@pytest.mark.parametrize("dispatches", tiers.every(3, [3, 1, 4]))
def test_resumed_run_selects_the_same_checkpoint(whole, tmp_path, dispatches):
  _, wanted, _ = whole
  stopped, _ = run(tmp_path, stop=StopAfter(dispatches))
  assert stopped.status == outcomes.TERMINATED
  resumed, _ = run(tmp_path)
  chosen = experiment()
  one, other = (
    without_clock(results.summarize(chosen, outcome))
    for outcome in (resumed, wanted)
  )
  assert one == other
  for a, b in zip(
    *(
      jax.tree.leaves(sharding.fetch(o.selected.state))
      for o in (resumed, wanted)
    ),
    strict=True,
  ):
    assert a.tobytes() == b.tobytes()


def test_checkpoint_of_a_stopped_run_is_not_selected(tmp_path):
  # No checkpoint before the last step, except the one saved on SIGTERM.
  never = "--config.checkpoint_every_epochs=100"
  stopped, _ = run(tmp_path, never, stop=StopAfter(3))
  assert stopped.step == 45
  outcome, _ = run(tmp_path, never)
  assert reading.saved_steps(tmp_path) == [45, 66]
  assert outcome.selected.step == 66
  last = evaluations(tmp_path)[66]["test_accuracy"]
  assert outcome.selected.evaluation["test_accuracy"] == last


def test_run_killed_after_its_last_step_selects_the_same(whole, tmp_path):
  workdir, wanted, _ = whole
  shutil.copytree(workdir, tmp_path / "run")
  again, _ = run(tmp_path / "run")
  assert again.resumed_from_step == 66
  assert again.selected.step == 45
  assert again.selected.evaluation == wanted.selected.evaluation


def test_damaged_best_checkpoint_is_reported_and_the_next_selected(
  whole, tmp_path
):
  workdir, _, _ = whole
  shutil.copytree(workdir, tmp_path / "run")
  largest = max(
    (tmp_path / "run" / "checkpoints" / "45").rglob("*"),
    key=lambda path: path.stat().st_size * path.is_file(),
  )
  largest.write_bytes(b"")
  outcome, lines = run(tmp_path / "run")
  assert any("warning: checkpoint 45 is damaged" in line for line in lines)
  found = evaluations(workdir)
  assert outcome.selected.step in (60, 66)
  accuracy = outcome.selected.evaluation["test_accuracy"]
  assert accuracy == max(found[at]["test_accuracy"] for at in (60, 66))


def test_validation_accuracy_decides_if_there_is_one(tmp_path):
  outcome, _ = run(tmp_path, "--config.data.validation=30")
  found = evaluations(tmp_path)
  least = found[66]["active"]
  ranks = {
    at: (row["validation_accuracy"], at)
    for at, row in found.items()
    if row["active"] == least
  }
  assert outcome.selected.step == max(ranks, key=ranks.__getitem__)


def test_retraining_starts_from_the_selected_checkpoint(tmp_path, capsys):
  workdir = tmp_path / "run"
  assert train.main([*FALLING, f"--workdir={workdir}"]) == 0
  out = capsys.readouterr().out
  assert "selected step       45 of 66 (best)" in out
  assert "mask updates        11" in out
  saved = reading.read(workdir, 45)
  later = build.build(
    command.parse(
      [
        f"--config={CONFIG}:retrain",
        "--config.model.hidden=(32,)",
        f"--config.init_from={workdir}",
        "--config.init_mode=lr_rewind",
      ]
    ).config
  )
  first = initial_state.create(later, sharding.make_mesh())
  for name in ("Dense_0", "Dense_1"):
    kernel = first.params[name]["kernel"]
    np.testing.assert_array_equal(kernel, saved["params"][name]["kernel"])
  # A summary without a selected step describes the last one.
  summary = json.loads((workdir / records.SUMMARY).read_text())
  del summary["selected_step"]
  source = init_from.SourceRun(workdir, {}, summary)
  assert source.selected_step == 66


def test_console_has_the_time_of_mask_updates(tmp_path, capsys):
  # The second and the fourth of five dispatches have one.
  changes = "--config.method.every_steps=30", f"--workdir={tmp_path}"
  assert train.main([*FALLING, *changes]) == 0
  summary = records.read_summary(tmp_path)
  assert summary["mask_updates"] == 2
  seconds = summary["mask_update_seconds"]
  assert seconds is None or 0 <= seconds < summary["train_seconds"]
  out = capsys.readouterr().out
  assert re.search(
    r"mask updates {8}2(, \S+ s each, \S+% of the training time)?\n", out
  )


def test_unknown_choice_is_refused():
  with pytest.raises(command_line.InputError) as caught:
    experiment("--config.select_checkpoint=bst")
  assert str(caught.value) == (
    "`config.select_checkpoint` got 'bst'. Did you mean 'best'? Valid: best,"
    " last."
  )


def test_last_state_is_selected_by_default(tmp_path):
  outcome, _ = run(tmp_path, "--config.select_checkpoint=last")
  assert outcome.selected.step == outcome.step == 66
  assert outcome.selected.state is outcome.state
  # The best one is kept anyway.
  assert reading.saved_steps(tmp_path) == [45, 60, 66]
