"""Sparse training in JAX: masks that live in the optax state."""

from sparsejax import at_init, calibration, methods
from sparsejax.analysis.counted import DenseLeaf, LayerSummary, Summary
from sparsejax.analysis.multiplied import multiplied
from sparsejax.analysis.summary import assert_sparse, stats, summary
from sparsejax.at_init import prune_at_init
from sparsejax.calibration import calibrate, prune_with_calibration
from sparsejax.components import connectivity, criteria
from sparsejax.components.criteria import momentum, never_active_first
from sparsejax.components.distributions import (
  er,
  erk,
  uniform,
  uniform_whole,
)
from sparsejax.components.granularity import (
  at_least,
  blocks,
  filters,
  n_of_m,
)
from sparsejax.components.leaves import Override
from sparsejax.components.schedules import (
  cubic_curve,
  linear_curve,
  sigmoid_curve,
)
from sparsejax.components.scopes import (
  global_magnitude,
  global_scope,
  keep_alive,
  layerwise,
)
from sparsejax.components.storage import kept, zeroed
from sparsejax.method import (
  Accumulator,
  Context,
  Count,
  Criterion,
  Gate,
  Granularity,
  Initial,
  Input,
  Leaf,
  Method,
  Pattern,
  Prune,
  PruneAndRegrow,
  Quota,
  Scope,
  Span,
  Storage,
  Units,
)
from sparsejax.methods import *  # noqa: F403
from sparsejax.sparsify import SparseTransformation, sparsify
from sparsejax.state import (
  SparseState,
  apply_masks,
  freeze,
  get_masks,
  masks_from_params,
)

__version__ = "0.2.0"

__all__ = [
  "Accumulator",
  "Context",
  "Count",
  "Criterion",
  "DenseLeaf",
  "Gate",
  "Granularity",
  "Initial",
  "Input",
  "LayerSummary",
  "Leaf",
  "Method",
  "Override",
  "Pattern",
  "Prune",
  "PruneAndRegrow",
  "Quota",
  "Scope",
  "SparseState",
  "SparseTransformation",
  "Span",
  "Storage",
  "Summary",
  "Units",
  "__version__",
  "apply_masks",
  "assert_sparse",
  "at_init",
  "at_least",
  "blocks",
  "calibrate",
  "calibration",
  "connectivity",
  "criteria",
  "cubic_curve",
  "er",
  "erk",
  "filters",
  "freeze",
  "get_masks",
  "global_magnitude",
  "global_scope",
  "keep_alive",
  "kept",
  "layerwise",
  "linear_curve",
  "masks_from_params",
  "momentum",
  "multiplied",
  "n_of_m",
  "never_active_first",
  "prune_at_init",
  "prune_with_calibration",
  "sigmoid_curve",
  "sparsify",
  "stats",
  "summary",
  "uniform",
  "uniform_whole",
  "zeroed",
]
__all__ += methods.__all__
