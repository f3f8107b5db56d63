"""`config.init_from`: retraining, iterative pruning, extended training."""

import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from helpers import in_process, tiers, trainer
from helpers.stopping import StopAfter

import sparsejax
from sparsejax import command_line, train
from sparsejax.components import counts as counting
from sparsejax.study import imp
from sparsejax.training import (
  initial_state,
  sharding,
  train_state,
)
from sparsejax.training.config import build, command

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"
# Batch norm, to have a model state; 22 steps in two dispatches.
MODEL = ("--config.model.channels=(4, 6)",)
BASE = "granet,sparsity=0.7,model=cnn,seed=5,runlocal"
RETRAIN = "retrain,model=cnn,seed=5,runlocal"


def argv(options, *changes):
  # Passing a tuple twice would concatenate its values.
  model = [] if any("channels" in change for change in changes) else MODEL
  return [f"--config={CONFIG}:{options}", *model, *changes]


def run(workdir, options, *changes):
  status = train.main(argv(options, f"--workdir={workdir}", *changes))
  assert status == 0
  return workdir


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """The workdir of a run that saved its weights at steps 0 and 11."""
  workdir = tmp_path_factory.mktemp("runs") / "source"
  return run(workdir, BASE, "--config.keep_steps=(0, 11)")


def raw(workdir, folder, at):
  """Reads a checkpoint without the code under test."""
  local = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
    return reader.restore(
      workdir / folder / str(at) / "state",
      args=ocp.args.StandardRestore(fallback_sharding=local),
    )


def first_state(options, *changes):
  chosen = build.build(command.parse(argv(options, *changes)).config)
  return chosen, initial_state.create(chosen, sharding.make_mesh())


def same_bits(got, want):
  pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
  for one, other in pairs:
    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def masked(params, masks):
  """Applies masks with numpy."""
  return jax.tree.map(
    lambda p, m: p if m is None else np.where(m, p, np.float32(0)),
    params,
    masks,
    is_leaf=lambda x: x is None,
  )


def assert_starts_from(state, weights, masks):
  """Asserts a state at step 0 with these weights and masks, and no momentum."""
  assert int(state.step) == 0
  same_bits(state.params, masked(weights["params"], masks))
  same_bits(state.model_state, weights["model_state"])
  same_bits(sparsejax.get_masks(state.opt_state), masks)
  traces = optax.tree.get_all_with_path(state.opt_state, "trace")
  assert traces
  assert not any(np.any(x) for _, t in traces for x in jax.tree.leaves(t))


def test_initial_weights_are_saved_dense(source):
  chosen = build.build(command.parse(argv(BASE)).config)
  new = jax.jit(functools.partial(train_state.init_weights, chosen.setup))(
    chosen.init_key, chosen.dataset.example
  )
  saved = raw(source, "weights", 0)
  same_bits(saved["params"], new.params)
  same_bits(saved["model_state"], new.model_state)


def test_weights_of_a_step_are_saved(source):
  saved = raw(source, "weights", 11)
  state = raw(source, "checkpoints", 11)
  same_bits(saved["params"], state["params"])
  same_bits(saved["model_state"], state["model_state"])


@pytest.mark.parametrize("at", [0, 11])
def test_rewind_starts_from_saved_weights_and_the_masks(source, at):
  masks = raw(source, "checkpoints", 22)["opt_state"]["masks"]
  chosen, state = first_state(
    RETRAIN, f"--config.init_from={source}", f"--config.init_step={at}"
  )
  assert_starts_from(state, raw(source, "weights", at), masks)
  total = sum(m.size for m in jax.tree.leaves(masks))
  active = sum(int(m.sum()) for m in jax.tree.leaves(masks))
  assert active == counting.requested_count(total, 0.7)
  assert chosen.target_sparsity == 0.7


def test_lr_rewind_starts_from_the_weights_and_statistics_of_the_result(source):
  last = raw(source, "checkpoints", 22)
  _, state = first_state(
    RETRAIN, f"--config.init_from={source}", "--config.init_mode=lr_rewind"
  )
  assert_starts_from(state, last, last["opt_state"]["masks"])
  same_bits(state.params, last["params"])
  fresh = raw(source, "weights", 0)["model_state"]
  pairs = zip(*map(jax.tree.leaves, (state.model_state, fresh)), strict=True)
  assert any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs)


def test_reinit_takes_only_the_masks(source):
  masks = raw(source, "checkpoints", 22)["opt_state"]["masks"]
  _, state = first_state(
    RETRAIN.replace("seed=5", "seed=6"),
    f"--config.init_from={source}",
    "--config.init_mode=reinit",
  )
  chosen = build.build(
    command.parse(argv(BASE.replace("seed=5", "seed=6"))).config
  )
  new = jax.jit(functools.partial(train_state.init_weights, chosen.setup))(
    chosen.init_key, chosen.dataset.example
  )
  assert_starts_from(state, new._asdict(), masks)


def test_retraining_keeps_the_masks_and_records_their_origin(source, tmp_path):
  workdir = run(tmp_path / "lth", RETRAIN, f"--config.init_from={source}")
  same_bits(
    raw(workdir, "checkpoints", 22)["opt_state"]["masks"],
    raw(source, "checkpoints", 22)["opt_state"]["masks"],
  )
  same_bits(raw(workdir, "weights", 0), raw(source, "weights", 0))
  summary = json.loads((workdir / "summary.json").read_text())
  wanted = {
    "method": "retrain",
    "init_method": "granet",
    "init_mode": "rewind",
    "init_step": 0,
    "target_sparsity": 0.7,
  }
  assert {key: summary[key] for key in wanted} == wanted
  # Retraining this run still records the method that found the masks.
  again = build.build(
    command.parse(argv(RETRAIN, f"--config.init_from={workdir}")).config
  )
  assert again.source_run.method == "granet"


@pytest.mark.parametrize("method", tiers.every(2, ["retrain", "snip"]))
def test_resumed_run_equals_an_uninterrupted_one(method, source, tmp_path):
  options = f"{method},model=cnn,seed=5,runlocal"
  changes = [f"--config.init_from={source}"] if method == "retrain" else []
  chosen = build.build(command.parse(argv(options, *changes)).config)
  outcomes = []
  for name, stops in (("whole", [9]), ("stopped", [1, 9])):
    (tmp_path / name).mkdir()
    for after in stops:
      outcome, _ = in_process.run(
        chosen, tmp_path / name, stop=StopAfter(after)
      )
    outcomes.append(outcome)
  whole, resumed = outcomes
  assert resumed.resumed_from_step == 11
  assert whole.resumed_from_step is None
  same_bits(whole.state, resumed.state)
  assert trainer.metrics(tmp_path / "whole") == trainer.metrics(
    tmp_path / "stopped"
  )


def test_a_round_0_that_is_too_sparse_is_refused_before_it_trains(
  tmp_path, capsys
):
  arguments = argv(
    "granet,model=cnn,runlocal", "--sparsity=0.95", f"--workdir={tmp_path}"
  )
  assert imp.main(arguments) == command_line.BAD_INPUT
  message = capsys.readouterr().err
  assert "'granet' to a sparsity of 0.9 in round 0, but round 1" in message
  assert "--config=NAME:dense" in message and message.count("\n") == 1
  assert not list(tmp_path.iterdir())


@tiers.SLOW
def test_iterative_pruning_rewinds_every_round(tmp_path):
  requested = [
    "--sparsity=0.5",
    "--prune_fraction=0.3",
    f"--workdir={tmp_path}",
  ]
  arguments = argv("dense,model=cnn,seed=5,runlocal", *requested)
  assert imp.main(arguments) == 0
  rounds = [
    raw(tmp_path / f"round_{number:02d}", "checkpoints", 22)
    for number in range(3)
  ]
  for number, sparsity in enumerate((0.0, 0.3, 0.5)):
    masks = [m for m in jax.tree.leaves(rounds[number]["opt_state"]["masks"])]
    total = sum(mask.size for mask in masks)
    active = sum(int(mask.sum()) for mask in masks)
    assert active == counting.requested_count(total, sparsity)
    folder = tmp_path / f"round_{number:02d}"
    initial = raw(tmp_path / "round_00", "weights", 0)
    same_bits(raw(folder, "weights", 0), initial)
  for before, after in zip(rounds, rounds[1:], strict=False):
    # The largest weights at the end of the previous round, over all layers.
    values = np.concatenate(
      [np.abs(k).ravel() for k in kernels(before["params"])]
    )
    mask = np.concatenate(
      [m.ravel() for m in jax.tree.leaves(after["opt_state"]["masks"])]
    )
    assert values[mask].min() > values[~mask].max()
  summaries = [
    json.loads(path.read_text())
    for path in sorted(tmp_path.glob("*/summary.json"))
  ]
  assert [s["init_method"] for s in summaries] == [None, "dense", "dense"]
  # Run again, the same command finds every round finished.
  assert imp.main(arguments) == 0


def kernels(params):
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return [np.asarray(x) for path, x in leaves if "kernel" in str(path)]


def test_rounds_rewind_to_a_step_of_the_first_round(tmp_path):
  first, second, third = imp.commands(
    [
      "--config=x.py:granet",
      "--config.method.end_epochs=3",
      "--config.seed=2",
      "--sparsity=0.36",
      "--init_step=11",
      f"--workdir={tmp_path}",
    ]
  )
  assert "--config.keep_steps=(0, 11)" in first
  assert "--config.method.end_epochs=3" in first
  assert "--config.init_step=11" in second
  assert f"--config.init_from={tmp_path}/round_00" in second
  assert "--config.init_step=0" in third
  assert "--config.method.sparsity=0.36" in third
  for later in (second, third):
    assert "--config.seed=2" in later
    assert "--config.method.end_epochs=3" not in later


@pytest.mark.parametrize(
  ("sparsity", "rounds"), [(0.9, 11), (0.95, 14), (0.98, 18), (0.1, 1)]
)
def test_number_of_rounds_in_the_papers(sparsity, rounds):
  found = imp.sparsities(sparsity, 0.2)
  assert (len(found), found[-1]) == (rounds, sparsity)


NINETY = ("--workdir=x", "--sparsity=0.9")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--sparsity=0.9"], "the following arguments are required: --workdir"),
    (["--workdir=x", "--sparsity=90"], "`--sparsity` must be in (0, 1)"),
    (["--workdir=x", "--sparsity=.9", "--init_mode=reinit"], "`--init_mode`"),
    (["--workdir=", "--sparsity=0.9"], "the path must not be empty"),
    (["--workdir", "--sparsity=0.9"], "expected one argument"),
    ([*NINETY, "--prune_fraction=1e-12"], "takes 2302585092993 rounds"),
    ([*NINETY, "--prune_fraction=1e-320"], "takes inf rounds to a sparsity"),
    ([*NINETY, "--init_mod=rewind"], "Did you mean '--config.init_mode'"),
    ([*NINETY, "--config.seed"], "Missing value for flag --config.seed"),
    # Only the second round has an argument that cannot work.
    (["--workdir=x", "--sparsity=1e-300"], "must be a finite float32"),
    ([*NINETY, f"--init_step={2**31}"], "must be an int32"),
  ],
)
def test_bad_arguments_of_imp_are_refused(arguments, message, capsys):
  assert imp.main([f"--config={CONFIG}", *arguments]) == command_line.BAD_INPUT
  captured = capsys.readouterr()
  assert captured.err.startswith("error: ") and captured.out == ""
  assert message in captured.err


def test_arguments_of_the_method_are_those_of_the_first_round():
  for changes in (
    ["--config.method.rounds=3"],
    ["--config.method.rounds", "3"],
  ):
    first, second = imp.commands(
      ["--config=digits", "--workdir=x", "--sparsity=0.1", *changes]
    )
    assert "--config.method.rounds=3" in first
    assert not {"3", "--config.method.rounds=3"} & {*second}


# Source runs that do not fit


def refused(options, *changes):
  with pytest.raises(command_line.InputError) as caught:
    build.build(command.parse(argv(options, *changes)).config)
  return str(caught.value)


@pytest.mark.parametrize(
  ("options", "changes", "message"),
  [
    (
      "granet",
      [],
      "'granet' does not use the masks of another run. Only 'retrain'",
    ),
    (RETRAIN, ["init_mode=rewnd"], "Did you mean 'rewind'?"),
    (
      RETRAIN,
      ["model.channels=(4, 8)"],
      "`model.channels` is [4, 6] there and [4, 8] here",
    ),
    (RETRAIN, ["select=Conv*"], '`select` is [] there and ["Conv*"] here'),
    (RETRAIN, ["dense=Dense*"], '`dense` is [] there and ["Dense*"] here'),
    (RETRAIN, ["init_step=5"], "saved weights of the steps [0, 11]"),
    (
      RETRAIN,
      ["init_mode=lr_rewind", "init_step=11"],
      "requires `config.init_mode` 'rewind'",
    ),
    (RETRAIN, ["init_mode=reinit"], "`config.seed` must differ from 5"),
    (RETRAIN, ["method.sparsity=0.5"], "requires 156 weights, but the mask in"),
  ],
)
def test_source_that_does_not_fit_is_refused(source, options, changes, message):
  options = options if "," in options else f"{options},model=cnn,runlocal"
  error = refused(
    options,
    f"--config.init_from={source}",
    *(f"--config.{change}" for change in changes),
  )
  assert message in error


def test_missing_or_unfinished_source_run_is_refused(source, tmp_path):
  assert "`config.init_from` is missing" in refused(RETRAIN)
  error = refused(RETRAIN, f"--config.init_from={tmp_path}")
  assert (
    f"{tmp_path} is not the workdir of a run: there is no config.json" in error
  )
  shutil.copy(source / "config.json", tmp_path)
  error = refused(RETRAIN, f"--config.init_from={tmp_path}")
  assert "is a run that is not finished" in error


def test_parameters_of_another_network_are_refused(source, tmp_path):
  """As if the model code had changed since the source run."""
  shutil.copytree(source, tmp_path / "source")
  path = tmp_path / "source" / "config.json"
  config = json.loads(path.read_text())
  config["model"]["channels"] = [4, 8]
  path.write_text(json.dumps(config))
  changes = (
    f"--config.init_from={tmp_path / 'source'}",
    "--config.model.channels=(4, 8)",
  )
  with pytest.raises(
    command_line.InputError, match="has another network"
  ) as caught:
    first_state(RETRAIN, *changes)
  assert "float32[3,3,4,6]" in str(caught.value)
  assert "float32[3,3,4,8]" in str(caught.value)


def test_damaged_weights_are_refused(source, tmp_path, capsys):
  shutil.copytree(source, tmp_path / "source")
  files = (tmp_path / "source" / "weights" / "0" / "state").rglob("*")
  largest = max(filter(pathlib.Path.is_file, files), key=_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 1
  largest.write_bytes(bytes(data))
  status = train.main(
    argv(
      RETRAIN,
      f"--config.init_from={tmp_path / 'source'}",
      f"--workdir={tmp_path / 'run'}",
    )
  )
  assert status == command_line.BAD_INPUT
  assert "weights/0 cannot be read" in capsys.readouterr().err


def _size(path):
  return path.stat().st_size


@pytest.mark.parametrize("steps", ["(5,)", "(33,)", "(-11,)"])
def test_invalid_keep_steps_are_refused(steps):
  error = refused(BASE, f"--config.keep_steps={steps}")
  assert "`config.keep_steps` must hold multiples of 11" in error


# Extended training


def test_extended_training_stretches_durations_but_not_intervals():
  options = "granet,runlocal"
  argv_ = [f"--config={CONFIG}:{options}"]
  plain = build.build(command.parse(argv_).config)
  changes = [
    "--config.epochs_multiplier=2.0",
    "--config.optimizer.warmup_epochs=0.5",
  ]
  longer = build.build(command.parse([*argv_, *changes]).config)
  assert (plain.steps.total, longer.steps.total) == (22, 44)
  short, long = plain.recipe.method, longer.recipe.method
  late = [long.regrow.when(jnp.int32(at)) for at in (30, 43)]
  assert late[1] > late[0]
  assert len(long.prune.schedule.sparsities) - 1 == 2 * (
    len(short.prune.schedule.sparsities) - 1
  )
  assert longer.config["epochs"] == plain.config["epochs"]
  assert longer.steps.eval_every == plain.steps.eval_every


@pytest.mark.parametrize(
  ("value", "rule"),
  [("0", "above 0"), ("-1", "above 0"), ("inf", "a finite float32")],
)
def test_invalid_multiplier_is_refused(value, rule):
  error = refused(BASE, f"--config.epochs_multiplier={value}")
  assert f"`config.epochs_multiplier` must be {rule}" in error
