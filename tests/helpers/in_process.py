"""Runs of the trainer in this process, which compile an experiment once.

Whether a run that compiles anew continues with the same bits is what the tests
of processes show: `test_preemption`, `test_lm` and the tier of faults.
"""

from sparsejax.training import preemption, programs, session
from sparsejax.training.config.experiment import Experiment
from sparsejax.training.reporting.reporter import Reporter

_KEPT = 4
_compiled: list[tuple[Experiment, programs.Programs]] = []


def run(experiment, workdir, *, stop=None):
  """Returns the outcome, and the lines of messages and (step, row)s reported.

  An experiment with data in memory that is run once more, to resume it say,
  takes the programs of its first run.
  """
  lines = []
  reporter = Reporter(
    message=lines.append, progress=lambda step, row: lines.append((step, row))
  )

  def compiled(*args, trains):
    for known, found in _compiled:
      if known is experiment:
        return found
    found = programs.compile(*args, trains=trains)
    if trains:
      _compiled.append((experiment, found))
      del _compiled[:-_KEPT]
    return found

  outcome = session.run(
    experiment,
    workdir,
    stop=stop or preemption.StopRequest(),
    reporter=reporter,
    compile=compiled,
  )
  return outcome, lines
