"""Train a sparse network: `python -m sparsejax.train --config=NAME[:OPTIONS]`.

  --config=NAME[:METHOD[,word][,key=value...]]  what to train (required): a
                          config of the package, such as digits, or a .py file
  --config.KEY=VALUE      override a value of the config
  --print_config          print all of its values so, and train nothing
  --workdir=DIR           folder of the run; the same command resumes the run
                          that is in it (default: a new folder under runs/)

Several processes that train together:

  --[no]distributed       join the cluster that JAX detects (default: true)
  --coordinator_address=HOST:PORT, --num_processes=N, --process_id=I
                          join these processes where JAX detects no cluster
  --join_timeout_seconds=S
                          how long to wait for the others at the start (300)
  --heartbeat_timeout_seconds=S
                          how long after the loss of a process the others end
                          (100)
  --hang_timeout_seconds=S
                          a process that makes no progress for so long prints
                          its stacks and ends; above the time that the longest
                          dispatch, evaluation, save or compilation takes (3600)

All of them need the same code, versions, command line and environment, and end
together: with status 2 if one of them cannot use its input, with 75 if one is
lost, stopped or stuck.

Exit status: 0 done, 2 bad input, 3 a value was not finite, 75 another process
was lost: start all again, 130 interrupted, 143 stopped by SIGTERM, or SIGHUP of
a closed terminal, after saving. Before the first step, and at a second signal,
the process ends without saving. A run that ends in another way, by `kill -9` or
because a library aborts where the address space is limited (`ulimit -v`,
std::bad_alloc), loses the steps since the last checkpoint; the same command
resumes.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import jax

from sparsejax import command_line
from sparsejax.training import preemption


def main(
  argv: Sequence[str] | None = None,
  *,
  stop: preemption.StopRequest | None = None,
) -> int:
  """Run a command line.

  Args:
    argv: arguments without the program's name; `sys.argv` by default.
    stop: checked after each dispatch; by default one that SIGTERM and SIGHUP
      set.

  Returns:
    The exit status.
  """

  def command(arguments: list[str]) -> int:
    from sparsejax.training import run  # Needs the extra `train`.

    return run.run(arguments, stop=stop)

  return command_line.run(
    command,
    argv,
    name="sparsejax.train",
    doc=__doc__,
    hint=command_line.RESUME,
  )


def each(
  runs: Iterable[tuple[str, Sequence[str]]], *, total: int = 0
) -> Iterator[int]:
  """Run command lines one after another, in this process.

  SIGTERM or SIGHUP stops the current run, and every later one as it begins.
  From the second run on, the title says how long all that are left take if they
  take as long as those before.

  Args:
    runs: a title to print and the arguments, for each run.
    total: the number of runs; 0 if it is not known beforehand.

  Yields:
    The exit status of each run, before the next one starts.
  """
  began = time.monotonic()
  with preemption.stop_on_signals() as stop:
    for done, (title, argv) in enumerate(runs):
      seconds = time.monotonic() - began
      left = command_line.time_left(done, total, seconds) if total else ""
      print(title + left, flush=True)
      yield main(argv, stop=stop)
      jax.clear_caches()  # No other run compiles the same programs.


if __name__ == "__main__":
  sys.exit(main())
