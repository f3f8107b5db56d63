"""Start runs of several processes, and wait for all of them."""

import os
import subprocess
import time

from helpers import trainer

HEARTBEAT_SECONDS = 10
# How long all may take to end once one of them is lost: jax notices within the
# heartbeat timeout, and on a busy machine the rest takes a while.
END_SECONDS = HEARTBEAT_SECONDS + 50
SMALL = (
  "--config.epochs=8",
  "--config.dispatch_steps=4",
  "--config.eval_every_epochs=1",
  "--config.checkpoint_every_epochs=1",
  "--config.log_every_steps=1",
  "--config.model.hidden=(32,)",
)
STEPS = 8 * 22
OPTIONS = "static,sparsity=0.9"  # The fastest to compile.


def start(
  workdir,
  count=2,
  *args,
  each=lambda index: (),
  options=OPTIONS,
  present=None,
  **others,
) -> list[subprocess.Popen]:
  """Starts processes that train together.

  Args:
    workdir: of the run.
    count: number of processes.
    *args: for all of them.
    each: index -> arguments for one of them.
    options: of the config.
    present: indices of the processes to start; all by default.
    **others: as for `trainer.start`.
  """
  port = trainer.free_port()
  return [
    trainer.start(
      workdir,
      *SMALL,
      f"--coordinator_address=127.0.0.1:{port}",
      f"--num_processes={count}",
      f"--process_id={index}",
      f"--heartbeat_timeout_seconds={HEARTBEAT_SECONDS}",
      *args,
      *each(index),
      options=options,
      **others,
      env={"XLA_FLAGS": os.environ["XLA_FLAGS"]},
    )
    for index in (range(count) if present is None else present)
  ]


def finish(started, *, seconds: float = 240) -> tuple[list[int], list[str]]:
  """Waits for all; returns exit statuses and outputs. None is left behind."""
  deadline = time.monotonic() + seconds
  try:
    ended = [
      trainer.finish(process, seconds=max(deadline - time.monotonic(), 1))
      for process in started
    ]
  finally:
    for process in started:
      process.kill()
  outputs = [(out or "") + (err or "") for _, out, err in ended]
  return [status for status, _, _ in ended], outputs


def end(started) -> None:
  """Kills what a failed test has left."""
  for process in started:
    if process.poll() is None:
      process.kill()
      process.communicate()
