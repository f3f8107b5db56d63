"""What all commands do with errors and Ctrl-C."""

import os
import pathlib
import signal
import subprocess
import sys

import jax
import pytest

import sparsejax
from sparsejax import __main__ as main_module, command_line


def run(error):
  def command(argv):
    raise error

  return command_line.run(command, [], name="x", doc=None, hint="Try again.")


LEAVES_SLOWLY = """
import sys, time
from sparsejax import command_line

def command(argv):
  try:
    print("running", flush=True)
    time.sleep(600)
  finally:
    print("leaving", flush=True)
    {leave}

sys.exit(command_line.run(command, name="x", doc="", hint="Run it again."))
"""


@pytest.mark.parametrize(
  "leave",
  [
    "time.sleep(600)",
    # The interpreter waits for this thread.
    "import threading; threading.Thread(target=time.sleep, args=[600]).start()",
  ],
)
def test_second_interrupt_ends_the_process_without_a_traceback(leave):
  process = subprocess.Popen(
    [sys.executable, "-c", LEAVES_SLOWLY.format(leave=leave)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout is not None and process.stderr is not None
  with process:
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "leaving\n"
    if "thread" in leave:
      assert process.stderr.readline() == "Interrupted. Run it again.\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
  assert process.returncode == command_line.INTERRUPTED
  assert err == "Interrupted. Run it again.\n"


def test_interrupts_are_as_before_afterwards(monkeypatch):
  monkeypatch.setattr(sys, "argv", ["x"])
  before = signal.getsignal(signal.SIGINT)
  for argv in (None, []):
    assert command_line.run(lambda argv: 7, argv, name="x", doc="") == 7
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
  "error",
  [
    MemoryError(),
    MemoryError("Unable to allocate 1.73 PiB"),
    MemoryError("std::bad_alloc"),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 9 bytes."),
    jax.errors.JaxRuntimeError("INTERNAL: Out of memory allocating\n9 bytes."),
  ],
)
def test_too_little_memory_is_one_line(capsys, error):
  assert run(error) == command_line.BAD_INPUT
  output = capsys.readouterr().err
  assert output.startswith("error: Out of memory: ")
  assert output.endswith(" raise the limit of the process. Try again.\n")
  assert output.count("\n") == 1 and ".." not in output


def test_a_bug_is_raised():
  with pytest.raises(KeyError):
    run(KeyError("x"))


@pytest.mark.parametrize(
  ("argv", "joined"),
  [
    (["--a", "1"], ["--a=1"]),
    (["--a", "-1"], ["--a=-1"]),
    (["--a", ""], ["--a="]),
    (["-a.b", "(1, 2)"], ["-a.b=(1, 2)"]),
    (["--a", "--b", "1", "2"], ["--a", "--b=1", "2"]),
    (["1", "--a=1", "2"], ["1", "--a=1", "2"]),
    ([], []),
  ],
)
def test_values_join_their_flags(argv, joined):
  assert command_line.join_values(argv) == joined


@pytest.mark.parametrize("url", ["gs://b/run", "s3://b", "http://host/a b"])
def test_a_url_is_no_path(url, capsys):
  def command(argv):
    parser = command_line.Parser()
    parser.add_argument("--workdir", type=command_line.path)
    parser.parse_args(argv)

  argv = [f"--workdir={url}"]
  assert command_line.run(command, argv, name="x", doc=None) == 2
  message = capsys.readouterr().err
  assert message.count("\n") == 1 and f"got the URL {url}. Mount" in message


@pytest.mark.parametrize("text", ["gs:/b", "a:b//c", "./x://y", "//host/x"])
def test_a_path_may_look_much_like_a_url(text):
  assert command_line.path(text) == pathlib.Path(text)


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_missing_device_is_one_line(platform):
  code = (
    "import jax, sys; from sparsejax import command_line;"
    "sys.exit(command_line.run(lambda argv: jax.device_count(), [],"
    " name='x', doc=None))"
  )
  ended = subprocess.run(
    [sys.executable, "-c", code],
    env=os.environ | {"JAX_PLATFORMS": platform},
    capture_output=True,
    text=True,
    check=False,
  )
  assert ended.returncode == command_line.BAD_INPUT
  start = f"error: JAX has no device for JAX_PLATFORMS='{platform}': "
  lines = [x for x in ended.stderr.splitlines() if "error" in x]
  assert len(lines) == 1 and lines[0].startswith(start)
  assert "Traceback" not in ended.stderr


def test_every_command_explains_itself(capsys):
  found = main_module.commands()
  assert {"train", "compare", "reproduce", "data"} <= found.keys()
  assert main_module.main([]) == 0
  listing = capsys.readouterr().out
  for name in found:
    assert f"\n  {name} " in listing
    assert main_module.main([name, "--help"]) == 0
    assert "Exit status: " in capsys.readouterr().out


def test_a_command_that_is_missing_is_not_listed(monkeypatch, capsys):
  missing = {"old": ("study.nothing", "-"), "older": ("nothing.more", "-")}
  monkeypatch.setattr(main_module, "_COMMANDS", main_module._COMMANDS | missing)
  assert not missing.keys() & main_module.commands().keys()
  assert main_module.main(["older"]) == 2
  assert "The command got 'older'." in capsys.readouterr().err


def test_commands_pass_arguments_and_status_on(capsys):
  assert main_module.main(["--version"]) == 0
  assert capsys.readouterr().out == f"{sparsejax.__version__}\n"
  assert main_module.main(["train", "--config=digtis"]) == 2
  assert "Did you mean 'digits'?" in capsys.readouterr().err


def test_progress_says_how_long_the_rest_takes(monkeypatch, capsys):
  seconds = iter([0.0, 1.0, 40.0, 41.0])
  monkeypatch.setattr(command_line.time, "monotonic", lambda: next(seconds))
  progress = command_line.Progress("Converting", 4)
  for done in (1, 2, 3):
    progress.show(done)
  assert capsys.readouterr().err == "Converting: 50%, about 40 s left\n"
