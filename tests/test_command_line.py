"""What users see of an error, and what they do not."""

import jax
import pytest

from sparsejax import command_line


def run(error):
  def command(argv):
    raise error

  return command_line.run(command, [], name="x", doc=None, hint="Try again.")


@pytest.mark.parametrize(
  "error",
  [
    MemoryError(),
    MemoryError("Unable to allocate 1.73 PiB"),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 9 bytes."),
    jax.errors.JaxRuntimeError("INTERNAL: Out of memory allocating\n9 bytes."),
  ],
)
def test_too_little_memory_is_one_line(capsys, error):
  assert run(error) == command_line.BAD_INPUT
  output = capsys.readouterr().err
  assert output.startswith("error: Out of memory: ")
  assert output.endswith("Use a smaller model, batch or data set. Try again.\n")
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
