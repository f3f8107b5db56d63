"""Figures, tables and reports, made from the records of runs alone.

Figures need matplotlib (`pip install sparsejax[plots]`); without it a report
has tables only.
"""

from sparsejax.plots.budgets import budget_table, plot_budgets
from sparsejax.plots.flops import plot_flops
from sparsejax.plots.report import REPORT, write_report
from sparsejax.plots.run import Run, has_matplotlib, plot_run, read_run

__all__ = [
  "REPORT",
  "Run",
  "budget_table",
  "has_matplotlib",
  "plot_budgets",
  "plot_flops",
  "plot_run",
  "read_run",
  "write_report",
]
