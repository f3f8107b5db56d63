"""Pruning after training, by what each layer gets as inputs."""

from sparsejax.calibration.budgets import owl
from sparsejax.calibration.calibrate import Inputs, calibrate, output_errors
from sparsejax.calibration.comparisons import (
  Comparison,
  n_of_m,
  per_layer,
  per_output,
)
from sparsejax.calibration.pruning import Pruned, prune_with_calibration
from sparsejax.calibration.solvers import (
  Problem,
  Solver,
  fisher,
  magnitude,
  ria,
  scored,
  taylor,
  wanda,
)
from sparsejax.calibration.sparsegpt import sparsegpt
from sparsejax.calibration.statistics import GRAM, SQUARED_NORMS
from sparsejax.calibration.zeros import fake_quantize, merge_adapters

__all__ = [
  "GRAM",
  "SQUARED_NORMS",
  "Comparison",
  "Inputs",
  "Problem",
  "Pruned",
  "Solver",
  "calibrate",
  "fake_quantize",
  "fisher",
  "magnitude",
  "merge_adapters",
  "n_of_m",
  "output_errors",
  "owl",
  "per_layer",
  "per_output",
  "prune_with_calibration",
  "ria",
  "scored",
  "sparsegpt",
  "taylor",
  "wanda",
]
