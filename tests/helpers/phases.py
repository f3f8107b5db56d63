"""What a run in another process is doing, seen from its workdir."""

import pathlib
import subprocess
import time
from collections.abc import Callable

from helpers import trainer

PATIENCE_SECONDS = 900  # A hang; a start takes long where much else runs.


class Phases:
  """A run that can be waited for; `workdir` is its folder."""

  workdir: pathlib.Path

  def wait(
    self,
    process: subprocess.Popen,
    phase: Callable[[subprocess.Popen], bool],
  ) -> bool:
    """Returns whether the phase was seen before the run ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None:
      assert time.monotonic() < deadline, (self, "the run hangs")
      if phase(process):
        return True
      time.sleep(0.0005)
    return False

  def loading(self, process: subprocess.Popen) -> bool:
    return True

  def compiling(self, process: subprocess.Popen) -> bool:
    lock = self.workdir / ".lock"
    return lock.exists() and f'"process": {process.pid},' in lock.read_text()

  def saving(self, process: subprocess.Popen) -> bool:
    folders = (self.workdir / "checkpoints", self.workdir / "weights")
    return self.compiling(process) and any(
      "orbax-checkpoint-tmp" in path.name
      for folder in folders
      if folder.exists()
      for path in folder.iterdir()
    )

  def training(self, process: subprocess.Popen, step: int) -> bool:
    return self.compiling(process) and trainer.last_step(self.workdir) >= step
