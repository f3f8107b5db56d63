"""Figures and reports, made from the records of a run alone.

Figures need matplotlib (`pip install sparsejax[plots]`); without it a report
has tables only.
"""

from sparsejax.plots.report import REPORT, write_report
from sparsejax.plots.run import Run, has_matplotlib, plot_run, read_run

__all__ = [
  "REPORT",
  "Run",
  "has_matplotlib",
  "plot_run",
  "read_run",
  "write_report",
]
