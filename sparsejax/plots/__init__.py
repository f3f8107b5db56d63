"""Figures, tables and reports from the records of runs.

Reports are complete by themselves. Figures in files need matplotlib (`pip
install sparsejax[plots]`).
"""

from sparsejax.plots.budgets import budget_table, plot_budgets
from sparsejax.plots.comparison import write_comparison
from sparsejax.plots.flops import plot_flops
from sparsejax.plots.panels import plot_panels
from sparsejax.plots.plasticity import plot_plasticity
from sparsejax.plots.records import Run, read_run
from sparsejax.plots.report import REPORT, write_report
from sparsejax.plots.results import (
  Average,
  Result,
  average_seeds,
  duplicate_seeds,
  read_results,
  result_table,
)
from sparsejax.plots.results_figure import plot_results
from sparsejax.plots.style import has_matplotlib

__all__ = [
  "REPORT",
  "Average",
  "Result",
  "result_table",
  "average_seeds",
  "duplicate_seeds",
  "plot_results",
  "read_results",
  "Run",
  "budget_table",
  "has_matplotlib",
  "plot_budgets",
  "plot_flops",
  "plot_panels",
  "plot_plasticity",
  "read_run",
  "write_comparison",
  "write_report",
]
