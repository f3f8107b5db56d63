"""Bad input is one line that names the argument, the value and the rule."""

import pathlib

import pytest

from sparsejax import command_line, train

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"


def refused(capsys, tmp_path, options, *arguments):
  """Returns the error message of a command line that is refused."""
  workdir = tmp_path / "run"
  status = train.main(
    [f"--config={CONFIG}{options}", f"--workdir={workdir}", *arguments]
  )
  captured = capsys.readouterr()
  assert status == command_line.BAD_INPUT
  assert captured.err.startswith("error: ")
  assert captured.err.count("\n") == 1
  assert "Traceback" not in captured.err
  assert captured.out == ""
  assert not workdir.exists()
  return captured.err


def cluster(address, processes, index):
  """Returns the flags that join a cluster."""
  return [
    f"--coordinator_address={address}",
    f"--num_processes={processes}",
    f"--process_id={index}",
  ]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (":granett", "Did you mean 'granet'?"),
    (":granet,sparsity=90", "must be in [0, 1), got 90.0. Give a fraction"),
    (":granet,sparsity=high", "'sparsity=high' needs a value of type float"),
    (":dense,sparsity=0.5", "An argument of method 'dense' got 'sparsity'"),
    (":rigl,model=cn", "`model` got 'cn'. Did you mean 'cnn'?"),
  ],
)
def test_bad_options(capsys, tmp_path, options, message):
  assert message in refused(capsys, tmp_path, options)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--config.epoch=3"], "Did you mean '--config.epochs'?"),
    (["--config.method.scop=erk"], "'--config.method.scope'?"),
    (["--config.method=rigl"], "'--config.method.name'?"),
    (["--workdr=x"], "Did you mean '--workdir'?"),
    (["config.seed=1"], "Did you mean --config.seed=1?"),
    (["--config.seed=1.5"], "`config.seed` must be of type int, got '1.5'"),
    (["--config.optimizer.learning_rate=fast"], "type float, got 'fast'"),
    (["--config.forbid_warnings=3"], "must be of type bool, got '3'"),
    (["--config.seed"], "Missing value for flag --config.seed"),
    (["--config.seed", "--config.epochs=1"], "value for flag --config.seed"),
    (["--config.method.name"], "value for flag --config.method.name"),
    (["--workdir"], "Missing value for flag --workdir. Write --workdir=VALUE"),
    (["--workdir", "--config.seed=1"], "Missing value for flag --workdir"),
    (["--workdir="], "`--workdir` must not be empty"),
    (["--workdir", ""], "`--workdir` must not be empty"),
    (["--workdir=gs://b/run"], "must be on a mounted file system, got the URL"),
    (["--workdir=s3://b/run"], "got the URL s3://b/run. Mount what it names"),
    (
      ["--config.method.name=retrain", "--config.init_from=gs://b"],
      "URL gs://b",
    ),
    (["--distributed=maybe"], "--distributed=maybe"),
    (["--config.seed", "-1"], "`config.seed` must be at least 0, got -1"),
    (["--config.model.name=mpl"], "`model` got 'mpl'. Did you mean 'mlp'?"),
    (["--config.data.name=mnist"], "`data` got 'mnist'. Valid: "),
    (["--config.method.name=granit"], "Did you mean 'granet'?"),
    (["--config.method.scope=glob"], "Did you mean 'global'?"),
    (["--config.seed=-1"], "`config.seed` must be at least 0, got -1"),
    (["--config.epochs=0"], "`config.epochs` must be above 0"),
    (["--config.epochs=inf"], "`config.epochs` must be a finite float32"),
    (["--config.batch_size=2000"], "must be at most 1438"),
    (["--config.batch_size=none"], "`config.batch_size` is missing"),
    (["--config.optimizer.learning_rate=-1"], "`learning_rate` must be in"),
    (["--config.optimizer.warmup_epochs=999"], "`warmup_steps` must be in"),
    (["--config.method.every_steps=0"], "`every_steps` must be"),
    (["--config.method.end_epochs=-1"], "`config.method.end_epochs` must"),
    (["--config.data.max_shift=9"], "`max_shift` must be in [0, 7]"),
    (["--config.model.hidden=0"], "`hidden` must be positive widths"),
    (["--config.select=Conv*"], "Dense_0/kernel"),
    (["--config.dense=Conv*"], "Dense_0/kernel"),
    (
      ["--config.method.end_epochs=300", "--config.forbid_warnings"],
      "`config.forbid_warnings` is set: `config.method.end_step` is step",
    ),
    (["--process_id=0"], "go together, got (None, None, 0)"),
    (["--num_processes=-1"], "go together, got (None, -1, None)"),
    (["--nodistributed", "--process_id=0"], "so --process_id has no effect"),
    (
      ["--distributed=False", "--num_processes=-1"],
      "so --num_processes has no effect",
    ),
    (
      ["--distributed=False", "--coordinator_address=garbage"],
      "so --coordinator_address has no effect",
    ),
    (cluster("garbage", 2, 0), "must be HOST:PORT of process 0, such as"),
    (cluster("", 2, 0), "`--coordinator_address` must be HOST:PORT"),
    (cluster("localhost:99999", 2, 1), "got 'localhost:99999'"),
    (cluster("localhost:0x1", 2, 1), "got 'localhost:0x1'"),
    (cluster("localhost:1234", -1, 0), "must be at least 1, got -1"),
    (cluster("localhost:1234", 2, 2), "`--process_id` must be in [0, 2)"),
  ],
)
def test_bad_arguments(capsys, tmp_path, arguments, message):
  assert message in refused(capsys, tmp_path, "", *arguments)


@pytest.mark.parametrize("name", ["cifar", "imagenet"])
@pytest.mark.parametrize("option", ["epochs=0", "batch_size=0"])
def test_an_option_of_0_is_not_the_default(capsys, name, option):
  argv = [f"--config={name}:runlocal,{option}"]
  assert train.main(argv) == command_line.BAD_INPUT
  assert f"`config.{option[:-2]}` must be" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    ([], "must be given once, got 0 times"),
    ([f"--config={CONFIG}", f"--config={CONFIG}"], "once, got 2 times"),
    (["--config=nowhere/digits.py"], "`--config` got 'nowhere/digits.py'"),
  ],
)
def test_bad_config_files(capsys, argv, message):
  assert train.main(argv) == command_line.BAD_INPUT
  assert message in capsys.readouterr().err


def test_workdir_that_cannot_be_created_is_refused(capsys, tmp_path):
  (tmp_path / "file").touch()
  argv = [f"--config={CONFIG}", f"--workdir={tmp_path}/file/run"]
  assert train.main(argv) == command_line.BAD_INPUT
  assert "Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["loop", "loop/run"])
def test_workdir_that_is_a_link_to_itself_is_refused(capsys, tmp_path, name):
  (tmp_path / "loop").symlink_to("loop")
  argv = [f"--config={CONFIG}", f"--workdir={tmp_path / name}"]
  assert train.main(argv) == command_line.BAD_INPUT
  err = capsys.readouterr().err
  assert err.startswith("error: ") and err.count("\n") == 1
  assert f"{tmp_path / name}" in err and "link" in err


def test_help_is_not_an_error(capsys):
  assert train.main(["--help"]) == 0
  assert "--workdir" in capsys.readouterr().out
