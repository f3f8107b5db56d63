"""Checkpoints: round trips, retention, refusal, damage, crashes."""

import contextlib
import gc
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from helpers import tiers
from helpers.disks import small_disk
from jax.sharding import SingleDeviceSharding

import sparsejax
from sparsejax.training.checkpointing import (
  checkpoints,
  digests,
  errors,
  orbax_stderr,
  reading,
)

CONFIG = {"seed": 0, "model": {"name": "mlp", "widths": [8, 8]}, "epochs": 3}
SPARSE = ("dense/kernel",)


class SparseState(NamedTuple):
  step: jax.Array
  masks: Any
  key: jax.Array
  inner: Any


@struct.dataclass
class TrainState:
  step: jax.Array
  params: Any
  opt_state: Any


def train_state(seed: int = 0) -> TrainState:
  """Returns a state with every kind of node and dtype of a run."""
  key = jax.random.key(seed)
  kernel = jax.random.normal(key, (64, 32))
  params = {
    "dense": {"kernel": kernel, "bias": jnp.full((32,), -0.0)},
    "head": {"kernel": kernel[:8, :4].astype(jnp.bfloat16)},
  }
  inner = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.masked(optax.adam(1e-3), {"dense": True, "head": False}),
  )
  masks = {
    "dense": {"kernel": kernel > 0, "bias": optax.MaskedNode()},
    "head": {"kernel": optax.MaskedNode()},
  }
  opt_state = SparseState(
    step=jnp.int32(7),
    masks=masks,
    key=jax.random.key_data(key),
    inner=inner.init(params),
  )
  empty = (optax.EmptyState(), jnp.zeros((0, 3), jnp.int8))
  return TrainState(jnp.int32(7), params, (opt_state, empty, None))


def abstract(state):
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape,
      leaf.dtype,
      sharding=SingleDeviceSharding(jax.devices()[0]),
    ),
    state,
  )


def open_run(workdir, *, config=None, sparse_leaves=SPARSE, **kwargs):
  return checkpoints.open(
    workdir,
    fingerprint=json.dumps(config or CONFIG),
    sparse_leaves=sparse_leaves,
    **{"best_metric": "test_accuracy", **kwargs},
  )


def save_all(workdir, states, **metrics):
  with contextlib.closing(open_run(workdir)) as run:
    for step, state in states.items():
      run.save(
        step,
        state,
        metrics={n: values[step] for n, values in metrics.items()},
      )


def restore(workdir, like, **kwargs):
  with contextlib.closing(open_run(workdir, **kwargs)) as run:
    return run.restore_newest(abstract(like))


def steps_on_disk(workdir) -> list[int]:
  return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


def assert_same_bits(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
  for one, other in pairs:
    assert one.dtype == other.dtype
    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_every_leaf_and_node_is_restored_bit_for_bit(tmp_path):
  state = train_state()
  save_all(tmp_path, {7: state})
  restored = restore(tmp_path, state)
  assert_same_bits(restored.state, state)
  assert (restored.step, restored.skipped) == (7, ())


STATEFUL = {
  "optg": sparsejax.optg(
    0.8,
    steps_per_epoch=2,
    epochs=6,
    score_learning_rate=0.1,
    score_dtype="bfloat16",
  ),
  "str": sparsejax.soft_threshold(
    initial_threshold=-2.0, threshold_learning_rate=0.1
  ),
  "top_kast": sparsejax.top_kast(0.8, backward_sparsity=0.5, every_steps=2),
  "rigl_itop": sparsejax.rigl_itop(0.8, every_steps=2, total_steps=12),
}


@pytest.mark.parametrize("name", tiers.every(4, list(STATEFUL)))
def test_method_resumes_bit_for_bit(tmp_path, name):
  tx = sparsejax.sparsify(
    optax.adamw(1e-2), STATEFUL[name], key=jax.random.key(1)
  )
  params = train_state().params

  @jax.jit
  def step(state):
    grads = jax.tree.map(lambda x: jnp.sin(7 * x) + x, state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state)

  state = TrainState(jnp.int32(0), params, tx.init(params))
  for _ in range(5):
    state = step(state)
  save_all(tmp_path, {5: state})
  restored = restore(tmp_path, state).state
  for _ in range(7):
    state, restored = step(state), step(restored)
  assert_same_bits(restored, state)


def test_new_run_has_no_checkpoint(tmp_path):
  assert restore(tmp_path, train_state()) is None


def test_relative_workdir(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  save_all(pathlib.Path("run"), {1: train_state()})
  assert steps_on_disk(tmp_path / "run") == [1]


def test_state_may_be_donated_once_save_returns(tmp_path):
  step = jax.jit(lambda x: jax.tree.map(lambda a: a + 1, x), donate_argnums=0)
  state = {"w": jnp.arange(2_000_000, dtype=jnp.float32)}
  with contextlib.closing(open_run(tmp_path)) as run:
    for i in range(1, 6):
      run.save(i, state, metrics={})
      state = step(step(state))
  restored = restore(tmp_path, state)
  np.testing.assert_array_equal(
    restored.state["w"], np.arange(2_000_000, dtype=np.float32) + 8
  )


def test_newest_two_and_best_are_kept(tmp_path):
  states = {step: train_state(step) for step in range(1, 7)}
  accuracy = {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.9, 5: 0.2, 6: float("nan")}
  save_all(tmp_path, states, test_accuracy=accuracy)
  assert steps_on_disk(tmp_path) == [4, 5, 6]


def test_best_is_kept_after_a_restart(tmp_path):
  save_all(tmp_path, {1: train_state()}, test_accuracy={1: 0.9})
  later = {step: train_state() for step in (2, 3, 4)}
  save_all(tmp_path, later, test_accuracy=dict.fromkeys(later, 0.1))
  assert steps_on_disk(tmp_path) == [1, 3, 4]


def test_without_a_best_metric_the_newest_two_are_kept(tmp_path):
  with contextlib.closing(open_run(tmp_path, best_metric=None)) as run:
    for step in range(1, 5):
      run.save(step, train_state(), metrics={"test_accuracy": -float(step)})
  assert steps_on_disk(tmp_path) == [3, 4]


def test_newest_step_is_saved_once_and_older_steps_are_refused(tmp_path):
  first, other = train_state(1), train_state(2)
  with contextlib.closing(open_run(tmp_path)) as run:
    run.save(2, first, metrics={})
    run.save(2, other, metrics={})
    with pytest.raises(ValueError, match="above 2, the newest, got 1"):
      run.save(1, other, metrics={})
  assert_same_bits(restore(tmp_path, first).state, first)


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({**CONFIG, "epochs": 4}, "`epochs` is 3 there and 4 here"),
    (
      {**CONFIG, "model": {"name": "cnn", "widths": [8, 8]}},
      '`model.name` is "mlp" there and "cnn" here',
    ),
    ({**CONFIG, "new": 1}, "`new` is missing there and 1 here"),
    ({"seed": 0, "epochs": 3}, "`model.widths` is .* there and missing"),
  ],
)
def test_checkpoint_of_another_config_is_refused(tmp_path, config, message):
  state = train_state()
  save_all(tmp_path, {1: state})
  with pytest.raises(errors.CheckpointError, match=message):
    restore(tmp_path, state, config=config)
  assert steps_on_disk(tmp_path) == [1]


@pytest.mark.parametrize(
  ("sparse_leaves", "message"),
  [
    ((), "`dense/kernel` is sparse there and dense here"),
    ((*SPARSE, "head/kernel"), "`head/kernel` is dense there and sparse"),
  ],
)
def test_checkpoint_with_other_sparse_leaves_is_refused(
  tmp_path, sparse_leaves, message
):
  state = train_state()
  save_all(tmp_path, {1: state})
  with pytest.raises(errors.CheckpointError, match=message):
    restore(tmp_path, state, sparse_leaves=sparse_leaves)


@pytest.mark.parametrize(
  ("like", "message"),
  [
    ({"w": jnp.zeros((4,), jnp.int8)}, r"uint8\[4\].* and .*int8\[4\]"),
    ({"w": jnp.zeros((2, 2), jnp.uint8)}, r"uint8\[4\].* and .*\[2,2\]"),
    ({"v": jnp.zeros((4,), jnp.uint8)}, "`v` is missing there"),
  ],
)
def test_checkpoint_with_other_leaves_is_refused(tmp_path, like, message):
  save_all(tmp_path, {1: {"w": jnp.zeros((4,), jnp.uint8)}})
  with pytest.raises(errors.CheckpointError, match=message):
    restore(tmp_path, like)


def test_bad_arguments_are_refused(tmp_path):
  with pytest.raises(ValueError, match="`fingerprint` must be a JSON object"):
    checkpoints.open(tmp_path, fingerprint="[1]", sparse_leaves=())
  with contextlib.closing(open_run(tmp_path)) as run:
    with pytest.raises(ValueError, match="`w` has none"):
      run.restore_newest({"w": jax.ShapeDtypeStruct((2,), jnp.float32)})


def test_workdir_that_is_a_file_is_refused(tmp_path):
  (tmp_path / "run").write_text("")
  with pytest.raises(errors.CheckpointError, match="cannot be used"):
    open_run(tmp_path / "run")


def files_of(workdir, step) -> list[pathlib.Path]:
  folder = workdir / "checkpoints" / str(step)
  return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: pathlib.Path, at: float) -> None:
  data = bytearray(path.read_bytes())
  data[int(at * (len(data) - 1))] ^= 0x10
  path.write_bytes(bytes(data))


def damage(kind: str, path: pathlib.Path, at: float) -> None:
  match kind:
    case "flip":
      flip(path, at)
    case "empty":
      path.write_bytes(b"")
    case "gone":
      path.unlink()


@pytest.mark.parametrize(
  ("kind", "at", "every"),
  [
    ("flip", 0.3, 3),
    pytest.param("flip", 0.3, 1, marks=tiers.SLOW),
    pytest.param("flip", 0.8, 1, marks=tiers.SLOW),
    pytest.param("empty", 0, 1, marks=tiers.SLOW),
    pytest.param("gone", 0, 1, marks=tiers.SLOW),
  ],
)
def test_damage_to_any_file_is_detected(tmp_path, kind, at, every):
  states = {1: train_state(1), 2: train_state(2)}
  save_all(tmp_path / "whole", states)
  files = [p.relative_to(tmp_path) for p in files_of(tmp_path / "whole", 2)]
  fell_back = 0
  for i, file in enumerate(files[::every]):
    workdir = tmp_path / str(i)
    shutil.copytree(tmp_path / "whole", workdir)
    damage(kind, workdir / file.relative_to("whole"), at)
    restored = restore(workdir, states[1])
    assert_same_bits(restored.state, states[restored.step])
    fell_back += restored.step == 1
    assert len(restored.skipped) == (restored.step == 1)
  assert fell_back >= 3 / every


def test_flipped_bit_that_orbax_reads_is_detected(tmp_path):
  states = {
    i: {"w": jax.random.normal(jax.random.key(i), (256, 256))} for i in (1, 2)
  }
  save_all(tmp_path, states)
  largest = max(files_of(tmp_path, 2), key=lambda path: path.stat().st_size)
  assert largest.stat().st_size > 200_000
  flip(largest, 0.5)
  restored = restore(tmp_path, states[1])
  assert restored.step == 1
  assert restored.skipped == (
    "checkpoint 2 is damaged: the bytes of `w` have changed",
  )
  assert_same_bits(restored.state, states[1])
  # The step can be saved again, and the damaged checkpoint is not deleted.
  save_all(tmp_path, {2: states[2]})
  assert_same_bits(restore(tmp_path, states[2]).state, states[2])
  assert (tmp_path / "checkpoints_damaged" / "2").is_dir()


COPIES = {
  "copy": shutil.copytree,
  "link": lambda old, new: new.symlink_to(old),
  "relative link": lambda old, new: new.symlink_to(old.name),
  "renamed": lambda old, new: shutil.copytree(old, new) and shutil.rmtree(old),
}


@pytest.mark.parametrize("copy", tiers.every(2, list(COPIES)))
def test_checkpoint_under_the_number_of_another_is_damaged(tmp_path, copy):
  states = {step: train_state(step) for step in (1, 2)}
  save_all(tmp_path, states)
  folder = tmp_path / "checkpoints"
  COPIES[copy](folder / "2", folder / "3")
  intact = 2 if (folder / "2").exists() else 1
  restored = restore(tmp_path, states[1])
  assert restored.step == intact
  assert_same_bits(restored.state, states[intact])
  assert restored.skipped == (
    "checkpoint 3 is damaged: it is a copy of step 2",
  )
  # The step can be saved again.
  save_all(tmp_path, {3: states[2]})
  assert restore(tmp_path, states[1]).step == 3


def test_read_refuses_a_copy_of_another_step(tmp_path):
  save_all(tmp_path, {1: train_state()})
  shutil.copytree(tmp_path / "checkpoints" / "1", tmp_path / "checkpoints/5")
  assert reading.saved_steps(tmp_path) == [1, 5]
  with pytest.raises(errors.CheckpointError, match="is a copy of step 1"):
    reading.read(tmp_path, 5)


@pytest.mark.parametrize("name", ["007", "²", "٣", "-1", "1_0", "1.0", " 1"])
def test_folders_that_are_no_steps_are_ignored(tmp_path, name):
  save_all(tmp_path, {1: train_state()})
  (tmp_path / "checkpoints" / name).mkdir()
  assert reading.saved_steps(tmp_path) == [1]
  assert restore(tmp_path, train_state()).step == 1


def test_run_with_only_damaged_checkpoints_is_refused(tmp_path):
  save_all(tmp_path, {1: train_state(), 2: train_state()})
  for step in (1, 2):
    shutil.rmtree(tmp_path / "checkpoints" / str(step) / "state")
  with pytest.raises(errors.CheckpointError, match="No checkpoint in .*2"):
    restore(tmp_path, train_state())
  assert steps_on_disk(tmp_path) == [1, 2]


def test_digest_depends_on_every_bit_and_position():
  array = np.asarray(jax.random.normal(jax.random.key(0), (5, 7)))
  seen = {int(digests.digest(array))}
  for i in range(array.size):
    for bit in range(32):
      changed = array.copy()
      changed.reshape(-1).view(np.uint32)[i] ^= np.uint32(1) << np.uint32(bit)
      seen.add(int(digests.digest(changed)))
  assert len(seen) == 1 + array.size * 32
  assert int(digests.digest(array[::-1])) not in seen


@pytest.mark.parametrize(
  "dtype", ["bool", "int4", "uint8", "float8_e4m3fn", "bfloat16", "complex64"]
)
def test_digest_of_any_dtype(dtype):
  zeros = jnp.zeros((3, 1), dtype)
  ones = jnp.ones((3, 1), dtype)
  assert digests.digest(zeros) != digests.digest(ones)
  assert digests.digest(zeros[:0]) == 0


def child(code: str, *args, devices: int = 1, **kwargs) -> subprocess.Popen:
  """Starts a Python process with the helpers of this module imported."""
  root = pathlib.Path(__file__).parent
  setup = f"import sys; sys.path[:0] = {[str(root), str(root.parent)]}\n"
  setup += "from test_checkpoints import *\n"
  return subprocess.Popen(
    [sys.executable, "-c", setup + code, *map(str, args)],
    env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
    text=True,
    **kwargs,
  )


SHARDED = """
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
P, N = jax.sharding.PartitionSpec, jax.sharding.NamedSharding
def place(leaf):
  spec = P("data") if leaf.ndim == 2 and leaf.shape[0] % 4 == 0 else P()
  return jax.device_put(leaf, N(mesh, spec))
state = jax.tree.map(place, train_state())
assert digests.tree_digests(state) == digests.tree_digests(train_state())
like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state,
)
one, four = map(pathlib.Path, sys.argv[1:])
with contextlib.closing(open_run(one)) as run:
  restored = run.restore_newest(like)
assert restored.state.params["dense"]["kernel"].sharding.spec == P("data")
assert_same_bits(restored.state, state)
save_all(four, {5: restored.state})
"""


def test_one_and_four_devices_restore_each_others_checkpoints(tmp_path):
  state = train_state()
  save_all(tmp_path / "one", {3: state})
  process = child(SHARDED, tmp_path / "one", tmp_path / "four", devices=4)
  assert process.wait(timeout=120) == 0
  restored = restore(tmp_path / "four", state)
  assert restored.step == 5
  assert_same_bits(restored.state, state)


SAVE_FOREVER = """
state = {"w": jax.random.normal(jax.random.key(0), (4_000_000,))}
with contextlib.closing(open_run(pathlib.Path(sys.argv[1]))) as run:
  for step in range(1, 10_000):
    run.save(step, {"w": state["w"] + step}, metrics={})
    print(step, flush=True)
"""


def kill_during_a_save(workdir: pathlib.Path) -> bool:
  """Returns whether the kill interrupted a save."""
  process = child(SAVE_FOREVER, workdir, stdout=subprocess.PIPE)
  for line in process.stdout:
    if int(line) >= 3:
      break
  # Saves now follow each other without a pause; wait for the next one.
  deadline = time.monotonic() + 60
  while not list(workdir.glob("checkpoints/*tmp*")):
    assert time.monotonic() < deadline
  process.kill()
  process.wait()
  process.stdout.close()
  return bool(list(workdir.glob("checkpoints/*tmp*")))


def test_kill_during_a_save_leaves_the_previous_checkpoint(tmp_path):
  workdirs = (tmp_path / str(attempt) for attempt in range(5))
  workdir = next(path for path in workdirs if kill_during_a_save(path))
  want = jax.random.normal(jax.random.key(0), (4_000_000,))
  with contextlib.closing(open_run(workdir)) as run:
    restored = run.restore_newest(abstract({"w": want}))
    assert not list(workdir.glob("checkpoints/*tmp*"))
    np.testing.assert_array_equal(restored.state["w"], want + restored.step)
    run.save(restored.step + 1, restored.state, metrics={})
  assert restored.skipped == ()
  assert steps_on_disk(workdir)[-1] == restored.step + 1


def test_full_disk_is_reported_and_loses_nothing(tmp_path):
  disk = tmp_path / "disk"
  first = {"w": jax.random.normal(jax.random.key(0), (100_000,))}
  large = {"w": jax.random.normal(jax.random.key(1), (100_000,))}
  with small_disk(disk, 1_500_000), contextlib.closing(open_run(disk)) as run:
    run.save(1, first, metrics={})
    (disk / "ballast").write_bytes(bytes(900_000))
    with pytest.raises(errors.CheckpointError) as caught:
      run.save(2, large, metrics={})
      run.save(3, large, metrics={})
    message = str(caught.value)
    assert "Step 2 could not be saved" in message
    assert str(disk) in message
    assert "disk is full" in message
    assert "newest intact checkpoint is step 1" in message
    assert_same_bits(run.restore_newest(abstract(first)).state, first)
    # The state is intact, and with space again the same run saves it.
    (disk / "ballast").unlink()
    run.save(3, large, metrics={})
    restored = run.restore_newest(abstract(large))
    assert restored.step == 3
    assert_same_bits(restored.state, large)
    assert steps_on_disk(disk) == [1, 3]


@pytest.mark.parametrize("inodes", tiers.every(21, range(3, 24)))
def test_no_thread_waits_for_a_save_that_a_full_disk_stopped(tmp_path, inodes):
  """One that did would keep the process from ending for 20 minutes."""
  state = train_state()
  saved = []
  with small_disk(tmp_path / "disk", 2_000_000, inodes=inodes):
    with (
      contextlib.suppress(errors.CheckpointError),
      contextlib.closing(open_run(tmp_path / "disk" / "run")) as run,
    ):
      for step in (1, 2, 3):
        run.save(step, state, metrics={})
        saved.append(step)
    gc.collect()  # Ends the idle threads of pools.
    for thread in threading.enumerate():
      if thread is not threading.main_thread() and not thread.daemon:
        thread.join(timeout=10)
        assert not thread.is_alive(), thread
    if saved[2:]:
      assert_same_bits(restore(tmp_path / "disk" / "run", state).state, state)


TOO_LARGE = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
run = open_run(pathlib.Path(sys.argv[1]))
small = {"w": jnp.ones((100,))}
run.save(1, small, metrics={})
large = {"w": jax.random.normal(jax.random.key(1), (500_000,))}
try:
  run.save(2, large, metrics={})
  run.close()
except errors.CheckpointError as error:
  assert "disk is full or a quota" in str(error), error
  sys.exit(42)
"""


def test_quota_is_reported_like_a_full_disk(tmp_path):
  process = child(TOO_LARGE, tmp_path)
  assert process.wait(timeout=120) == 42
  assert restore(tmp_path, {"w": jnp.ones((100,))}).step == 1


def test_orbax_is_silenced_in_nested_contexts():
  record = logging.LogRecord(
    "absl", logging.ERROR, "/x/orbax/y.py", 1, "again", None, None
  )
  absl = logging.getLogger("absl")
  with orbax_stderr.silenced():
    with orbax_stderr.silenced():
      assert not absl.filter(record)
    assert not absl.filter(record)
  assert absl.filter(record)
