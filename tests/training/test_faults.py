"""Fault tolerance: kills, SIGTERM, full disks, damaged files, bad input.

A run with all faults belongs to the slow tier, `-m faults`, and
`SPARSEJAX_KILLS=10` kills it ten times instead of twice.
`test_lost_processes.py` has the faults of several processes.
"""

import os
import random
import shutil
import signal
import time

import pytest
from helpers import trainer
from helpers.disks import fill, small_disk

from sparsejax import train

DIGITS = "--config=configs/digits.py"
KILLS = int(os.environ.get("SPARSEJAX_KILLS", "2"))
# Short dispatches and many saves, so that random moments hit all of them.
MANY_SAVES = (
  "--config.epochs=40",
  "--config.dispatch_steps=20",
  "--config.checkpoint_every_epochs=1",
  "--config.log_every_steps=5",
)
STEPS = 40 * 22


# The workdir of another run, which the tests of the ordinary tier read.
SHORT = ("--config.epochs=1",)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """The workdir of a short run."""
  workdir = tmp_path_factory.mktemp("runs") / "short"
  argv = [f"{DIGITS}:set,sparsity=0.9", *SHORT, "--distributed=False"]
  with pytest.MonkeyPatch.context() as patched:
    patched.chdir(trainer.ROOT)
    assert train.main([*argv, f"--workdir={workdir}"]) == 0
  return workdir


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  """The workdir of a run without faults."""
  workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
  status, out, err = trainer.run(workdir, *MANY_SAVES)
  assert status == 0, out + err
  assert trainer.last_step(workdir) == STEPS
  return workdir


@pytest.mark.faults
def test_run_with_all_faults_equals_an_uninterrupted_one(
  tmp_path, uninterrupted
):
  workdir = tmp_path / "run"
  kill_while_it_starts(workdir)
  kill_at_random_moments(workdir)
  break_the_last_line(workdir)
  kill_during_a_save(workdir)
  terminate(workdir)
  newest, older = damage_the_newest_checkpoint(workdir)
  # Without the cache: newly compiled programs continue identically.
  status, out, err = trainer.run(
    workdir, *MANY_SAVES, env={"JAX_ENABLE_COMPILATION_CACHE": "false"}
  )
  assert status == 0, out + err
  assert f"checkpoint {newest} is damaged" in out
  assert f"Resuming from step {older}" in out
  trainer.assert_same_run(workdir, uninterrupted)


def kill_while_it_starts(workdir) -> None:
  process = trainer.start(workdir, *MANY_SAVES)
  trainer.wait_for(process, (workdir / "config.json").exists)
  process.kill()
  trainer.finish(process)
  assert trainer.saved_steps(workdir) == []


def kill_at_random_moments(workdir) -> None:
  """Kills at random steps in the first two thirds, after random delays."""
  moments = random.Random(7)
  for left in range(KILLS, 0, -1):
    saved = max(trainer.saved_steps(workdir), default=0)
    reach = max((2 * STEPS // 3 - saved) // left, 2)
    step = saved + moments.randrange(1, reach)
    process = trainer.start(workdir, *MANY_SAVES)
    trainer.wait_for(process, lambda at=step: trainer.last_step(workdir) >= at)
    time.sleep(moments.uniform(0, 0.03))
    process.kill()
    trainer.finish(process)


def break_the_last_line(workdir) -> None:
  """Leaves a partial line, as a power loss during a write does."""
  with open(workdir / "metrics.jsonl", "a") as file:
    file.write('{"step": 99999, "loss": 0.1')


def kill_during_a_save(workdir) -> None:
  folder = workdir / "checkpoints"
  older = trainer.saved_steps(workdir)

  def is_saving() -> bool:
    return any("orbax-checkpoint-tmp" in p.name for p in folder.iterdir())

  for leftover in folder.glob("*orbax-checkpoint-tmp*"):
    shutil.rmtree(leftover)  # From an earlier kill.
  process = trainer.start(workdir, *MANY_SAVES)
  trainer.wait_for(process, is_saving)
  process.kill()
  trainer.finish(process)
  assert set(trainer.saved_steps(workdir)) >= set(older[-1:])


def terminate(workdir) -> None:
  process = trainer.start(workdir, *MANY_SAVES)
  trainer.wait_for(
    process, lambda: trainer.last_step(workdir) >= 3 * STEPS // 4
  )
  process.send_signal(signal.SIGTERM)
  status, out, err = trainer.finish(process)
  assert status == 143, out + err
  newest = trainer.saved_steps(workdir)[-1]
  assert f"after saving step {newest}" in err
  assert newest < STEPS
  assert not (workdir / "summary.json").exists()


def damage_the_newest_checkpoint(workdir) -> tuple[int, int]:
  """Flips one bit of its arrays; returns its step and the previous one."""
  older, newest = trainer.saved_steps(workdir)[-2:]
  files = (workdir / "checkpoints" / str(newest)).rglob("*")
  largest = max(files, key=lambda path: path.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 1
  largest.write_bytes(bytes(data))
  return newest, older


@pytest.mark.faults
def test_full_disk_stops_a_run_that_resumes_once_there_is_space(
  tmp_path, uninterrupted
):
  disk = tmp_path / "disk"
  workdir = disk / "run"
  with small_disk(disk, 16_000_000):
    process = trainer.start(workdir, *MANY_SAVES)
    trainer.wait_for(process, lambda: len(trainer.saved_steps(workdir)) >= 2)
    fill(disk / "ballast")
    status, out, err = trainer.finish(process)
    assert status == 2, out + err
    assert "Traceback" not in err
    assert "disk is full" in err or "No space left" in err
    newest = trainer.saved_steps(workdir)[-1]
    (disk / "ballast").unlink()
    status, out, err = trainer.run(workdir, *MANY_SAVES)
    assert status == 0, out + err
    assert f"Resuming from step {newest}" in out
    assert "damaged" not in out
    trainer.assert_same_run(workdir, uninterrupted)


@pytest.mark.faults
def test_second_run_on_a_workdir_is_refused_and_the_first_is_not_disturbed(
  tmp_path, uninterrupted
):
  workdir = tmp_path / "run"
  first = trainer.start(workdir, *MANY_SAVES)
  trainer.wait_for(first, lambda: trainer.saved_steps(workdir))
  # Stopped, so that it is not done before the second one starts.
  first.send_signal(signal.SIGSTOP)
  status, _, err = trainer.run(workdir, *MANY_SAVES)
  first.send_signal(signal.SIGCONT)
  assert status == 2
  assert f"{workdir} is in use by process {first.pid} on" in err
  assert err.startswith("error: ") and err.count("\n") == 1
  status, out, err = trainer.finish(first)
  assert status == 0, out + err
  trainer.assert_same_run(workdir, uninterrupted)


def test_non_finite_loss_stops_the_run_and_keeps_its_checkpoint(
  tmp_path, capsys, here
):
  # Only weight decay moves the weights: by a factor of -1.3 per step.
  status, out, err = main(
    capsys,
    f"{DIGITS}:set,sparsity=0.9",
    *MANY_SAVES,
    "--config.optimizer.learning_rate=1e-9",
    "--config.optimizer.weight_decay=1.5e9",
    f"--workdir={tmp_path}",
  )
  assert status == 3, out + err
  newest = trainer.saved_steps(tmp_path)[-1]
  assert f"stopped after steps {newest + 1} to {newest + 20}" in err
  assert f"Last good checkpoint: step {newest}" in err
  assert "Traceback" not in err
  assert not (tmp_path / "summary.json").exists()
  last = trainer.metrics(tmp_path)[-1]
  assert not last["finite"] and newest < last["step"] <= newest + 20


def main(capsys, *args) -> tuple[int, str, str]:
  """Runs a command line in this process."""
  status = train.main([*args, "--distributed=False"])
  out, err = capsys.readouterr()
  return status, out, err


@pytest.fixture
def here(monkeypatch):
  monkeypatch.chdir(trainer.ROOT)


@pytest.mark.parametrize(
  ("args", "texts"),
  [
    ([f"{DIGITS}:granett"], ["'granett'", "'granet'", "rigl_itop"]),
    ([f"{DIGITS}:runlocall"], ["'runlocall'", "'runlocal'"]),
    ([f"{DIGITS}:set,sparsty=0.9"], ["'sparsty'", "'sparsity'"]),
    ([f"{DIGITS}:set,model=mpl"], ["'mpl'", "'mlp'", "cnn"]),
    ([f"{DIGITS}:set,sparsity=high"], ["sparsity=high", "float"]),
    (
      [f"{DIGITS}:granet,sparsity=90"],
      ["`sparsity` must be in [0, 1), got 90", "0.9"],
    ),
    (
      [DIGITS, "--config.optimzer.learning_rate=1"],
      ["optimzer", "'--config.optimizer.learning_rate'"],
    ),
    ([DIGITS, "config.seed=1"], ["'config.seed=1'", "--config.seed=1"]),
    ([DIGITS, "--config.seed=abc"], ["`config.seed`", "abc"]),
    ([DIGITS, "--config.epochs=-1"], ["`config.epochs`", "-1"]),
    ([DIGITS, "--config.batch_size=0"], ["`config.batch_size`", "got 0"]),
    ([DIGITS, "--config.data.name=digit"], ["'digit'", "'digits'"]),
    ([DIGITS, "--config.model.name=mpl"], ["'mpl'", "'mlp'"]),
    ([DIGITS, "--config.method.name=rigel"], ["'rigel'", "'rigl'"]),
    ([DIGITS, "--config.optimizer.name=adm"], ["'adm'", "'adamw'"]),
    (
      [DIGITS, "--config.optimizer.learning_rate=nan"],
      ["`config.optimizer.learning_rate`", "nan"],
    ),
    (
      [DIGITS, "--config.select=('Dense_9/*',)"],
      ["'Dense_9/*'", "matches no leaf", "Dense_1/kernel"],
    ),
    (
      [
        DIGITS,
        "--config.method.end_epochs=1000",
        "--config.forbid_warnings=True",
      ],
      ["`config.forbid_warnings`", "after the last step"],
    ),
    (["--config=configs/digit.py"], ["'configs/digit.py'", "digits.py"]),
    ([], ["--config=NAME"]),
  ],
)
def test_bad_input_is_reported_in_one_line(args, texts, tmp_path, capsys, here):
  workdir = tmp_path / "run"
  status, _, err = main(capsys, *args, f"--workdir={workdir}")
  assert status == 2
  assert err.startswith("error: ") and len(err.splitlines()) == 1
  assert [text for text in texts if text not in err] == [], err
  assert not workdir.exists()


def test_bad_input_exits_with_2_and_without_a_traceback(tmp_path):
  status, out, err = trainer.run(tmp_path, options="granet,sparsity=90")
  assert (status, out) == (2, "")
  assert err.startswith("error: ") and len(err.splitlines()) == 1


def test_workdir_that_is_a_file_is_refused(tmp_path, capsys, here):
  (tmp_path / "run").write_text("")
  status, _, err = main(capsys, DIGITS, f"--workdir={tmp_path / 'run'}")
  assert status == 2
  assert f"`--workdir` {tmp_path / 'run'}" in err


def test_workdir_of_another_config_is_refused(done, capsys, here):
  before = (done / "summary.json").read_bytes()
  status, _, err = main(
    capsys,
    f"{DIGITS}:set,sparsity=0.8",
    *SHORT,
    "--config.seed=5",
    f"--workdir={done}",
  )
  assert status == 2
  assert "`seed` is 0 there and 5 here" in err
  assert "`method.sparsity` is 0.9 there and 0.8 here" in err
  assert (done / "summary.json").read_bytes() == before


def test_checkpoints_of_another_config_are_refused(
  done, tmp_path, capsys, here
):
  shutil.copytree(done / "checkpoints", tmp_path / "checkpoints")
  status, _, err = main(
    capsys,
    f"{DIGITS}:set,sparsity=0.9,model=cnn",
    *SHORT,
    f"--workdir={tmp_path}",
  )
  assert status == 2
  assert '`model.name` is "mlp" there and "cnn" here' in err


def test_finished_run_is_reported_again_and_not_changed(done, capsys, here):
  status, out, _ = main(
    capsys,
    f"{DIGITS}:set,sparsity=0.9",
    *SHORT,
    f"--workdir={done}",
  )
  assert status == 0
  assert "finished; nothing was changed" in " ".join(out.split())
