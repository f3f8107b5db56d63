"""Check the processes of a run before it starts.

  python -m sparsejax.launch check --config=NAME[:OPTIONS] [--workdir=DIR] ...

Takes all arguments of `python -m sparsejax.train`, and is started like it, in
every process. Process 0 prints a table of what each process sees: host,
devices, versions, commit, config, whether it shares the workdir, and its clock.
Nothing is compiled. With the files in `launch/`: MODULE=sparsejax.launch in the
environment, and `check` before the arguments.

Exit status: 0 all processes agree, 2 bad input, or they do not, 75 one did not
come.
"""

import sys
from collections.abc import Sequence

from sparsejax import command_line


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line.

  Args:
    argv: arguments without the program's name; `sys.argv` by default.

  Returns:
    The exit status.
  """
  return command_line.run(_launch, argv, name="sparsejax.launch", doc=__doc__)


def _launch(argv: list[str]) -> int:
  if argv[:1] != ["check"]:
    raise command_line.unknown("The command", (argv or [""])[0], ["check"])
  from sparsejax.launch import check  # Needs the extra `train`.

  return check.check(argv[1:])


if __name__ == "__main__":
  sys.exit(main())
