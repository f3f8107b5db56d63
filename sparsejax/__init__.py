"""Sparse training in JAX: masks that live in the optax state."""

from sparsejax import at_init
from sparsejax.analysis.summary import (
  LayerSummary,
  Summary,
  assert_sparse,
  stats,
  summary,
)
from sparsejax.at_init import prune_at_init
from sparsejax.components import connectivity, criteria
from sparsejax.components.distributions import er, erk, uniform
from sparsejax.components.schedules import cubic_curve, sigmoid_curve
from sparsejax.components.scopes import (
  global_magnitude,
  global_scope,
  keep_alive,
  layerwise,
)
from sparsejax.components.storage import kept, zeroed
from sparsejax.components.trees import Override
from sparsejax.method import (
  Memory,
  Method,
  Order,
  Regrow,
  Scope,
  Seen,
  Storage,
)
from sparsejax.methods import (
  accset,
  deep_r,
  dense,
  dnw,
  dpf,
  dsr,
  dynset,
  gmp,
  granet,
  lset,
  momentum,
  never_active_first,
  one_shot,
  optg,
  rigl,
  rigl_itop,
  set_itop,
  snfs,
  soft_threshold,
  sparse_evolution,
  sr_ste,
  static,
  top_kast,
  track_ever_active,
)
from sparsejax.sparsify import sparsify
from sparsejax.state import (
  SparseState,
  apply_masks,
  freeze,
  get_masks,
  masks_from_params,
)

__version__ = "0.1.0"

__all__ = [
  "LayerSummary",
  "Method",
  "Memory",
  "Order",
  "Override",
  "Regrow",
  "Scope",
  "Seen",
  "SparseState",
  "Storage",
  "Summary",
  "__version__",
  "accset",
  "apply_masks",
  "assert_sparse",
  "at_init",
  "connectivity",
  "criteria",
  "cubic_curve",
  "deep_r",
  "dense",
  "dnw",
  "dpf",
  "dsr",
  "dynset",
  "er",
  "erk",
  "freeze",
  "get_masks",
  "global_magnitude",
  "global_scope",
  "gmp",
  "granet",
  "keep_alive",
  "kept",
  "layerwise",
  "lset",
  "masks_from_params",
  "momentum",
  "never_active_first",
  "one_shot",
  "optg",
  "prune_at_init",
  "rigl",
  "rigl_itop",
  "set_itop",
  "sigmoid_curve",
  "snfs",
  "soft_threshold",
  "sparse_evolution",
  "sparsify",
  "sr_ste",
  "static",
  "stats",
  "summary",
  "top_kast",
  "track_ever_active",
  "uniform",
  "zeroed",
]
